"""Work in MACs: a closed form over the token counts a run really had.

Counted: convolutions, linear layers and both attention products. Not counted: softmax, norms,
activations, sorting and gathering. One multiply-accumulate is one MAC.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asap_eval.hosts.geometry import Geometry
from asap_eval.trace import Trace


def unpruned_macs(geometry: Geometry) -> float:
    """MACs of one image through the whole model."""
    return float(geometry.whole_macs)


def macs_of(geometry: Geometry, tokens: Sequence[int]) -> float:
    """MACs of one image with so many ``tokens`` in each block, prefix included; the stem makes all
    patches."""
    return float(geometry.macs(geometry.patches, tokens, tokens, tokens[-1]))


def model_macs(geometry: Geometry, trace: Trace) -> Tensor:
    """MACs of the model's own work for each image of a traced pass, ``[B]`` fp64.

    The method's own products are ``trace.method_macs``, a column of their own.
    """
    return geometry.macs(
        trace.patches.double(),
        trace.attention_tokens.double().unbind(),
        trace.mlp_tokens.double().unbind(),
        trace.lengths[-1].double(),
    )


def unpruned_attention_macs(geometry: Geometry) -> float:
    """The two products of attention in `unpruned_macs`."""
    return float(geometry.tokens**2 * sum(block.attention_pair for block in geometry.blocks))


def attention_macs(geometry: Geometry, trace: Trace) -> Tensor:
    """The two products of attention in `model_macs`, ``[B]`` fp64."""
    pairs = trace.attention_tokens.double() ** 2
    each = torch.tensor([block.attention_pair for block in geometry.blocks], dtype=torch.float64)
    return each @ pairs.cpu()
