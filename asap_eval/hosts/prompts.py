"""Prompts whose image placeholders are made as many as the image tokens that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asap_eval.errors import BadValueError


@dataclass(frozen=True)
class Prompts:
    """Prompts of one image each, padded on the left.

    Attributes:
        ids: ``[S, N]``. mask: ``[S, N]`` 1 = valid. start: ``[S]`` place of the first image token
            in the prompt without padding. count: ``[S]`` image tokens.
    """

    ids: Tensor
    mask: Tensor
    start: Tensor
    count: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[S]`` tokens of each prompt."""
        return self.mask.sum(1)

    @staticmethod
    def of(ids: Tensor, mask: Tensor, *, image: int, counts: Sequence[int], pad: int) -> Prompts:
        """The prompts with ``counts`` placeholders each; where nothing is surplus, unchanged.

        Args:
            ids: ``[S, N]`` with one run of ``image`` tokens a row. mask: ``[S, N]``.
            image: id of the placeholder. counts: image tokens of each row. pad: id of padding.

        Raises:
            BadValueError: a row without image, or with more than one.
        """
        if len(ids) != len(counts):
            raise BadValueError(
                f"{len(counts)} images for {len(ids)} prompts: give exactly one image a prompt."
            )
        rows, starts, surplus = [], [], False
        for number, (row, valid, count) in enumerate(zip(ids, mask, counts, strict=True)):
            row = row[valid.bool()]
            places = (row == image).nonzero().flatten()
            found = len(places)
            if found == 0 or int(places[-1] - places[0]) != found - 1:
                kind = "no image" if found == 0 else "images in several places"
                raise BadValueError(f"Prompt {number} has {kind}: give exactly one image a prompt.")
            first = int(places[0])
            surplus |= found != count
            run = row.new_full((count,), image)
            rows.append(torch.cat([row[:first], run, row[first + found :]]))
            starts.append(first)
        start, count_ = (torch.tensor(v, device=ids.device) for v in (starts, list(counts)))
        if surplus:
            longest = max(map(len, rows))
            ids = torch.stack([_left(row, longest, pad) for row in rows])
            mask = torch.stack([_left(torch.ones_like(row), longest, 0) for row in rows]).to(mask)
        return Prompts(ids, mask, start, count_)

    def restored(self, generated: Any, given: Tensor) -> Any:
        """What `generate` returned, with the prompts as they were given in front."""
        if self.ids is given:
            return generated
        sequences = generated if isinstance(generated, Tensor) else generated.sequences
        times = len(sequences) // len(given)
        fronts = given.repeat_interleave(times, 0)
        whole = torch.cat([fronts, sequences[:, self.ids.shape[1] :]], 1)
        if isinstance(generated, Tensor):
            return whole
        generated.sequences = whole
        return generated


def _left(row: Tensor, length: int, value: int) -> Tensor:
    """``[length]``: the row behind padding."""
    return torch.cat([row.new_full((length - len(row),), value), row])
