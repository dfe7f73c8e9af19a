"""The paper beside the records: its tables, its claims, and what its own figures contradict."""
