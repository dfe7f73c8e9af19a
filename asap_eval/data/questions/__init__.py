"""Questions about pictures: lmms-eval's tasks, their documents, prompts and scorers."""
