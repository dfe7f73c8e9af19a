"""Vision-language models: questions about pictures, and the latency of answers."""
