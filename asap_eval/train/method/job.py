"""What a training was asked for: the keys of ``asap-eval train``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from asap_eval.errors import BadValueError
from asap_eval.method import Reducer, build_from
from asap_eval.train.fits import fit_of
from asap_eval.train.fits.fit import Fit

COUNTS = ("epochs", "batch_size")
NUMBERS = ("keep", "target", "lr", "weight_decay", "ce", "kl", "ratio", "work", "features")


@dataclass
class TrainJob:
    """Keys and defaults; ``method.<option>=`` gives an option of the method.

    The keys of `RECIPE` left out are as the method's training has them (`Fit.recipe`).
    """

    method: str = ""  # one with something to train; a wrong name lists them
    how: str | None = None  # asvit: gradients (the default) | quantiles, a calibration
    model: str = ""  # as for asap-eval
    data: str = ""  # images, as for asap-eval, or a name; their labels are not used
    out: str = ""  # the file to write, .safetensors; of diffrate .json
    weights: str | None = None  # of the frozen backbone; null = its published ones
    keep: float | None = None  # keep rate: at the i-th place keep^i of the patches go on
    target: float | None = None  # wanted change of the model's MACs in percent, e.g. -35
    epochs: int | None = None  # passes over the images
    batch_size: int | None = None  # images in a step
    lr: float | None = None  # highest; warm-up over the first sixth, then a cosine to 0
    weight_decay: float | None = None  # of AdamW
    ce: float | None = None  # weight in the loss: cross-entropy to the unpruned model's first class
    kl: float | None = None  # weight in the loss: KL divergence from the unpruned model's classes
    ratio: float | None = None  # weight in the loss: share kept less keep^i, squared
    work: float | None = None  # weight in the loss: distance of the MACs from target
    features: float | None = None  # weight in the loss: KL divergence of the kept tokens
    limit: int | None = None  # the first n images; null = all
    sample: str = "first"  # first | spread: n evenly over the sorted list
    seed: int = 0  # of first values, order of the images and draws
    device: str = "cpu"  # cpu | cuda | cuda:1 ...
    workers: int | Literal["auto"] = 0  # processes that load images
    force: bool = False  # replace what is there
    debug: bool = False  # show stack traces
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    model_options: dict[str, Any] = field(default_factory=dict)  # as for asap-eval: num_classes ...

    @property
    def fit(self) -> type[Fit]:
        """The training of the method.

        Raises:
            AsapEvalError: no such method, or nothing of it is trained.
        """
        return fit_of(self.method, self.how)

    @property
    def recipe(self) -> dict[str, Any]:
        """A value for each key that the training reads, as given or its default.

        Raises:
            BadValueError: a key was given that it does not read.
        """
        own = self.fit.recipe
        given = {
            name: value
            for name in (*COUNTS, *NUMBERS)
            if (value := getattr(self, name)) is not None
        }
        if foreign := [name for name in given if name not in own]:
            raise BadValueError(
                f"{foreign[0]}={given[foreign[0]]:g} is no key of the training of "
                f"method={self.method}; it reads {', '.join(own)}."
            )
        return {**own, **given}

    def check(self) -> None:
        """Raise `BadValueError` or `UnknownNameError` for what cannot be trained."""
        for name in ("method", "model", "data", "out"):
            if not getattr(self, name):
                raise BadValueError(f"{name} is missing. asap-eval train --help lists the keys.")
        fit, recipe = self.fit, self.recipe
        if not self.out.endswith(fit.suffix):
            raise BadValueError(f"out={self.out}: give a file name that ends in {fit.suffix}.")
        for name in COUNTS:
            if name in recipe and recipe[name] < 1:
                raise BadValueError(f"{name}={recipe[name]}: give a number >= 1.")
        for name in NUMBERS:
            if name in recipe and name != "target" and not 0 <= recipe[name] < float("inf"):
                raise BadValueError(f"{name}={recipe[name]}: give a number >= 0.")
        if not -100 < recipe.get("target", -1) < 0:
            raise BadValueError(
                f"target={recipe['target']:g} is a change of the MACs in percent: give a value "
                "between -100 and 0, such as -35."
            )
        fit.check(recipe)
        if fit.option in self.options:
            raise BadValueError(f"method.{fit.option} is what training makes: give out=<file>.")

    def built(self) -> Reducer:
        """The method to train."""
        return build_from(self.method, self.options, self.fit.method_k(self.recipe))

    @property
    def deciding(self) -> dict[str, Any]:
        """What of it decides the result; the rest is how it is run."""
        how = ("out", "workers", "force", "debug")
        given = {key.name: getattr(self, key.name) for key in fields(self) if key.name not in how}
        return {**given, **self.recipe}
