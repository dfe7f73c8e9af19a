"""Videos: their lists, their frames, and batches of clips."""
