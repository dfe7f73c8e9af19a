"""CAPA: contribution-aware pruning and FFN approximation (Jha & Kim, arXiv 2602.00247): our reading
of the abstract and a note on it, the full text and code not being at hand.

In a few layers of the language model the image tokens that change the last word's state most go
on: attention times value, through the output weights. The MLP of image tokens may be replaced by a
scale and a shift for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asap_eval.checkpoint import check_there, read_checkpoint, stamped
from asap_eval.errors import BadValueError
from asap_eval.files.digests import file_sha256
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import Reduction


@dataclass
class Layers:
    """State of one forward pass.

    Attributes:
        batch: the batch. keep: image tokens kept, by block from 1. maps: scale and shift ``[D]`` of
            image tokens' MLPs, by block from 1.
    """

    batch: Batch
    keep: dict[int, int]
    maps: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@register(
    "capa_reading",
    Card(
        paper="CAPA, arXiv 2602.00247 (our reading)",
        licence="none public",
        training="training-free; calibrated on images where method.ffn is given",
        knob="k",
        knob_meaning="image tokens kept at the last acting layer, from 1; those before it keep "
        "more, in even steps",
        fixed_count=True,
        deviations="a reading: no code and no full text at hand. Queries (the last word of the "
        "prompt), layers, budgets, kept position ids and the form of the MLP's replacement are "
        "choices",
    ),
)
@dataclass
class CapaReading(Reducer):
    """Keep the image tokens that contribute most to the last word, layer by layer, in order.

    Attributes:
        k: image tokens kept at the last acting layer; the others come down to it in even steps.
        layers: acting layers, counted from 0; None = L / 4, L / 2 and 3 L / 4.
        keep: image tokens kept at each of them from the first on, never rising, instead of ``k``.
        ffn: file of tensors ``scale.<layer>`` and ``shift.<layer>`` ``[D]``, layers from 0, that
            stand in for the MLP of image tokens there, fitted as `channelwise` does; None = no MLP
            is replaced.
    """

    k: int = 64
    layers: list | None = None
    keep: list | None = None
    ffn: str | None = None
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ROWS, Need.VALUES, Need.OUT_PROJECTION})

    def _blocks(self, depth: int) -> list[int]:
        """Acting blocks from 1."""
        return [at + 1 for at in locations(self.name, self.layers, depth)]

    def look(self) -> None:
        if self.ffn is not None:
            calibrated(self.ffn)

    def check(self, batch: Batch) -> None:
        blocks = self._blocks(batch.depth)
        if self.k < 1:
            raise BadValueError(f"capa_reading: k={self.k}: give at least one image token.")
        if self.keep is not None and (
            len(self.keep) != len(blocks) or not all(type(n) is int and n >= 1 for n in self.keep)
        ):
            raise BadValueError(
                f"capa_reading: keep={self.keep} for layers {[b - 1 for b in blocks]}: give one "
                "number >= 1 for each."
            )
        if self.keep is not None and sorted(self.keep, reverse=True) != self.keep:
            raise BadValueError(
                f"capa_reading: keep={self.keep} rises: what is gone does not come back. Give the "
                f"counts at layers {[b - 1 for b in blocks]} in falling order."
            )
        if self.ffn is not None:
            self._check_maps(self.ffn, batch.depth)

    def _check_maps(self, ffn: str, depth: int) -> None:
        known = {f"{name}.{layer}" for layer in range(depth) for name in ("scale", "shift")}
        found = set(calibrated(ffn))
        if not found or found - known:
            raise BadValueError(
                f"capa_reading: ffn={ffn} holds {', '.join(sorted(found - known)[:4]) or 'nothing'}"
                f"; wanted are scale.<layer> and shift.<layer>, layers 0 to {depth - 1}."
            )

    def begin(self, batch: Batch) -> Layers:
        prompt, blocks = batch.prompt, self._blocks(batch.depth)
        assert prompt is not None  # a host runs a language method on prompts alone
        keep = dict(zip(blocks, self.keep or [self.k] * len(blocks), strict=True))
        maps = {}
        for block in range(1, batch.depth + 1):
            if (found := self._map(block, batch.device)) is not None:
                maps[block] = found
        return Layers(batch, keep, maps)

    def _map(self, block: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        if self.ffn is None:
            return None
        tensors = calibrated(self.ffn)
        named = [f"{name}.{block - 1}" for name in ("scale", "shift")]
        if not any(name in tensors for name in named):
            return None
        if not all(name in tensors for name in named):
            raise BadValueError(f"capa_reading: ffn={self.ffn} has only one of {named}.")
        return tensors[named[0]].to(device), tensors[named[1]].to(device)

    def kept(self, count: int, block: int, state: Layers) -> int:
        """Image tokens left behind a block of ``count`` in the prompt."""
        if self.keep is not None:
            return min(state.keep[block], count)
        blocks = list(state.keep)
        place = blocks.index(block) + 1
        return max(count - (count - self.k) * place // len(blocks), min(self.k, count))

    def watch(self, block: int, state: Layers) -> bool:
        return block in state.keep or block in state.maps

    def rows(self, block: int, lengths: Tensor, state: Layers) -> Tensor:
        return lengths[:, None] - 1

    def decide(self, view: View, state: Layers) -> Reduction | None:
        if view.block not in state.keep:
            return None
        prompt = state.batch.prompt
        assert prompt is not None
        kept = view.size > 0
        for row, sample in enumerate(view.images.tolist()):
            run = view.image[row].nonzero().flatten()
            score = contribution(
                view.rows[row][:, :, run], view.values[row][:, run], view.out_projection
            )
            count = self.kept(int(prompt.count[sample]), view.block, state)
            kept[row, run] = False
            kept[row, run[score.argsort(descending=True, stable=True)[:count]]] = True
        return Reduction.keep(kept)

    def feeds(self, block: int, state: Layers) -> bool:
        return block in state.maps

    def feed(self, block: int, x: Tensor, state: Layers) -> Tensor:
        scale, shift = state.maps[block]
        if scale.shape != x.shape[1:]:
            raise BadValueError(
                f"capa_reading: ffn={self.ffn} has {len(scale)} channels in layer {block - 1}; "
                f"this model has {x.shape[1]}."
            )
        return x * scale + shift

    def macs(self, view: View, state: Layers) -> Tensor:
        """The image tokens' values through the output weights; and a product a channel where an MLP
        is replaced."""
        count, (width, wide) = view.image.sum(1), view.out_projection.shape
        own = count * width * wide if view.block in state.keep else torch.zeros_like(count)
        return own + (count * width if view.block in state.maps else 0)

    def origin(self) -> dict[str, Any]:
        if self.ffn is None:
            return {}
        return {"ffn": self.ffn, "sha256": file_sha256(Path(self.ffn).expanduser())}

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def contribution(rows: Tensor, values: Tensor, out_projection: Tensor) -> Tensor:
    """``[n]`` length of what each token adds to a query's state, mean over the queries.

    Args:
        rows: ``[H, R, n]`` attention. values: ``[H', n, d]``, each for a few heads.
        out_projection: ``[D, H d]``.
    """
    values = values.float().repeat_interleave(len(rows) // len(values), 0)
    weighted = rows.float()[..., None] * values[:, None]  # [H, R, n, d]
    joined = weighted.permute(1, 2, 0, 3).flatten(2)
    return (joined @ out_projection.float().mT).norm(dim=-1).mean(0)


def channelwise(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift ``[D]`` by least squares, so that ``x * scale + shift`` is nearest to ``y``.

    Args:
        x: ``[n, D]`` inputs of an MLP. y: ``[n, D]`` its outputs.
    """
    x, y = x.double(), y.double()
    centred = x - x.mean(0)
    spread = centred.square().sum(0)
    # A channel that never changes has its mean as the only answer.
    scale = torch.where(spread > 0, (centred * y).sum(0) / torch.where(spread > 0, spread, 1), 0)
    return scale, y.mean(0) - scale * x.mean(0)


def calibrated(path: str) -> dict[str, Tensor]:
    """The tensors of a file of fits."""
    file = Path(path).expanduser()
    check_there(file, "ffn")
    return _read(*stamped(path, "ffn"))


@lru_cache(maxsize=4)
def _read(file: Path, written: int) -> dict[str, Tensor]:
    return read_checkpoint(file, "ffn")[0]
