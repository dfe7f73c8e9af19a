"""Time and memory as measured: speed beside the unpruned model, phases of an answer, peaks."""
