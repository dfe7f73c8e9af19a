"""Follows the walk through the unpruned model, and keeps its figures for every image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import asap_eval.bench.walk.random_walk as walk
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import Reduction

DIGITS = 7
"""Significant digits kept of an fp32 figure."""


@dataclass
class Walked:
    """The walk of one forward pass.

    Attributes:
        batch: the batch.
        chain: ``[B, N, N]`` fp32, C of the latest block.
        inner: ``[B, P, P]`` the chain over patches alone, or None (``chain="full"``).
        mass: column masses that fire images: ``[B, N]``, or ``[B, P]`` of ``inner``.
        sinks: ``[B]`` sink of the latest block in every reading, from 0 without the prefix.
        blocks: by name, ``[B]`` figures of block 1, 2, ...
        steps: by reading and name, ``[B]`` figures of the steps into block 2, 3, ...
        total: C of block 1, 2, ... summed over the images, ``[N, N]`` fp64.
        single: position in the batch: C of block 1, 2, ... of that image, ``[N, N]``.
    """

    batch: Batch
    chain: Tensor
    inner: Tensor | None
    mass: Tensor
    sinks: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, list[Tensor]] = field(default_factory=dict)
    steps: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    total: list[Tensor] = field(default_factory=list)
    single: dict[int, list[Tensor]] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """What the per-sample file keeps of each image: lists over blocks (see `WalkObserver`)."""
        blocks = {name: _numbers(values) for name, values in self.blocks.items()}
        steps = {
            reading: {name: _numbers(values) for name, values in figures.items()}
            for reading, figures in self.steps.items()
        }
        return [
            {
                **{name: values[image] for name, values in blocks.items()},
                "steps": {
                    reading: {name: values[image] for name, values in figures.items()}
                    for reading, figures in steps.items()
                },
            }
            for image in range(self.batch.count)
        ]


class WalkObserver(Reducer):
    """Removes nothing. ``latest`` holds the pass that ran last.

    Figures of a block: ``peak`` heaviest patch column, ``peak_with_prefix`` heaviest of all
    columns of C, ``heaviest`` that patch, ``sink`` the patch with most of the class token's row of
    C (only where there is a class token), ``distance`` mean distance of the other patches' rows to
    the sink's (to the heaviest's without a class token), ``spearman`` rank correlation of those
    distances with the mass-weighted ones (the sink's own zero, which agrees by itself, left out),
    ``spread`` and ``rank`` of all rows.

    Figures of a step, for the sink of the block before it in each reading (``heaviest``, ``cls``):
    its mass ``before`` and ``after``, and, where the order is ``walk``, ``inflow`` and ``outflow``.

    With ``chain="patches"`` masses, ``peak``, ``heaviest`` and the steps are of the chain over
    patches alone, as they are where ASAP fires; everything else is of C.
    """

    name: ClassVar[str] = "walk"

    def __init__(
        self, *, alpha: float, order: walk.Order, chain: Literal["full", "patches"]
    ) -> None:
        self.alpha, self.order, self.chain = alpha, order, chain
        self.keep: Collection[str] = ()
        """Ids of the images whose C is kept whole."""
        self.latest: Walked | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION})

    def begin(self, batch: Batch) -> Walked:
        inner = None
        if self.chain == "patches":
            inner = walk.start(batch.count, batch.patches, batch.device)
        chain = walk.start(batch.count, batch.tokens, batch.device)
        mass = walk.column_mass(chain if inner is None else inner)
        walked = Walked(batch, chain, inner, mass)
        if self.keep:
            ids = [batch.id_of(image) for image in range(batch.count)]
            walked.single = {at: [] for at, name in enumerate(ids) if name in self.keep}
        self.latest = walked
        return walked

    def watch(self, block: int, state: Walked) -> bool:
        return True

    def decide(self, view: View, state: Walked) -> Reduction | None:
        attention, prefix = view.attention.float(), view.prefix
        before = state.mass
        state.chain = walk.step(state.chain, attention, self.alpha, self.order)
        moved, skip = attention, prefix
        if state.inner is not None:
            moved, skip = walk.among_patches(attention, prefix), 0
            state.inner = walk.step(state.inner, moved, self.alpha, self.order)
        state.mass = walk.column_mass(state.chain if state.inner is None else state.inner)
        self._step(state, before, moved, skip)
        self._block(state, state.mass[:, skip:], prefix)
        state.total.append(state.chain.sum(0, dtype=torch.float64))
        for image, blocks in state.single.items():
            blocks.append(state.chain[image].clone())
        return None

    def _step(self, state: Walked, before: Tensor, moved: Tensor, skip: int) -> None:
        """What the step from the block before did to its sinks; nothing before block 2."""
        for reading, sink in state.sinks.items():
            column = sink + skip
            figures = {"before": walk.at(before, column), "after": walk.at(state.mass, column)}
            if self.order == "walk":
                figures["inflow"], figures["outflow"] = walk.flows(before, moved, column)
            for name, values in figures.items():
                state.steps.setdefault(reading, {}).setdefault(name, []).append(values)

    def _block(self, state: Walked, mass: Tensor, prefix: int) -> None:
        """Figures of the block that has just run, and its sinks; ``mass`` is ``[B, P]``."""
        chain = state.chain
        peak, heaviest = mass.max(1)
        state.sinks = {"heaviest": heaviest}
        sink = heaviest
        if state.batch.has_cls:
            sink = state.sinks["cls"] = chain[:, 0, prefix:].argmax(1)
        plain = walk.distances(chain, sink, prefix)
        weighted = walk.distances(chain, sink, prefix, weighted=True)
        others = walk.without(plain, sink)
        figures = {
            "peak": peak,
            "peak_with_prefix": walk.column_mass(chain).amax(1),
            "heaviest": heaviest,
            **({"sink": sink} if state.batch.has_cls else {}),
            "distance": others.mean(1),
            "spearman": walk.rank_correlation(others, walk.without(weighted, sink)),
            "spread": walk.spread(chain),
            "rank": walk.effective_rank(chain),
        }
        for name, values in figures.items():
            state.blocks.setdefault(name, []).append(values)


def _numbers(values: list[Tensor]) -> list[list[Any]]:
    """``[B]`` figures of several blocks as lists per image; None where one is not defined."""
    table = torch.stack(values, 1).tolist()
    return [[_number(value) for value in row] for row in table]


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if value != value else float(f"{value:.{DIGITS}g}")
