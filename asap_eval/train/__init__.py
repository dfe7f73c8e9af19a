"""Trainings on frozen models: the parts of a method, and a linear head for videos."""
