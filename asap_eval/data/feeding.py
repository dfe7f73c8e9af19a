"""Batches brought to the model's device: on a GPU the next one travels while the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from asap_eval.data.images import ImageBatch
from asap_eval.transfer import mark

Fed = tuple[ImageBatch, ImageBatch]
"""A batch as it was decoded, and the same one on the device."""


def fed(batches: Iterable[ImageBatch], device: torch.device) -> Iterator[Fed]:
    """Each batch beside itself on the device, in order.

    On a GPU the copies go through a queue of their own, one batch ahead of the model; of a batch in
    pinned memory none of them is waited for by the CPU.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch, batch.on(device)
        return
    copies = torch.cuda.Stream(device)
    ahead: tuple[ImageBatch, ImageBatch, torch.cuda.Event] | None = None
    for batch in batches:
        coming = _sent(batch, device, copies)
        if ahead is not None:
            yield _arrived(*ahead, device)
        ahead = coming
    if ahead is not None:
        yield _arrived(*ahead, device)


def _sent(
    batch: ImageBatch, device: torch.device, copies: torch.cuda.Stream
) -> tuple[ImageBatch, ImageBatch, torch.cuda.Event]:
    """A batch on its way, with the mark behind it in the queue of copies."""
    with torch.cuda.stream(copies):
        there = batch.on(device)
        return batch, there, mark(device)


def _arrived(
    batch: ImageBatch, there: ImageBatch, event: torch.cuda.Event, device: torch.device
) -> Fed:
    """What is queued for the model from now on finds the batch; the CPU does not wait."""
    model = torch.cuda.current_stream(device)
    model.wait_event(event)
    there.images.record_stream(model)  # else the queue of copies could take its memory again
    return batch, there
