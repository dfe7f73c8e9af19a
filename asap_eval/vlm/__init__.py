"""Questions about pictures: the tasks, their documents, and lmms-eval's prompts and scorers."""
