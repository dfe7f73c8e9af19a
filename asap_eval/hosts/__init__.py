"""Hosts run a method inside a model that somebody else wrote; a file for each kind of model."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn
from torch._dynamo import OptimizedModule

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts import hf_clip, llava, lv_vit, timm_vit
from asap_eval.hosts.backbone import Backbone
from asap_eval.hosts.geometry import Geometry, LlavaGeometry
from asap_eval.hosts.operators import check_work
from asap_eval.hosts.seam import Seam
from asap_eval.method import Reducer
from asap_eval.packing import Newline
from asap_eval.trace import Trace

__all__ = ["Geometry", "LlavaGeometry", "backbone_of", "geometry_of", "install", "llava_geometry"]

HOSTS = (timm_vit, hf_clip, lv_vit)

DEVICES = ("cpu", "cuda")
"""Kinds of device that methods run on."""


def backbone_of(model: nn.Module) -> Backbone:
    """The model as its host describes it; refuses by name what no host can run faithfully.

    Its ledger is compared with its operators, on the meta device, the first time it is seen.

    Raises:
        UnsupportedModelError: no host runs it, or it does other work than the ledger knows.
    """
    model = _uncompiled(model)
    for host in HOSTS:
        if host.recognises(model):
            found = host.backbone(model)
            check_work(found, host.backbone)
            return found
    raise UnsupportedModelError(
        f"No host for {type(model).__name__}. Supported: timm VisionTransformer "
        "(plain, distilled, LayerScale, registers, CNN stems, token/avg/map pooling), "
        "Hugging Face CLIPVisionModel, LLaVA-1.5 and LLaVA-NeXT (transformers 5.18 or later), and "
        "LV-ViT (asap_eval.models.lvvit)."
    )


def _uncompiled(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile` made of it; methods run in it uncompiled."""
    return model._orig_mod if isinstance(model, OptimizedModule) else model


def geometry_of(model: nn.Module) -> Geometry:
    """What of a model decides its work."""
    return backbone_of(model).geometry


def llava_geometry(model: nn.Module) -> LlavaGeometry:
    """What of a vision-language model decides its work.

    Raises:
        UnsupportedModelError: it is none, or one that cannot be run or counted faithfully.
    """
    model = _uncompiled(model)
    if not llava.recognises(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} is no supported vision-language model; supported: "
            f"{', '.join(llava.FAMILIES)}."
        )
    found = llava.geometry(model)
    llava.check_work(model, found)
    return found


def install(
    model: nn.Module, reducer: Reducer, *, seed: int = 0, newline: Newline = "kept"
) -> AbstractContextManager[Trace]:
    """A context manager in which the model runs with the method; yields its `Trace`.

    Args:
        model: a supported model in eval mode; untouched outside the ``with``.
        reducer: the method, from `asap_eval.method.build`.
        seed: seed of random choices, together with each image's id.
        newline: of LLaVA-NeXT alone; newlines among the tokens left (`packing.Newline`).

    Raises:
        UnsupportedModelError: the model, or the method on this model, cannot be run.
    """
    _check_device(model)
    model = _uncompiled(model)
    if llava.recognises(model):
        llava_geometry(model)  # refuses what cannot be counted
        return llava.LlavaSeam(model, reducer, seed, newline)
    return Seam(backbone_of(model), reducer, seed)


def _check_device(model: nn.Module) -> None:
    """Refuse a device on which nothing here was tested, such as Apple's Metal without float64."""
    first = next(model.parameters(), None)
    if first is not None and first.device.type not in (*DEVICES, "meta"):
        raise UnsupportedModelError(
            f"The model is on {first.device}; methods need float64 and run on "
            f"{' and '.join(DEVICES)}. Move it: model.to('cpu')."
        )
