"""Training token predictors on a frozen backbone: ``asap-eval train``."""

from asap_eval.train.predictors.job import TrainJob
from asap_eval.train.predictors.loop import train

__all__ = ["TrainJob", "train"]
