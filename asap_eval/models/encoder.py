"""An image model as an encoder of video frames: features in place of class scores."""

from __future__ import annotations

import copy
import dataclasses
from typing import Literal

from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.hosts import geometry_of
from asap_eval.models import LoadedModel

Feature = Literal["pooled", "projected"]
"""``pooled``: the class token after the last norm (of a model that pools otherwise, what it pools
to), before any head; ``projected``: after CLIP's projection."""

HEADS = ("head", "head_dist")
"""What the models of the zoo end in: classifiers, or CLIP's projection."""


def encoder_of(loaded: LoadedModel, feature: Feature) -> LoadedModel:
    """A model that gives features ``[B, D]`` instead of scores; the given one stays as it is.

    Every module but the heads is shared, so hosts, ledger and speed see the same model.

    Raises:
        BadValueError: ``projected``, and the model's head is no projection; or a model with other
            heads than one on its pooled output.
    """
    model = loaded.model
    ends = [name for name, m in model.named_children() if "head" in name and [*m.parameters()]]
    if strange := set(ends) - set(HEADS):
        raise BadValueError(
            f"{loaded.name} has {', '.join(sorted(strange))} beside its head, so it has no one "
            "feature of a frame. Use a plain Vision Transformer or a CLIP tower."
        )
    if feature == "projected":
        if loaded.labels != "none" or width_of(model, feature) is None:
            raise BadValueError(
                f"bench.feature=projected needs a model that ends in a projection (CLIP, without "
                f"model.head); {loaded.name} does not. Use bench.feature=pooled."
            )
        return loaded
    headless = copy.copy(model)
    # A copy shares its table of modules until it is given one of its own.
    headless.__dict__["_modules"] = {**model._modules, **{name: nn.Identity() for name in ends}}
    return dataclasses.replace(loaded, model=headless)


def width_of(model: nn.Module, feature: Feature) -> int | None:
    """D of a model's features; None where it has no projection."""
    if feature == "projected":
        head = model._modules.get("head")
        return head.out_features if isinstance(head, nn.Linear) else None
    return geometry_of(model).width


def features(model: nn.Module, pixels: Tensor, ids: list[str]) -> Tensor:
    """``[B, D]`` fp32 on the CPU of frames ``[B, 3, H, W]``.

    Raises:
        AsapEvalError: they are not finite.
    """
    first = next(model.parameters())
    found: Tensor = model(pixels.to(first.device, first.dtype)).float().cpu()
    finite = found.isfinite().all(1)
    if not bool(finite.all()):
        raise AsapEvalError(
            f"The features of {ids[int((~finite).nonzero()[0])]} are not finite numbers. Half "
            "precision may overflow: use dtype=bfloat16 or dtype=float32."
        )
    return found
