"""Which patch each image token of a prompt is, for methods that act in the language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.hosts.prompts import Prompts
from asap_eval.method import Prompt
from asap_eval.packing import NEWLINE, Crops


@dataclass(frozen=True)
class Packed:
    """The image tokens of one sample in the order in which they are handed on.

    Attributes:
        crop, place, cls_row: ``[n]``, ``[n, 2]`` and ``[H, n]``, as in `Prompt`.
    """

    crop: Tensor
    place: Tensor
    cls_row: Tensor | None


def packed(crops: Crops, order: Tensor, cls_rows: Tensor | None) -> Packed:
    """What the tokens of an order are; the crops have all their patches.

    Args:
        order: indices into the tokens of ``crops``, `NEWLINE` = a newline.
        cls_rows: ``[C, H, P]`` attention of the crops' class tokens.
    """
    newline, (above, left) = order == NEWLINE, crops.padding
    patch = torch.arange(len(crops.crop), device=order.device) % crops.source.shape[1]
    base, tile = _cell(patch, crops.grid[1]), _cell(crops.stitched.flatten(), crops.columns)
    shift = torch.tensor([above, left], device=order.device)
    place = torch.where((crops.crop == 0)[:, None], base, tile - shift)[order]
    # A newline stands behind the token before it.
    behind = place.roll(1, 0) + torch.tensor([0, 1], device=order.device)
    row = None
    if cls_rows is not None:
        row = cls_rows.transpose(0, 1).flatten(1)[:, order].masked_fill(newline, 0)
    return Packed(
        crop=crops.crop[order].masked_fill(newline, -1),
        place=torch.where(newline[:, None], behind, place),
        cls_row=row,
    )


def _cell(place: Tensor, columns: int) -> Tensor:
    """``[n, 2]`` row and column of places in raster order."""
    wide = max(columns, 1)
    return torch.stack([torch.div(place, wide, rounding_mode="floor"), place % wide], 1)


def prompt_of(prompts: Prompts, embeds: Tensor, samples: list[Packed]) -> Prompt:
    """What a method knows of the prompts; ``embeds`` is ``[S, N, D]``, padding at the end."""
    count, longest = embeds.shape[:2]
    crop = prompts.ids.new_full((count, longest), -1)
    place = prompts.ids.new_zeros(count, longest, 2)
    first = samples[0].cls_row
    rows = (
        None if first is None else embeds.new_zeros(count, len(first), longest, dtype=first.dtype)
    )
    for number, (start, sample) in enumerate(zip(prompts.start.tolist(), samples, strict=True)):
        span = slice(start, start + len(sample.crop))
        crop[number, span], place[number, span] = sample.crop, sample.place
        if rows is not None and sample.cls_row is not None:
            rows[number, :, span] = sample.cls_row
    return Prompt(prompts.lengths, prompts.start, prompts.count, embeds, crop, place, rows)
