"""Training token predictors on a frozen backbone: ``asap-train``."""

from asap_eval.train.job import TrainJob
from asap_eval.train.loop import train

__all__ = ["TrainJob", "train"]
