"""VisionZip: Longer is Better but Not Necessary in Vision Language Models (Yang et al.,
arXiv 2412.04467).

The tokens that the class token attends to most are handed to the language model as they are; every
other token is added to one of a few evenly spaced ones, the nearest by key.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.tokens import DROPPED, Reduction


def compress(
    cls_row: Tensor, keys: Tensor, dominant: int, contextual: int, prefix: int
) -> Reduction:
    """Dominant tokens in their order, the prefix first, then the contextual ones.

    A contextual token is its target plus the mean of the tokens assigned to it: a sum, not a mean.

    Args:
        cls_row: ``[b, H, N]`` attention of the class token. keys: ``[b, H, N, d]``.
        dominant: tokens kept as they are, the prefix included.
        contextual: targets of the others; with 0 the others are dropped.
    """
    images, tokens = cls_row.shape[0], cls_row.shape[2]
    attention = cls_row.sum(1)[:, prefix:]
    rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = F.pad(rank < dominant - prefix, (prefix, 0), value=True)
    group = torch.where(kept, kept.long().cumsum(1) - 1, DROPPED)
    weight = torch.ones_like(kept, dtype=attention.dtype)
    if contextual == 0 or dominant == tokens:
        return Reduction(group, weight)

    # Positions among the rest: the same number, and so the same targets, for every image.
    rest = (~kept).nonzero()[:, 1].view(images, tokens - dominant)
    step = max(1, rest.shape[1] // contextual)
    target = torch.arange(0, rest.shape[1], step, device=rest.device)[:contextual]
    metric = keys.mean(1).to(torch.promote_types(keys.dtype, torch.float32))
    unit = F.normalize(metric, dim=-1).take_along_dim(rest[..., None], 1)
    nearest = (unit @ unit[:, target].mT).argmax(2)
    nearest[:, target] = torch.arange(len(target), device=rest.device)

    assigned = F.one_hot(nearest, len(target)).sum(1) - 1
    share = 1 / assigned.gather(1, nearest).clamp(min=1)
    share[:, target] = 1
    group.scatter_(1, rest, dominant + nearest)
    weight.scatter_(1, rest, share.to(weight.dtype))
    return Reduction(group, weight)
