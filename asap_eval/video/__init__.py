"""Videos: where they lie, which of their frames are read, features of frames, heads on top."""
