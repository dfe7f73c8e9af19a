"""What a training was asked for: the keys of ``asap-eval train``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from asap_eval.errors import BadValueError
from asap_eval.method import build_from, method_class, methods
from asap_eval.methods.parts.learned import Learned


@dataclass
class TrainJob:
    """Keys and defaults; ``method.<option>=`` gives an option of the method."""

    method: str = ""  # dynamicvit | spot
    model: str = ""  # as for asap-eval
    data: str = ""  # images, as for asap-eval, or a name; their labels are not used
    out: str = ""  # the file to write, .safetensors
    weights: str | None = None  # of the frozen backbone; null = its published ones
    keep: float = 0.7  # keep rate: at the i-th place keep^i of the patches go on
    epochs: int = 30  # passes over the images
    batch_size: int = 32  # images in a step
    lr: float = 1e-3  # highest; warm-up over the first sixth, then a cosine to 0
    weight_decay: float = 0.05  # of AdamW
    ce: float = 1.0  # weight in the loss: cross-entropy to the unpruned model's first class
    kl: float = 0.5  # weight in the loss: KL divergence from the unpruned model's classes
    ratio: float = 2.0  # weight in the loss: distance of the share kept from keep^i, squared
    limit: int | None = None  # the first n images; null = all
    sample: str = "first"  # first | spread: n evenly over the sorted list
    seed: int = 0  # of first values, order of the images and draws
    device: str = "cpu"  # cpu | cuda | cuda:1 ...
    workers: int | Literal["auto"] = 0  # processes that load images
    force: bool = False  # replace what is there
    debug: bool = False  # show stack traces
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    model_options: dict[str, Any] = field(default_factory=dict)  # as for asap-eval: num_classes ...

    def check(self) -> None:
        """Raise `BadValueError` or `UnknownNameError` for what cannot be trained."""
        for name in ("method", "model", "data", "out"):
            if not getattr(self, name):
                raise BadValueError(f"{name} is missing. asap-eval train --help lists the keys.")
        if not issubclass(method_class(self.method), Learned):
            able = [name for name, cls in methods().items() if issubclass(cls, Learned)]
            raise BadValueError(
                f"method={self.method} has no predictors to train; {' and '.join(able)} have."
            )
        if not self.out.endswith(".safetensors"):
            raise BadValueError(f"out={self.out}: give a file name that ends in .safetensors.")
        if not 0 < self.keep < 1:
            raise BadValueError(f"keep={self.keep:g} is a keep rate: give a value between 0 and 1.")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadValueError(f"{name}={getattr(self, name)}: give a number >= 1.")
        for name in ("lr", "weight_decay", "ce", "kl", "ratio"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadValueError(f"{name}={getattr(self, name)}: give a number >= 0.")
        if "checkpoint" in self.options:
            raise BadValueError("method.checkpoint is what training makes: give out=<file>.")

    def built(self) -> Learned:
        """The method to train."""
        return cast(Learned, build_from(self.method, self.options, self.keep))

    @property
    def deciding(self) -> dict[str, Any]:
        """What of it decides the result; the rest is how it is run."""
        how = ("out", "workers", "force", "debug")
        return {key.name: getattr(self, key.name) for key in fields(self) if key.name not in how}
