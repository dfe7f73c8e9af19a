"""DiffRate's search: how many tokens each block prunes and merges, learnt on a frozen backbone.

The authors' proxy: each block has a probability for every count that it might leave, once for
pruning and once for merging. The expected count decides; the probability that a token of some rank
is left gives the decision its gradient. No token moves while it learns: pruned and merged ones are
masked in attention, and targets become means of what is merged into them.

Ours: a start from counts that fall in even steps and meet the target (theirs is one probability for
all counts, and three epochs of ImageNet to leave it), the unpruned model in place of labels, and
the distance of the work as a share of the model's (theirs is in GMACs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.files.placed import placed
from asap_eval.hosts import geometry_of, install
from asap_eval.hosts.geometry import Geometry
from asap_eval.kernels.nearest import nearest
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.methods.diffrate import DiffRate
from asap_eval.methods.parts.learnt_counts import FORMAT, Counts
from asap_eval.tokens import Reduction
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.losses import ce_loss, kl_loss
from asap_eval.train.fits.masked import check_output, softmax_policy

SPREAD = 1 / 20
"""Deviation of a count's first probabilities, as a share of the tokens."""

LEAST = 1.0
"""Of a token's size in training, as in the authors' code."""


class DiffRateFit(Fit):
    """Counts of every block but the first, which stays whole as the authors'."""

    of = DiffRate
    names = ("loss", "ce", "kl", "work", "gmacs")
    trained = "counts learnt by us"
    option = "counts"
    suffix = ".json"
    recipe = MappingProxyType(
        {
            **{"target": -35.0, "epochs": 3, "batch_size": 32, "lr": 0.05, "weight_decay": 0.0},
            **{"ce": 1.0, "kl": 0.5, "work": 100.0},
        }
    )

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        options = vars(asked.method)
        if given := [name for name in ("k", "prune", "merge") if options[name] is not None]:
            raise BadValueError(
                f"method.{given[0]} is a budget, and the search makes one: give target=<percent>."
            )
        check_output(asked.model, pixels)
        self.geometry = geometry_of(asked.model)
        if self.geometry.depth < 2:
            raise BadValueError("diffrate: a model of one block has no counts to learn.")
        start = even_counts(self.geometry, self.wanted["target"])
        self.logits = nn.Parameter(torch.stack([_around(count, self.geometry) for count in start]))
        """``[depth - 1, 2, P]`` of every count of patches left, from 1: by pruning, by merging."""

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        with torch.no_grad():
            teacher = model(pixels)
        masked = Sorted(self.logits, self.geometry)
        with install(model, masked):
            student = model(pixels)
        share = share_of_work(self.geometry, self.expected())
        parts = {
            "ce": ce_loss(student, teacher),
            "kl": kl_loss(student, teacher),
            "work": (share - 1 - self.wanted["target"] / 100).square(),
        }
        total = torch.stack([self.wanted[name] * value for name, value in parts.items()]).sum()
        return (total, *parts.values(), share.detach() * self.geometry.whole_macs / 1e9)

    def expected(self) -> Tensor:
        """``[depth - 1, 2]`` counts left, prefix included, with the gradients of their means."""
        return expected(self.logits, self.geometry.prefix)

    def counts(self) -> Counts:
        """Of all blocks."""
        whole = self.geometry.tokens
        rows = [[whole, whole], *self.expected().detach().round().int().tolist()]
        prune, merge = zip(*rows, strict=True)
        return Counts(tuple(prune), tuple(merge))

    def said(self) -> dict[str, str]:
        found = self.counts()
        share = share_of_work(self.geometry, self.expected()).item()
        return {
            "prune": json.dumps(found.prune),
            "merge": json.dumps(found.merge),
            "macs_change": f"{100 * (share - 1):.2f}",
        }

    def write(self, path: Path, said: Mapping[str, str]) -> None:
        content = as_file(path.stem, self.geometry, self.counts(), said)
        with placed(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def as_file(name: str, geometry: Geometry, counts: Counts, made: Mapping[str, str]) -> Any:
    """What a file of counts holds, which ``diffrate.counts`` takes.

    Args:
        name: of the counts. made: what the file says of its making.
    """
    more, whole = geometry.prefix - 1, geometry.whole_macs / 1e9
    done = counts.effective(geometry.tokens)
    seen = (geometry.tokens, *done.merge[:-1])
    work = geometry.macs(geometry.patches, seen, done.merge, done.merge[-1]) / 1e9
    rows = {"prune": [n - more for n in counts.prune], "merge": [n - more for n in counts.merge]}
    found: dict[str, Any] = {"unpruned": float(f"{whole:.6g}"), "budgets": {f"{work:.6g}": rows}}
    found |= {"depth": geometry.depth, "width": geometry.width, "tokens": geometry.tokens - more}
    return {"format": FORMAT, "made": dict(made), "counts": {name: found}}


def expected(logits: Tensor, prefix: int) -> Tensor:
    """``[..., P]`` logits to ``[...]`` counts, whole and with the gradients of their means."""
    left = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype, device=logits.device)
    mean = (logits.softmax(-1) * (left + prefix)).sum(-1)
    return mean + (mean.ceil() - mean).detach()


def chances(logits: Tensor) -> Tensor:
    """``[..., P]`` probability that the patch of each rank is left: that the count exceeds it."""
    return logits.softmax(-1).flip(-1).cumsum(-1).flip(-1)


def share_of_work(geometry: Geometry, counts: Tensor) -> Tensor:
    """MACs over the unpruned model's, from ``[depth - 1, 2]`` counts behind the first block."""
    tokens = counts.new_tensor(float(geometry.tokens))
    attention, mlp = [tokens], [tokens]
    for prune, merge in counts:
        attention.append(mlp[-1])
        mlp.append(torch.minimum(torch.minimum(mlp[-1], prune), merge))
    work = geometry.macs(tokens - geometry.prefix, attention, mlp, mlp[-1])
    return work / geometry.whole_macs


def even_counts(geometry: Geometry, target: float) -> list[tuple[float, float]]:
    """Where the search starts: patches fall by one number in each block, half of it pruned.

    Args:
        target: wanted change of the MACs, percent.

    Raises:
        BadValueError: even one patch left in the last block is too many.
    """
    steps = geometry.depth - 1

    def counts(fall: float) -> list[tuple[float, float]]:
        left = [geometry.tokens - fall * step for step in range(steps + 1)]
        return [((more + less) / 2, less) for more, less in pairwise(left)]

    def change(fall: float) -> float:
        return 100 * (share_of_work(geometry, torch.tensor(counts(fall))).item() - 1)

    low, high = 0.0, (geometry.patches - 1) / steps
    if change(high) > target:
        raise BadValueError(
            f"target={target:g}: counts that fall in even steps reach {change(high):.1f} % at "
            "most; give a smaller change."
        )
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if change(middle) > target else (low, middle)
    return counts(high)


def _around(count: tuple[float, float], geometry: Geometry) -> Tensor:
    """``[2, P]`` logits of a normal distribution around each count."""
    left = torch.arange(1, geometry.patches + 1) + geometry.prefix
    width = max(0.5, SPREAD * geometry.tokens)
    # Half below: means are rounded up.
    return torch.stack([-(((left - each + 0.5) / width) ** 2) / 2 for each in count])


@dataclass
class Sizes:
    """State of one masked pass.

    Attributes:
        policy: ``[B, N]`` 1 = left so far. size: ``[B, N]`` of the tokens, as similarities add.
        left: tokens left so far, prefix included. maps: ``[B, H, N, N]`` of the latest block.
    """

    policy: Tensor
    size: Tensor
    left: int
    maps: Tensor = field(default_factory=lambda: torch.empty(0))


class Sorted(Reducer):
    """DiffRate as it runs in the search: tokens keep their places.

    Args:
        logits: as `DiffRateFit.logits`.
    """

    name = "diffrate"
    site = "between"
    requires_cls = True

    def __init__(self, logits: Tensor, geometry: Geometry) -> None:
        self.whole = expected(logits, geometry.prefix).int().tolist()
        self.chance = chances(logits)
        self.state: Sizes

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    def begin(self, batch: Batch) -> Sizes:
        ones = torch.ones(batch.count, batch.tokens, device=batch.device)
        self.state = Sizes(ones, ones, batch.tokens)
        return self.state

    def attends(self, block: int, state: Sizes) -> bool:
        return block > 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Sizes) -> Tensor:
        logits = q @ k.mT * q.shape[-1] ** -0.5 + state.size.log()[:, None, None]
        state.maps = softmax_policy(logits, state.policy)
        return state.maps @ v

    def watch(self, block: int, state: Sizes) -> bool:
        return block > 1

    def decide(self, view: View, state: Sizes) -> Reduction | None:
        (prune, merge), chance = self.whole[view.block - 2], self.chance[view.block - 2]
        rank = ranks(state.maps[:, :, 0].mean(1), state.policy, view.prefix)
        if prune < state.left:
            state.policy = state.policy * straight(rank, prune, state.left, chance[0], view.prefix)
            state.left = prune
        if merge >= state.left:
            return None
        moved = self._merge(view.features, rank, merge, state, view.prefix)
        state.policy = state.policy * straight(rank, merge, state.left, chance[1], view.prefix)
        state.left = merge
        return moved

    def _merge(self, x: Tensor, rank: Tensor, merge: int, state: Sizes, prefix: int) -> Reduction:
        """Targets as means of themselves and their sources, which stay where they are, masked."""
        order = rank.argsort(dim=1)
        targets, source = order[:, prefix:merge], order[:, merge : state.left]
        cosine, found = nearest(x.detach()[:, None], source, targets)
        target = targets.gather(1, found)
        mix = torch.eye(x.shape[1], device=x.device).repeat(len(x), 1, 1)
        image = torch.arange(len(x), device=x.device)[:, None]
        mix[image, target, source] = 1
        members = mix.sum(-1)
        added = state.size.gather(1, source) * cosine.detach()
        state.size = state.size.scatter_add(1, target, added).clamp(min=LEAST)
        place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        return Reduction(place, mix=mix / members[..., None])


def ranks(importance: Tensor, policy: Tensor, prefix: int) -> Tensor:
    """``[B, N]`` place of each token: prefix, tokens left by falling importance, masked ones."""
    first = torch.arange(importance.shape[1], device=importance.device) < prefix
    key = importance.detach().masked_fill(policy <= 0, -1).masked_fill(first, math.inf)
    return key.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def straight(rank: Tensor, count: int, before: int, chance: Tensor, prefix: int) -> Tensor:
    """``[B, N]`` 1 = left, with the gradient of the probability to be left.

    Args:
        rank: ``[B, N]``. count: tokens left. before: those there were; masked ones stay so.
        chance: ``[P]`` by rank among the patches.
    """
    soft = torch.cat([chance.new_ones(prefix), chance])[rank]
    hard = ((rank < count) | (rank >= before)).to(soft.dtype)
    return hard + soft - soft.detach()
