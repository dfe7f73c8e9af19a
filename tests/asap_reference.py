"""ASAP step by step: float64, one image, full maps of all heads, the whole of C. Slow and plain.

Written from the specification alone, to be compared with `asap_eval.methods.asap`: nothing of the
package is imported. Letters: N tokens, p prefix tokens, P = N - p patches, H heads, d head width.
Ranks and shares are rounded half to even, as `torch.round` and Python's `round` do.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Options:
    """Every option of the method by the name that the method gives it."""

    k: float | str = 8.0
    m: int = 1
    tau: float | str = 3.0
    alpha: float = 0.5
    order: str = "walk"
    chain: str = "full"
    anchor: str = "cls"
    distance: str = "l2"
    normalise: str = "without_sink"
    reduce: str = "pool"
    pool_weights: str = "raw"
    temperature: float = 1.0
    never: str = "keep"
    accumulate: bool = True
    identity: bool = True
    n: int | None = None
    stage2: str = "stride"
    importance: str = "walk"
    redundancy: str = "diffusion"
    important_ratio: float = 0.5


@dataclass
class Outcome:
    """What happened to one image. Patches count from 0, without the prefix.

    Attributes:
        fired: block, 0 = never. sink: -1 = none. bins: ``[P]``; the sink's own is 0.
        background: ``[P]`` bool. kept: foreground that survives, in image order.
        pooled: whether a pooled token stands after it.
        reduced: ``[N', D]`` the sequence that leaves block ``fired``.
        final: ``[N', D]`` the sequence that leaves the last block. logits: ``[classes]``.
        peaks: maximum column mass after each block until the image fired.
        margin: smallest relative gap of any decision to its alternative.
    """

    fired: int = 0
    sink: int = -1
    bins: Tensor | None = None
    background: Tensor | None = None
    kept: list[int] = field(default_factory=list)
    pooled: bool = False
    reduced: Tensor | None = None
    final: Tensor | None = None
    logits: Tensor | None = None
    peaks: list[float] = field(default_factory=list)
    margin: float = math.inf

    def gap(self, value: float | Tensor) -> None:
        self.margin = min(self.margin, abs(float(value)))

    def source(self, patches: int, prefix: int) -> list[int]:
        """Slot of every patch in the final sequence, -1 = dropped."""
        if self.background is None:
            return [prefix + j for j in range(patches)]
        slots = [-1] * patches
        for place, patch in enumerate(self.kept):
            slots[patch] = prefix + place
        if self.pooled:
            for patch in self.background.nonzero()[:, 0].tolist():
                slots[patch] = prefix + len(self.kept)
        return slots


@torch.no_grad()
def asap(
    model: nn.Module, image: Tensor, image_id: str = "", seed: int = 0, **options: object
) -> Outcome:
    """Run ASAP on one image ``[3, height, width]``. ``model`` is a timm ViT in float64."""
    o = Options(**options)  # type: ignore[arg-type]
    out = Outcome()
    prefix = model.num_prefix_tokens
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None].double())))[0]  # [N, D]
    count = x.shape[0]
    chain = torch.eye(count, dtype=torch.float64)
    patch_chain = torch.eye(count - prefix, dtype=torch.float64)
    forced = int(o.never.removeprefix("block:")) if o.never != "keep" else None

    for number, block in enumerate(model.blocks, start=1):
        x, maps = run_block(block, x)  # [N, D], [H, N, N]
        if out.fired:
            continue
        attention = maps.mean(0)  # step 1
        chain = step(chain, attention, o)
        mass = chain.sum(0)[prefix:]
        if o.chain == "patches":
            inner = attention[prefix:, prefix:]
            patch_chain = step(patch_chain, inner / inner.sum(1, keepdim=True), o)
            mass = patch_chain.sum(0)
        peak = float(mass.max())  # step 4
        out.peaks.append(peak)
        threshold = threshold_of(o.tau, mass.tolist(), out.peaks[:-1])
        if number != forced and threshold > 0:
            out.gap(peak / threshold - 1)
        if peak > threshold or number == forced:
            out.fired = number
            x = decide(out, x, attention, chain, prefix, o, image_id, seed)
            out.reduced = x
    out.final = x
    out.logits = model.forward_head(model.norm(x[None]))[0]
    return out


def threshold_of(tau: float | str, mass: list[float], peaks: list[float]) -> float:
    """What the heaviest column is held against; ``jump`` and ``quantile`` are the project's own."""
    if not isinstance(tau, str):
        return tau
    kind, text = tau.split(":")
    if kind == "jump":
        return float(text) * sum(peaks) / len(peaks) if peaks else math.inf
    others = sorted(mass)[:-1]
    return 2 * float(np.quantile(others, float(text))) if others else math.inf


def run_block(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """One pre-norm block on ``[N, D]``: its output and the maps of all heads ``[H, N, N]``."""
    attn = block.attn
    y = block.norm1(x)
    qkv = attn.qkv(y).reshape(len(x), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
    q, k, v = attn.q_norm(qkv[0]), attn.k_norm(qkv[1]), qkv[2]  # [H, N, d]
    maps = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    y = (maps @ v).transpose(0, 1).reshape(len(x), -1)
    x = x + block.ls1(attn.proj(y))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    return x, maps


def step(chain: Tensor, attention: Tensor, o: Options) -> Tensor:
    """Steps 2 and 3: one more block on the accumulated matrix."""
    move = o.alpha * attention + (1 - o.alpha) * torch.eye(len(attention), dtype=torch.float64)
    return chain @ move if o.order == "walk" else move @ chain


def decide(
    out: Outcome,
    x: Tensor,
    attention: Tensor,
    chain: Tensor,
    prefix: int,
    o: Options,
    image_id: str,
    seed: int,
) -> Tensor:
    """Steps 5 to 10 on the output ``[N, D]`` of the firing block: the shorter sequence."""
    c = chain if o.accumulate else attention  # "without accumulation": A of this block alone
    if not o.identity:  # the project's own: without the walk that stood still in every block
        c = c - (1 - o.alpha) ** out.fired * torch.eye(len(c), dtype=torch.float64)
    out.sink = anchor(out, c, attention, prefix, o, image_id, seed)
    patches = range(len(c) - prefix)

    # Step 6: distance of every patch's row to the sink's row, over all N columns.
    rows = c
    if o.distance == "weighted":
        rows = c / (c.sum(0) / len(c)).sqrt()
    d = [float((rows[prefix + i] - rows[prefix + out.sink]).norm()) for i in patches]
    if o.distance == "squared":  # the project's own
        d = [v * v for v in d]

    # Step 7: to [0, 1]; the sink is nearest to itself by definition.
    others = [d[i] for i in patches if i != out.sink or o.normalise == "with_sink"]
    low, high = min(others), max(others)
    scaled = [min(max((v - low) / (high - low), 0.0), 1.0) if high > low else 0.0 for v in d]
    if o.normalise == "rank":  # the project's own: 0, 1, 2, ... from the sink outwards
        outwards = [out.sink, *sorted((i for i in patches if i != out.sink), key=lambda i: d[i])]
        for near, far in itertools.pairwise(outwards[1:]):
            out.gap(d[far] / d[near] - 1)
        scaled = [outwards.index(i) / (len(d) - 1) for i in patches]

    # Step 8: bins of equal width; the last one is closed.
    if isinstance(o.k, str):  # the project's own: two bins, parted by the distances themselves
        last, edge = 1, parted(out, others, o.k)
        bins = [int(edge is None or v > edge) for v in d]
    else:
        last = math.ceil(o.k) - 1
        bins = [min(math.floor(o.k * v), last) for v in scaled]
        for i in patches:
            for border in range(1, last + 1):
                if i != out.sink:
                    out.gap(scaled[i] - border / o.k)
    bins[out.sink] = 0
    background = [i for i in patches if bins[i] < o.m or i == out.sink]
    foreground = [i for i in patches if i not in set(background)]

    # Budget: both ways of meeting it choose among the foreground.
    out.kept = foreground
    if o.n is not None:
        pooled = 1 if o.reduce == "pool" else 0
        if len(foreground) + pooled > o.n:
            if o.stage2 == "stride":
                out.kept = stride(out, foreground, bins, d, o.n - pooled, o.m, last)
            else:
                weights = attention if o.importance == "cls_attention" else c
                score = {i: float(weights[0, prefix + i]) for i in foreground}
                vectors = c if o.redundancy == "diffusion" else x / x.norm(dim=1, keepdim=True)
                far = torch.cdist(vectors[prefix:], vectors[prefix:]).tolist()  # [P, P]
                thin = match if o.stage2 == "algorithm2" else rounds
                out.kept = thin(out, foreground, score, far, o.n - pooled, o)

    # Step 9: one token for the background.
    pieces = [x[:prefix], x[[prefix + i for i in out.kept]]]
    if o.reduce == "pool":
        near = [d[i] if o.pool_weights == "raw" else scaled[i] for i in background]
        weight = (torch.tensor(near, dtype=torch.float64) / o.temperature).softmax(0)
        pieces.append((weight[:, None] * x[[prefix + i for i in background]]).sum(0, keepdim=True))
        out.pooled = True
    out.bins = torch.tensor(bins)
    out.background = torch.tensor([i in set(background) for i in patches])
    return torch.cat(pieces)  # step 10


def parted(out: Outcome, distances: list[float], rule: str) -> float | None:
    """The largest distance of the lower class, by Otsu's threshold or the largest gap; None where
    nothing can be parted: every split between unequal neighbours is tried, the first best wins."""
    v = sorted(distances)
    found: list[tuple[float, float]] = []
    for i in range(1, len(v)):
        if v[i - 1] == v[i]:
            continue
        low, high = v[:i], v[i:]
        score = v[i] - v[i - 1]
        if rule == "otsu":
            between = sum(low) / len(low) - sum(high) / len(high)
            score = len(low) * len(high) * between**2 / len(v) ** 2
        found.append((score, v[i - 1]))
    if not found:
        return None
    ranked = sorted(found, key=lambda one: -one[0])
    if len(ranked) > 1:
        size = ranked[0][0] if rule == "otsu" else v[-1]
        out.gap((ranked[0][0] - ranked[1][0]) / size)
    return ranked[0][1]


def anchor(
    out: Outcome,
    c: Tensor,
    attention: Tensor,
    prefix: int,
    o: Options,
    image_id: str,
    seed: int,
) -> int:
    """Step 5: the sink among the patches."""
    if o.anchor == "random":
        digest = hashlib.blake2b(f"{seed}|asap|{image_id}".encode(), digest_size=8).digest()
        g = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return int(torch.randint(len(c) - prefix, (1,), generator=g))
    if o.anchor == "corner":  # the project's own
        return 0
    if o.anchor == "pca":  # a PCA is centred on the mean; no axis is left out of the distance
        rows = c[prefix:]
        score = -(rows - rows.mean(0)).norm(dim=1)
    elif o.anchor == "mass":
        score = c.sum(0)[prefix:]
    elif o.anchor == "cls_attention":
        score = attention[0, prefix:]
    else:
        score = c[0, prefix:]
    first, second = score.topk(2).values
    out.gap((first - second) / first)
    return int(score.argmax())


def stride(
    out: Outcome,
    foreground: list[int],
    bins: list[int],
    d: list[float],
    budget: int,
    m: int,
    last: int,
) -> list[int]:
    """Stride sampling: a share for every bin, then evenly spaced ranks of distance in it."""
    sizes = {b: sum(bins[i] == b for i in foreground) for b in range(m, last + 1)}
    total = len(foreground)
    share = {b: budget * size // total for b, size in sizes.items()}
    rest = {b: budget * size % total for b, size in sizes.items()}
    for b in sorted(sizes, key=lambda b: (-rest[b], b))[: budget - sum(share.values())]:
        share[b] += 1
    kept = []
    for b in sizes:
        ranked = sorted((i for i in foreground if bins[i] == b), key=lambda i: d[i])
        for rank in ranks(sizes[b], share[b]):
            kept.append(ranked[rank])
            for other in ranked[max(rank - 1, 0) : rank] + ranked[rank + 1 : rank + 2]:
                out.gap(d[other] / d[ranked[rank]] - 1)
    return sorted(kept)


def ranks(size: int, share: int) -> list[int]:
    """``round(linspace(0, size - 1, share))``, half to even."""
    if share < 2:
        return [0] * share
    return [round(r * (size - 1) / (share - 1)) for r in range(share)]


def match(
    out: Outcome,
    foreground: list[int],
    importance: dict[int, float],
    far: list[list[float]],
    budget: int,
    o: Options,
) -> list[int]:
    """Algorithm 2: keep the most important, then thin out the rest by closest pairs.

    ``far`` is plain L2, between rows of C whatever `distance` step 6 takes or between features of
    length 1. A survivor may be paired again; when one half is used up, what is left is split anew.
    """
    ranked = sorted(foreground, key=lambda i: -importance[i])
    sure = round(o.important_ratio * budget)
    if 0 < sure < len(ranked):
        out.gap(1 - importance[ranked[sure]] / importance[ranked[sure - 1]])
    rest = sorted(ranked[sure:])
    wanted = budget - sure
    if wanted == 0:
        rest = []  # the last one would have nobody to be paired with
    while len(rest) > wanted:
        even, odd = rest[0::2], rest[1::2]
        while even and odd and len(even) + len(odd) > wanted:
            pairs = sorted((far[i][j], i, j) for i in even for j in odd)
            if len(pairs) > 1:
                out.gap(pairs[1][0] / pairs[0][0] - 1)
            _, i, j = pairs[0]
            out.gap(importance[i] / importance[j] - 1)
            if importance[i] < importance[j]:
                even.remove(i)
            else:
                odd.remove(j)
        rest = sorted(even + odd)
    return sorted(ranked[:sure] + rest)


def rounds(
    out: Outcome,
    foreground: list[int],
    importance: dict[int, float],
    far: list[list[float]],
    budget: int,
    o: Options,
) -> list[int]:
    """VisPruner's rule: the most important, then eight near-duplicates dropped in a round."""
    ranked = sorted(foreground, key=lambda i: -importance[i])
    for one, other in itertools.pairwise(ranked):
        out.gap(1 - importance[other] / importance[one])
    sure = round(o.important_ratio * budget)
    rest, wanted = ranked[sure:], budget - sure
    while len(rest) > wanted:
        if wanted == 0:
            return sorted(ranked[:sure])
        odd = rest[1::2]
        closest = {i: min(far[i][j] for j in odd) for i in rest[0::2]}
        even = sorted(closest, key=lambda i: closest[i])
        for one, other in itertools.pairwise(even):
            out.gap(closest[other] / closest[one] - 1)
        rest = even[min(8, len(rest) - wanted) :] + odd
    return sorted(ranked[:sure] + rest)
