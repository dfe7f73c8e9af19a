"""Work of the paper's models, from our own ledger over their shapes; no weights, no memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import timm
import torch

from asap_eval.hosts import Geometry, geometry_of, llava_geometry
from asap_eval.models import model_specs
from asap_eval.models.lvvit import lvvit_s
from asap_eval.models.vlm import check_transformers, shape_of
from asap_eval.work.language import VlmMacs, unpruned_prefill
from asap_eval.work.macs import macs_of, unpruned_macs

MODELS = {
    "DeiT-Base": "deit_base",
    "DeiT-B": "deit_base",
    "DeiT-Small": "deit_small",
    "DeiT-Tiny": "deit_tiny",
    "ViT-AugReg": "vit_small_augreg",
    "LV-ViT-S": "lvvit_s",
    "ClipViT-Large": "clip_vit_l14_336",
    "ClipViT-L": "clip_vit_l14_336",
}
"""Our name of the model that the paper's image tables mean."""


@cache
def geometry(model: str) -> Geometry:
    """Of an image model of ours, built on the meta device."""
    spec = model_specs()[model]
    with torch.device("meta"):
        net = timm.create_model(spec.timm) if spec.timm else lvvit_s()
    return geometry_of(net.eval())


def gmacs(model: str) -> float:
    """GMACs of the unpruned model for one image."""
    return unpruned_macs(geometry(model)) / 1e9


def gmacs_without_products(model: str) -> float:
    """The same without both attention products, as counters that miss fused attention have it."""
    whole = geometry(model)
    blocks = tuple(replace(block, attention_pair=0) for block in whole.blocks)
    return unpruned_macs(replace(whole, blocks=blocks)) / 1e9


def most_saved(model: str, block: int) -> float:
    """Percent of the model's work that is left out where every patch goes after a block, from 1,
    and nothing is done in their place: no reduction there can save more."""
    whole = geometry(model)
    counts = [whole.tokens] * block + [whole.prefix] * (whole.depth - block)
    return 100 * (1 - macs_of(whole, counts) / unpruned_macs(whole))


def walk_gmacs(model: str) -> float:
    """GMACs of the walk over all blocks: one product of two ``[N, N]`` matrices a block, as the
    method's own column of a record counts them."""
    whole = geometry(model)
    return whole.depth * whole.tokens**3 / 1e9


def prefill(model: str, image_tokens: int, text: int, crops: int) -> VlmMacs:
    """MACs of one prompt through a vision-language model, to the first logits.

    Raises:
        UnsupportedModelError: transformers is missing.
    """
    check_transformers()
    return unpruned_prefill(
        llava_geometry(shape_of(model_specs()[model])), image_tokens, text, crops
    )
