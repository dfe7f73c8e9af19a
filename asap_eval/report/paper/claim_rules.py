"""What the ASAP paper says of its walk and its threshold, and the rule that decides each claim.

A rule looks at figures of a record and says ``supported``, ``contradicted`` or ``mixed``; its
bounds are the constants below, and a change to one is a change of the rule, not of the evidence.
The paper's numbers reached us incomplete: where one is lost, ``paper`` says what its words say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from asap_eval.statistics import square_and_add

Judgement = Literal["supported", "contradicted", "mixed"]
Walk = Mapping[str, Any]
"""The ``analysis`` of a ``bench=walk`` record."""

FLAT, RISE, JUMP, LATE = 0.25, 2.0, 1.5, 0.75
RARE, HALF, NEARLY_ALL = 0.05, 0.5, 0.95
PERFECT_MEDIAN, PERFECT_LOW, LOOSE_MEDIAN = 0.95, 0.9, 0.8
CLUSTERING_MS = 0.01
ACCURACY_SLACK = 1.0
"""Points of top-1 by which a single step of tau may fall."""


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim: ``n`` images, and what the rule makes of it."""

    measured: str
    n: int
    verdict: Judgement


@dataclass(frozen=True)
class WalkClaim:
    """A claim that a ``bench=walk`` record decides.

    Attributes:
        claim: short name. paper: what the paper says, and where. rule: the rule in words.
        judge: None where no image fires at the record's tau.
    """

    claim: str
    paper: str
    rule: str
    judge: Callable[[Walk], Finding | None]


def emergence(walk: Walk) -> Finding:
    """Flat, then a jump early enough to be of use."""
    blocks = walk["sink_emergence"]["peak"]
    means = [block["mean"] for block in blocks]
    early = means[: max(1, len(means) // 3)]
    base = sum(early) / len(early)
    steps = [after / before for before, after in pairwise(means)]
    jump = max(range(len(steps)), key=steps.__getitem__) + 2 if steps else 1
    largest = steps[jump - 2] if steps else 1.0
    flat = all(abs(mean / base - 1) <= FLAT for mean in early)
    rises = means[-1] >= RISE * base
    jumps = any(step >= JUMP and at <= LATE * len(means) for at, step in enumerate(steps, start=2))
    text = (
        f"{base:.2f} over blocks 1–{len(early)}, {means[-1]:.2f} at the last; "
        f"largest step ×{largest:.2f} into block {jump} of {len(means)}"
    )
    verdict: Judgement = "supported" if flat and rises and jumps else "mixed"
    return Finding(text, blocks[0]["n"], verdict if rises else "contradicted")


def growth(walk: Walk) -> Finding:
    """The sink of a block is heavier after the next one."""
    readings = [name for name in ("cls", "heaviest") if name in walk["appendix_b"]]
    found = {name: walk["appendix_b"][name] for name in readings}
    text = "falls in " + ", ".join(
        f"{_pct(f['falls_all'], f['falls_all_ci95'])} of steps ({name})"
        for name, f in found.items()
    )
    intervals = [f["falls_all_ci95"] for f in found.values()]
    verdict: Judgement = "mixed"
    if all(high <= RARE for _, high in intervals):
        verdict = "supported"
    elif all(low >= HALF for low, _ in intervals):
        verdict = "contradicted"
    return Finding(text, _n(walk), verdict)


def shrinking(walk: Walk) -> Finding:
    """Distances to the sink get smaller with every block."""
    found = walk["distances"]
    low, high = found["shrinks_all_ci95"]
    first, last = (found["to_sink"][at]["mean"] for at in (0, -1))
    text = (
        f"shrinks in {_pct(found['shrinks_all'], (low, high))} of steps; "
        f"mean {first:.3g} at block 1, {last:.3g} at the last"
    )
    verdict: Judgement = "mixed"
    if low >= NEARLY_ALL:
        verdict = "supported"
    elif high <= HALF:
        verdict = "contradicted"
    return Finding(text, _n(walk), verdict)


def border(walk: Walk) -> Finding | None:
    """Most sinks lie in the outermost ring of patches, and more than its size explains."""
    first, base = walk["at_firing"][0], walk["border"]["base_rate"]
    found, n = first["border"], first["fired"]["n"]
    if not n:
        return None
    reading = "cls" if "cls" in found else "heaviest"
    low, high = found[f"{reading}_ci95"]
    text = (
        f"{_pct(found[reading], (low, high))} at tau={first['tau']:g} ({reading}); "
        f"the ring is {100 * base:.1f} % of the patches"
    )
    verdict: Judgement = "mixed"
    if low > max(base, HALF):
        verdict = "supported"
    elif high < HALF and low <= base:
        verdict = "contradicted"
    return Finding(text, n, verdict)


def rank_agreement(walk: Walk) -> Finding | None:
    """Plain and mass-weighted distances order the patches alike."""
    first = walk["at_firing"][0]
    found = first["spearman"]
    if not found["n"]:
        return None
    text = (
        f"rho at tau={first['tau']:g}: mean {found['mean']:.3f}, median {found['q50']:.3f}, "
        f"5–95 % of images {found['q5']:.3f}–{found['q95']:.3f}"
    )
    verdict: Judgement = "mixed"
    if found["q50"] >= PERFECT_MEDIAN and found["q5"] >= PERFECT_LOW:
        verdict = "supported"
    elif found["q50"] < LOOSE_MEDIAN:
        verdict = "contradicted"
    return Finding(text, found["n"], verdict)


WALK_CLAIMS = (
    WalkClaim(
        "sinks emerge",
        "the heaviest column stays near 2 in early blocks, then jumps (Figure 7; DeiT-Base near "
        "block 8)",
        f"supported: the mean over the first third of the blocks stays within ±{FLAT:.0%} of "
        f"itself, ends at least ×{RISE:g} higher, and some step not after {LATE:.0%} of the depth "
        f"multiplies it by ×{JUMP:g}; contradicted: it does not end ×{RISE:g} higher",
        emergence,
    ),
    WalkClaim(
        "the sink's mass grows with depth",
        "mass accumulates in the sink's column from block to block (Appendix B)",
        f"share of steps in which the sink gets lighter, both readings of the sink: supported up "
        f"to {RARE:.0%}, contradicted from {HALF:.0%} on (whole interval)",
        growth,
    ),
    WalkClaim(
        "distances shrink with depth",
        "rows of C draw together as the walk goes on",
        f"share of steps in which the mean distance to the sink shrinks: supported from "
        f"{NEARLY_ALL:.0%} on, contradicted up to {HALF:.0%} (whole interval)",
        shrinking,
    ),
    WalkClaim(
        "sinks lie at the border",
        "sinks are background patches at the borders of the image",
        "share of sinks in the outermost ring at the block that fires: supported if the whole "
        "interval lies above a half and above the ring's share of the patches, contradicted if it "
        "lies below a half and reaches down to that share",
        border,
    ),
    WalkClaim(
        "weighting by mass changes no order",
        "near-perfect rank correlation of plain and mass-weighted distances (Appendix A; value "
        "lost)",
        f"Spearman's rho over images at the block that fires: supported if the median is at least "
        f"{PERFECT_MEDIAN} and the 5 % quantile at least {PERFECT_LOW}, contradicted if the median "
        f"is below {LOOSE_MEDIAN}",
        rank_agreement,
    ),
)


def rising_accuracy(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Top-1 over a grid of tau; rows are ``tau top1 delta low high n`` in the order of tau, with
    the paired difference to the unpruned model and its interval."""
    steps = [after["top1"] - before["top1"] for before, after in pairwise(rows)]
    first, last = ((row["delta"], row["low"], row["high"]) for row in (rows[0], rows[-1]))
    low, high = square_and_add(first, last)
    text = "; ".join(f"tau={row['tau']:g}: {row['top1']:.2f} %" for row in rows)
    text += f"; last less first {last[0] - first[0]:+.2f} [{low:+.2f}, {high:+.2f}]"
    verdict: Judgement = "mixed"
    if low > 0 and min(steps) >= -ACCURACY_SLACK:
        verdict = "supported"
    elif high < 0:
        verdict = "contradicted"
    return Finding(text, rows[0]["n"], verdict)


def rising_macs(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Change of all MACs over a grid of tau; rows are ``tau reduction_pct n``."""
    changes = [row["reduction_pct"] for row in rows]
    text = "; ".join(f"tau={row['tau']:g}: {row['reduction_pct']:+.1f} %" for row in rows)
    verdict: Judgement = "mixed"
    if changes[-1] <= changes[0]:
        verdict = "contradicted"
    elif all(after >= before for before, after in pairwise(changes)):
        verdict = "supported"
    return Finding(text, rows[0]["n"], verdict)


TAU_CLAIMS = (
    (
        "accuracy rises with tau",
        "a larger tau prunes later and keeps more accuracy (Figures 6, 8; in Figure 8 the lowest K "
        "falls from 74.54 to 73.05 as tau grows)",
        f"supported: top-1 at the largest tau less that at the smallest is above 0 with its whole "
        f"95 % interval (of both Δ, as if independent), and no step falls by more than "
        f"{ACCURACY_SLACK:g} point; contradicted: it is below 0",
        rising_accuracy,
    ),
    (
        "MACs rise with tau",
        "a larger tau prunes later and saves less (Figures 6, 8)",
        "all MACs, the walk's own included: supported if they fall in no step of tau and rise over "
        "all of them, contradicted if the largest tau costs no more than the smallest",
        rising_macs,
    ),
)

CLUSTERING_PAPER = f"{CLUSTERING_MS} ms per image"
CLUSTERING_RULE = (
    f"median time per image of distances, bins and pooling: supported if up to {CLUSTERING_MS} ms "
    "at every batch size, contradicted if above at every one"
)


def clustering(rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Rows of ``benchmarks/clustering.py``: ``model device batch_size images ms_per_image``."""
    times = [row["ms_per_image"]["median"] for row in rows]
    text = "; ".join(
        f"{time:.3g} ms (batch {row['batch_size']}, {row['device']})"
        for row, time in zip(rows, times, strict=True)
    )
    fits = [time <= CLUSTERING_MS for time in times]
    verdict: Judgement = "supported" if all(fits) else "mixed" if any(fits) else "contradicted"
    return Finding(text, sum(row["images"] for row in rows), verdict)


def _n(walk: Walk) -> int:
    n: int = walk["sink_emergence"]["peak"][0]["n"]
    return n


def _pct(share: float, ci95: Sequence[float]) -> str:
    return f"{100 * share:.1f} % [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"
