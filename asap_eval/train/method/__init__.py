"""Training the parts of a method on a frozen backbone: ``asap-eval train``."""

from asap_eval.train.method.job import TrainJob
from asap_eval.train.method.loop import train

__all__ = ["TrainJob", "train"]
