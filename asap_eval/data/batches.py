"""Batches of samples in a given order, the same ones for any number of worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from asap_eval.errors import BadValueError

Item = TypeVar("Item")
Made = TypeVar("Made")


def consecutive(start: int, total: int, size: int) -> list[list[int]]:
    """Samples of each batch from ``start`` on; the last batch has those that are left."""
    return [list(range(at, min(at + size, total))) for at in range(start, total, size)]


def batches_of(
    samples: Dataset[Item],
    batches: Sequence[list[int]],
    workers: int,
    collate: Callable[[list[Item]], Made],
    *,
    pinned: bool = False,
) -> Iterator[Made]:
    """What ``collate`` makes of each batch.

    Args:
        batches: samples of each. workers: processes that load samples; 0 = this one does.
        pinned: put each batch into memory that a GPU can copy from by itself; what ``collate``
            makes then needs a method ``pin_memory``.

    Raises:
        BadValueError: fewer than no workers.
    """
    if workers < 0:
        raise BadValueError(f"workers={workers}: give a number of processes >= 0.")
    loader = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
        generator=torch.Generator(),  # its own: the loader would draw from the global one
    )
    return iter(loader)
