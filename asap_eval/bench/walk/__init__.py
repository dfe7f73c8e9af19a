"""The random walk of the unpruned model, block by block."""
