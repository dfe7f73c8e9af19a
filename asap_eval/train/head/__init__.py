"""A linear head on frozen features of videos: ``stage=train``."""
