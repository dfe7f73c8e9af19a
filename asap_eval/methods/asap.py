"""ASAP: Attention Sink Anchored Pruning (arXiv 2605.22372).

A random walk over attention finds each image's sink; patches near the sink, in the walk's own
distance, are background and are pooled into one token or pruned. The walk also says when: an image
is reduced after the first block whose heaviest column of the walk passes tau.

No public code exists. What the paper's text leaves open is an option here, recorded with every
result; the defaults are the readings that measurement on real weights supports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from asap_eval.errors import BadValueError
from asap_eval.kernels.walk import as_exact_as, room, walked
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.adaptive import edge, firing, jumps, outweighs
from asap_eval.methods.parts.selection import spread, thin_by_pairs, thin_by_rounds
from asap_eval.tokens import DROPPED, Reduction
from asap_eval.transfer import Arriving, to_device


@dataclass
class Walk:
    """State of one forward pass; rows belong to the images in ``waiting``.

    Attributes:
        batch: the batch.
        waiting: images that have not fired, in the order of the rows below.
        fires: which of them the latest block's walk makes fire, ``[b]`` bool.
        memory: ``[b, N + 1, W >= N]`` fp32, of which `rows` is the front; zeros behind.
        chain: the chain over patches alone, or ``None``: ``[b, 1, P]`` its column masses
            (``walk``), or ``[b, P, P]`` the whole of it (``rollout``).
        before: ``[b]`` sum of the heaviest column over the blocks so far, where tau asks for it.
    """

    batch: Batch
    waiting: list[int]
    memory: Tensor
    chain: Tensor | None
    before: Tensor | None
    fires: Arriving | None = None

    @property
    def rows(self) -> Tensor:
        """``[b, N + 1, N]`` C, and below it the column masses. A product with T moves them with the
        rest: ``m_l = m_(l-1) T_l`` is what one more row costs. With ``rollout`` or without
        accumulation only some of these rows exist (see `ASAP.begin`)."""
        return self.memory[..., : self.batch.tokens]


@register(
    "asap",
    Card(
        paper="ASAP: Attention Sink Anchored Pruning, arXiv 2605.22372",
        licence="none public",
        training="training-free",
        knob="k",
        knob_meaning="number of distance bins K, any real > 1; larger prunes less; otsu or gap",
        fixed_count=False,
        deviations="no authors' code; every open choice of the text is an option; the "
        "adaptive tau=jump, tau=quantile, k=otsu and k=gap, and anchor=corner, distance=squared, "
        "normalise=rank and identity=False, are ours",
        # At one budget the smaller tau lost less on DeiT-Tiny (results/readings.md).
        widens=("tau", (1.2, 1.0)),
        counts_more="the walk's first product, which is with the identity",
        ours=(
            *("tau=jump", "tau=quantile", "k=otsu", "k=gap"),
            *("anchor=corner", "distance=squared", "normalise=rank", "identity=False"),
        ),
    ),
)
@dataclass
class ASAP(Reducer):
    """Pool (or prune) the patches close to the attention sink, once per image.

    Attributes:
        k: bins K of the normalised distance, any real > 1 (K in (1, 2) is a radius 1/K). Ours, not
            the paper's: ``otsu`` and ``gap`` make two bins for each image, background and the
            rest, parted by Otsu's threshold of its distances, or at the largest gap between
            sorted ones; which of them take part ``normalise`` says. Where they are all equal
            nothing is near: the sink alone is background (`edge`).
        m: bins 0 .. m-1 are background (Algorithm 1); of ``otsu`` and ``gap`` bin 0.
        tau: column mass of a patch that an image fires above (Section 3; the paper's value is
            lost). Ours: ``jump:<ratio>`` = a heaviest column above ``ratio`` times its mean over
            the blocks before, never in block 1; ``quantile:<q>`` = above twice the q-quantile of
            the other patches' columns (q from 0 to 1; later with a larger one).
        alpha: share of attention in a step, ``T = alpha A + (1 - alpha) I``.
        order: ``walk`` C_l = C_(l-1) T_l, or ``rollout`` C_l = T_l C_(l-1).
        chain: whether the masses that fire come from C (``full``) or from a chain without prefix
            rows and columns, rows renormalised (``patches``); distances use C in both.
        anchor: the sink: heaviest patch in the class token's row of C (``cls``), in its row of
            A_l (``cls_attention``), in column mass (``mass``), a random one, or the patch nearest
            the centre of the rows of C (``pca``). Ours: ``corner``, the first patch (top left) of
            every image: the most frequent sink in DeiT-Tiny's first four blocks (results/walk).
        distance: ``l2`` between rows of C, or ``weighted``: each column divided by the square root
            of its mean mass (Appendix A). Ours: ``squared``, l2 squared.
        normalise: min-max over the patches without or with the sink's own zero. Ours: ``rank``,
            place / (P - 1) in the order of distance, the sink at 0 and equals in image order: every
            image has the same distances, and k alone says how many patches are background.
        reduce: ``pool`` the background into one token, or ``prune`` it.
        temperature: of the softmax over distances that weighs the pooled tokens.
        pool_weights: whether that softmax takes raw or normalised distances.
        accumulate: False = sink and distances from A_l alone (the row "w/o accumulation").
        identity: False, ours: sink and distances from ``C_l - (1 - alpha)^l I``. Written out, the
            product of l steps ``alpha A + (1 - alpha) I`` holds that term: the share of the walk
            that never moved. What fires an image is C's own mass all the same.
        never: ``keep`` an image that never fires, or ``block:<n>`` = reduce it after block n.
        n: at most this many tokens (pooled one included, prefix not); None = as many as remain.
        stage2: how n is reached, in the block that fires: ``stride`` over the distance
            (Algorithm 1); or the most important patches and, of the others, those that repeat no
            other: one of each closest pair dropped (``algorithm2``), or VisPruner's rounds
            (``vispruner``). The products of a second stage, over the foreground, are not counted.
        importance: of the last two: C[cls] (``walk``), or the class token's row of A_l alone
            (``cls_attention``), as VisPruner has it.
        redundancy: of the last two: plain distance between rows of C (``diffusion``, whatever
            ``distance`` says), or cosine of the block's output (``features``), as VisPruner has it.
        important_ratio: share of the foreground's budget that they give to importance.
    """

    k: float | Literal["otsu", "gap"] = 8.0
    m: int = 1
    tau: float | str = 3.0
    alpha: float = 0.5
    order: Literal["walk", "rollout"] = "walk"
    chain: Literal["full", "patches"] = "full"
    anchor: Literal["cls", "cls_attention", "mass", "random", "pca", "corner"] = "cls"
    distance: Literal["l2", "weighted", "squared"] = "l2"
    normalise: Literal["without_sink", "with_sink", "rank"] = "without_sink"
    reduce: Literal["pool", "prune"] = "pool"
    temperature: float = 1.0
    pool_weights: Literal["raw", "normalised"] = "raw"
    accumulate: bool = True
    identity: bool = True
    never: str = "keep"
    n: int | None = None
    stage2: Literal["stride", "algorithm2", "vispruner"] = "stride"
    importance: Literal["walk", "cls_attention"] = "walk"
    redundancy: Literal["diffusion", "features"] = "diffusion"
    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.tau, str):
            firing(self.tau)  # raises

    @property
    def needs(self) -> frozenset[Need]:
        compares = self._thins and self.redundancy == "features"
        return frozenset({Need.ATTENTION, *([Need.FEATURES] if compares else [])})

    @property
    def requires_cls(self) -> bool:
        return self.anchor in ("cls", "cls_attention") or self._thins

    @property
    def _reads_layer(self) -> bool:
        """Whether an image that fires needs A_l beside C."""
        single = "cls_attention" in (self.anchor, self.importance)
        return single or not self.accumulate

    @property
    def _thins(self) -> bool:
        """Whether a second stage chooses by importance and redundancy."""
        return self.n is not None and self.stage2 != "stride"

    def check(self, batch: Batch) -> None:
        if not isinstance(self.k, str) and not (self.k > 1 and math.isfinite(self.k)):
            raise BadValueError(f"asap: k={self.k}: give any real number greater than 1.")
        if not 1 <= self.m <= self._last_bin:
            raise BadValueError(
                f"asap: m={self.m} with k={self.k}: m counts background bins, "
                f"1 to {self._last_bin}."
            )
        if not 0 < self.alpha <= 1:
            raise BadValueError(f"asap: alpha={self.alpha} is a share: give a value in (0, 1].")
        if not self.temperature > 0:
            raise BadValueError(f"asap: temperature={self.temperature} must be positive.")
        if not 0 <= self.important_ratio <= 1:
            raise BadValueError(f"asap: important_ratio={self.important_ratio} is not in [0, 1].")
        if isinstance(self.k, str) and self.normalise == "rank":
            raise BadValueError(
                f"asap: k={self.k} parts distances, which normalise=rank makes equal steps: give k "
                "as a number, or normalise as without_sink or with_sink."
            )
        if not (self.identity or self.accumulate):
            raise BadValueError(
                "asap: identity=False takes the share that never moved out of the accumulated "
                "walk; with accumulate=False there is none: leave one of them out."
            )
        least = 2 if self.reduce == "pool" else 1
        if self.n is not None and self.n < least:
            raise BadValueError(f"asap: n={self.n}: reduce={self.reduce} needs at least {least}.")
        self._last_block(batch.depth)

    @property
    def _last_bin(self) -> int:
        return 1 if isinstance(self.k, str) else math.ceil(self.k) - 1

    def _last_block(self, depth: int) -> int | None:
        """Block at which waiting images are reduced all the same; ``None`` = they are kept."""
        if self.never == "keep":
            return None
        kind, _, block = self.never.partition(":")
        if kind != "block" or not block.isdigit() or not 1 <= int(block) <= depth:
            raise BadValueError(
                f"asap: never='{self.never}': give 'keep' or 'block:<n>' with n from 1 to {depth}."
            )
        return int(block)

    def begin(self, batch: Batch) -> Walk:
        count, tokens = batch.count, batch.tokens
        ones = torch.ones(1, tokens, device=batch.device)
        # Without accumulation only the masses walk on: distances will come from A_l alone.
        # A rollout multiplies from the left, where a row of masses cannot come along.
        parts = [torch.eye(tokens, device=batch.device)] if self._needs_whole else []
        parts += [ones] if self.order == "walk" else []
        rows = torch.cat(parts)
        memory = rows.new_empty(count, len(rows), room(tokens, batch.device))
        memory[..., tokens:] = 0
        if not self.accumulate:
            memory[..., :tokens] = rows
        chain = None
        if self.chain == "patches":
            masses = torch.ones(1, batch.patches, device=batch.device)
            whole = torch.eye(batch.patches, device=batch.device)
            chain = (masses if self.order == "walk" else whole).repeat(count, 1, 1)
        jump = isinstance(self.tau, str) and firing(self.tau)[0] == "jump"
        before = memory.new_zeros(count) if jump else None
        return Walk(batch, list(range(count)), memory, chain, before)

    @property
    def _needs_whole(self) -> bool:
        return self.accumulate or self.order == "rollout"

    def watch(self, block: int, state: Walk) -> bool | Tensor:
        return len(state.waiting) == state.batch.count or torch.tensor(state.waiting)

    def macs(self, view: View, state: Walk) -> int:
        """Accumulation: N^3 a block for C; N^2 where only the masses walk. The first block's
        product, with the identity, is counted as any other though `_step` need not run it."""
        tokens, patches = state.batch.tokens, state.batch.patches
        chain = 0 if state.chain is None else state.chain.shape[1] * patches**2
        return (tokens**3 if self._needs_whole else tokens**2) + chain

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return self.m + 1e-6, 2.0 * batch.patches

    def observe(self, view: View, state: Walk) -> None:
        attention = view.attention.to(state.rows.dtype)
        self._step(state, attention, view.prefix)
        fires = self._fires(view.block, self._mass(state, view.prefix), state)
        if view.block == self._last_block(state.batch.depth):
            fires = torch.ones_like(fires)
        state.fires = Arriving(fires)

    def _fires(self, block: int, mass: Tensor, state: Walk) -> Tensor:
        """``[b]`` bool, from the column masses ``[b, P]``."""
        heaviest = mass.amax(1)
        if not isinstance(self.tau, str):
            return heaviest > self.tau
        _, number = firing(self.tau)
        if state.before is None:
            return outweighs(mass, number)
        fires = jumps(heaviest, state.before, block, number)
        state.before = state.before + heaviest
        return fires

    def decide(self, view: View, state: Walk) -> Reduction | None:
        assert state.fires is not None
        fires = state.fires.list()
        if not any(fires):
            return None
        firing, waiting = ([i for i, f in enumerate(fires) if f == kind] for kind in (True, False))
        group = Reduction.identity(view.size).group
        weight = torch.ones_like(view.size)
        acted = to_device(fires, group.device).bool()
        chosen = to_device(firing, group.device)
        group[chosen], weight[chosen] = self._reduce(view, state, chosen)
        # The last of those that wait move up into the gaps: few rows of C are copied.
        left = len(waiting)
        gaps = [place for place in firing if place < left]
        last = [place for place in waiting if place >= left]
        for gap, place in zip(gaps, last, strict=True):
            state.waiting[gap] = state.waiting[place]
        state.waiting = state.waiting[:left]
        into, source = to_device([gaps, last], group.device)
        state.memory = _moved(state.memory, into, source)[:left]
        if state.before is not None:
            state.before = _moved(state.before, into, source)[:left]
        if state.chain is not None:
            state.chain = _moved(state.chain, into, source)[:left]
        return Reduction(group, weight, acted=acted)

    def _step(self, state: Walk, attention: Tensor, prefix: int) -> None:
        """One block further. After the first block C is T itself."""
        if state.chain is not None:
            patches = attention[:, prefix:, prefix:]
            state.chain = self._times(state.chain, patches / patches.sum(2, keepdim=True))
        if not self.accumulate:
            state.memory = self._times(state.rows, attention)
        elif state.fires is None:
            self._start(state, attention)
        elif self.order == "walk":
            # All of the memory is multiplied: the zeros stay zeros.
            state.memory = walked(state.memory, attention, self.alpha, state.batch.dtype)
        else:
            with as_exact_as(state.batch.dtype, attention.device):
                state.memory = self._times(state.memory, attention)

    def _start(self, state: Walk, attention: Tensor) -> None:
        """``C_1 = T_1`` from A_1 ``[B, N, N]``, and its column sums below."""
        tokens = state.batch.tokens
        whole = state.rows[:, :tokens].copy_(attention).mul_(self.alpha)
        whole.diagonal(dim1=1, dim2=2).add_(1 - self.alpha)
        if self.order == "walk":
            state.rows[:, tokens] = whole.sum(1)

    def _times(self, rows: Tensor, attention: Tensor) -> Tensor:
        """``rows (alpha A + (1 - alpha) I)``, or the product from the left."""
        left, right = (rows, attention) if self.order == "walk" else (attention, rows)
        return torch.baddbmm(rows, left, right, beta=1 - self.alpha, alpha=self.alpha)

    def _mass(self, state: Walk, prefix: int) -> Tensor:
        """``[b, P]`` column masses of the patches that decide whether an image fires."""
        if state.chain is not None:
            return state.chain.sum(1)
        if self.order == "walk":
            return state.rows[:, -1, prefix:]
        return state.rows.sum(1)[:, prefix:]

    def _reduce(self, view: View, state: Walk, fires: Tensor) -> tuple[Tensor, Tensor]:
        """``group`` and ``weight``, both ``[f, N]``, of the images that fire (``[f]`` places among
        those watched)."""
        prefix, tokens = view.prefix, state.batch.tokens
        images = view.images[fires]
        attention = view.attention[fires].to(state.rows.dtype) if self._reads_layer else None
        # C, or A_l alone for the row "w/o accumulation".
        rows = state.rows[fires, :tokens] if attention is None or self.accumulate else attention
        if not self.identity:
            rows.diagonal(dim1=1, dim2=2).sub_((1 - self.alpha) ** view.block)
        sink = self._sink(rows, attention, images, state.batch)
        view.note("sink", images, sink)
        raw = self._distances(rows, sink, prefix)
        scaled = self._scaled(raw, sink)
        bins = self._bins(raw, scaled, sink)
        view.note("distance", images, raw)
        view.note("bin", images, bins.long())
        background = (bins < self.m).scatter_(1, sink[:, None], True)
        keep = ~background
        if self.n is not None:
            room = self.n - (1 if self.reduce == "pool" else 0)
            over = keep.sum(1) > room
            if self._thins:
                importance, compared = self._ingredients(view, rows, attention, fires)
                self._thin(keep, over, importance, compared, room)
            else:
                for image in over.nonzero().flatten().tolist():
                    keep[image] = spread(keep[image], bins[image], raw[image], room)

        pooled = self.reduce == "pool"
        kept = keep.sum(1, keepdim=True)
        place = torch.where(keep, prefix + keep.long().cumsum(1) - 1, DROPPED)
        if pooled:
            place = torch.where(background, prefix + kept, place)
        front = torch.arange(prefix, device=place.device).expand(len(place), -1)
        weight = torch.ones_like(raw)
        if pooled:
            distance = raw if self.pool_weights == "raw" else scaled
            logits = (distance / self.temperature).masked_fill(~background, -torch.inf)
            weight = torch.where(background, logits.softmax(1), weight)
        ones = torch.ones(len(place), prefix, device=place.device, dtype=weight.dtype)
        return torch.cat([front, place], 1), torch.cat([ones, weight], 1)

    def _sink(self, rows: Tensor, attention: Tensor | None, images: Tensor, batch: Batch) -> Tensor:
        """``[f]`` the anchor patch of each image, from 0 without the prefix."""
        prefix = batch.prefix
        if self.anchor == "cls":
            return rows[:, 0, prefix:].argmax(1)
        if self.anchor == "cls_attention" and attention is not None:
            return attention[:, 0, prefix:].argmax(1)
        if self.anchor == "mass":
            return rows.sum(1)[:, prefix:].argmax(1)
        if self.anchor == "random":
            picks = [
                torch.randint(batch.patches, (1,), generator=batch.generator(i, self.name))
                for i in images.tolist()
            ]
            return torch.cat(picks).to(rows.device)
        if self.anchor == "corner":
            return torch.zeros_like(images, device=rows.device)
        patches = rows[:, prefix:]
        return (patches - patches.mean(1, keepdim=True)).norm(dim=2).argmin(1)

    def _distances(self, rows: Tensor, sink: Tensor, prefix: int) -> Tensor:
        """``[f, P]`` distance of each patch's row from the sink's row, over all N columns."""
        if self.distance == "weighted":
            rows = rows / rows.mean(1, keepdim=True).sqrt()
        patches = rows[:, prefix:]
        anchor = patches[torch.arange(len(sink), device=sink.device), sink]
        distances = (patches - anchor[:, None]).norm(dim=2)
        return distances.square() if self.distance == "squared" else distances

    def _bins(self, raw: Tensor, scaled: Tensor, sink: Tensor) -> Tensor:
        """``[f, P]`` bins of distances, as they are and normalised; the sink's own is 0."""
        if not isinstance(self.k, str):
            return (self.k * scaled).floor().clamp(max=self._last_bin)
        others = raw
        if self.normalise == "without_sink":
            place = torch.arange(raw.shape[1] - 1, device=raw.device).expand(len(raw), -1)
            others = raw.gather(1, place + (place >= sink[:, None]).long())
        return (raw > edge(others, self.k)).to(raw.dtype).scatter_(1, sink[:, None], 0)

    def _scaled(self, raw: Tensor, sink: Tensor) -> Tensor:
        """``[f, P]`` distances brought to [0, 1]; all 0 where they are all equal, but for ranks."""
        if self.normalise == "rank":
            order = raw.scatter(1, sink[:, None], -1).argsort(dim=1, stable=True)
            return order.argsort(1).to(raw.dtype) / max(1, raw.shape[1] - 1)
        others = raw
        if self.normalise == "without_sink":
            others = raw.scatter(1, sink[:, None], torch.inf)
        low = others.amin(1, keepdim=True)
        span = raw.amax(1, keepdim=True) - low
        scaled = ((raw - low) / torch.where(span > 0, span, 1)).clamp(0, 1)
        return torch.where(span > 0, scaled, 0)

    def _ingredients(
        self, view: View, rows: Tensor, attention: Tensor | None, fires: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Importance ``[f, P]`` and the vectors ``[f, P, W]`` whose distance tells repetition."""
        single = attention if self.importance == "cls_attention" else None
        importance = (rows if single is None else single)[:, 0, view.prefix :]
        if self.redundancy == "diffusion":
            return importance, rows[:, view.prefix :]
        # Distances of unit vectors rank pairs as their cosines do. fp64, as VisPruner itself: a
        # near-tie decides all later pairs.
        return importance, normalize(view.features[fires, view.prefix :].double(), dim=-1)

    def _thin(
        self, keep: Tensor, over: Tensor, importance: Tensor, compared: Tensor, room: int
    ) -> None:
        """Leave ``room`` patches of each image in ``over`` in ``keep`` ``[f, P]``."""
        important = round(self.important_ratio * room)
        for image in over.nonzero().flatten().tolist():
            score, vectors = importance[image], compared[image]
            if self.stage2 == "algorithm2":
                keep[image] = thin_by_pairs(keep[image], score, vectors, room, important)
                continue
            left = keep[image].nonzero().flatten()
            chosen = vectors[left].double()
            far = torch.cdist(chosen, chosen, compute_mode="donot_use_mm_for_euclid_dist")
            sure, diverse = thin_by_rounds(score[left][None], -far[None], room, important)
            keep[image, left] = (sure | diverse)[0]


def _moved(rows: Tensor, into: Tensor, source: Tensor) -> Tensor:
    """``rows`` with those at ``source`` also at ``into``, in place unless autograd follows."""
    rows = rows.clone() if torch.is_grad_enabled() else rows
    return rows.index_copy_(0, into, rows.index_select(0, source))
