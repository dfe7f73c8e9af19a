"""How a batch of sequences lies in memory: a dense block, or packed end to end.

While all images have the same length the batch is ``[B, N, D]``. Where lengths differ it is one
long sequence ``[1, T, D]`` with ``T = sum of the lengths``, so that padding costs nothing, and only
the attention call sees the images. A packed batch holds the longest images first, so that images
of one length are neighbours and can be taken as one block.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from asap_eval.transfer import to_device


@dataclass(frozen=True)
class Layout:
    """Lengths of the images of a batch, known to the CPU.

    Attributes:
        lengths: tokens of each image, prefix included.
    """

    lengths: tuple[int, ...]

    @cached_property
    def dense(self) -> bool:
        """Whether all images have the same length (then the batch is ``[B, N, D]``)."""
        return len(set(self.lengths)) <= 1

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Images in the order they lie in memory: longest first, otherwise as in the batch."""
        return tuple(sorted(range(len(self.lengths)), key=lambda image: -self.lengths[image]))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Row of each image's first token when the batch lies as ``[T, D]``."""
        starts, row = [0] * len(self.lengths), 0
        for image in self.order:
            starts[image] = row
            row += self.lengths[image]
        return tuple(starts)

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def _there(self) -> dict[object, Any]:
        """Indices that are on a device already, by device and name."""
        return {}

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """First row and length of each image, ``[B]`` each."""
        if device not in self._there:
            self._there[device] = to_device([self.starts, self.lengths], device).unbind(0)
        starts, lengths = self._there[device]
        return starts, lengths

    def ends(self, device: torch.device) -> Tensor:
        """``[B + 1]`` int32: 0, and the row behind each image in the order of memory."""
        if (device, "ends") not in self._there:
            ends = itertools.accumulate((self.lengths[i] for i in self.order), initial=0)
            self._there[device, "ends"] = to_device(list(ends), device).int()
        return cast(Tensor, self._there[device, "ends"])

    def rows(self, device: torch.device) -> Tensor:
        """``[B, longest]`` row of each token in ``[T, D]``; padding points one past the end."""
        if (device, "rows") not in self._there:
            place = torch.arange(self.longest, device=device)
            start, length = (values[:, None] for values in self.places(device))
            rows = torch.where(place < length, start + place, self.total)
            self._there[device, "rows"] = rows
        return cast(Tensor, self._there[device, "rows"])

    def flat(self, x: Tensor) -> Tensor:
        """``[T, ...]`` from ``[B, N, ...]`` (dense) or ``[1, T, ...]`` (packed)."""
        return x.flatten(0, 1)

    def flat_of_padded(self, values: Tensor) -> Tensor:
        """``[T]`` in the order of memory from padded ``[B, longest]``."""
        if self.dense:
            return values.flatten()
        out = values.new_empty(self.total + 1)
        out[self.rows(values.device)] = values
        return out[:-1]

    def shaped(self, x: Tensor) -> Tensor:
        """``[B, N, ...]`` (dense) or ``[1, T, ...]`` (packed) from ``[T, ...]``."""
        if self.dense:
            return x.unflatten(0, (len(self.lengths), self.lengths[0]))
        return x[None]

    def padded(self, x: Tensor) -> Tensor:
        """``[B, longest, ...]``, zeros as padding, from ``[B, N, ...]`` or ``[1, T, ...]``."""
        if self.dense:
            return x
        flat = torch.cat([x[0], x.new_zeros(1, *x.shape[2:])])
        return flat[self.rows(x.device)]

    def packed(self, x: Tensor) -> Tensor:
        """``[B, N, ...]`` or ``[1, T, ...]``, as the images lie in memory, from `padded`."""
        if self.dense:
            return x
        rows = self.rows(x.device).flatten()
        return x.flatten(0, 1)[rows.argsort()[: self.total]][None]

    def images(self, flat: Tensor, picked: list[int]) -> Tensor:
        """``[b, longest picked, ...]`` of some images, zeros as padding, from ``[T, ...]``."""
        if self.dense and picked == list(range(len(self.lengths))):
            return self.shaped(flat)
        parts = [flat[self.starts[i] : self.starts[i] + self.lengths[i]] for i in picked]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def runs(self, apart: Collection[int] = ()) -> list[list[int]]:
        """All images in the order of memory, in runs of one length.

        Args:
            apart: images that share no run with the others.
        """
        runs: list[list[int]] = []
        for image in self.order:
            last = runs[-1][-1] if runs else None
            if (
                last is not None
                and self.lengths[last] == self.lengths[image]
                and (last in apart) == (image in apart)
            ):
                runs[-1].append(image)
            else:
                runs.append([image])
        return runs


def by_token(t: Tensor) -> Tensor:
    """``[T, H, d]`` from ``[B, H, N, d]`` or ``[1, H, T, d]``; a view of a model's fused qkv."""
    return t.transpose(1, 2).flatten(0, 1)
