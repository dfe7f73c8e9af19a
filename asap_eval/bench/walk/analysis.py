"""What the walks of all images say together: the ``analysis`` of a ``bench=walk`` record.

Shares and distributions are as in `asap_eval.statistics`. Lists run over blocks from 1, lists of
steps over the steps into blocks 2, 3, ... "Sink" is the patch with most of the class token's row of
C (reading ``cls``; only where there is a class token) or the heaviest column (``heaviest``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asap_eval.bench.walk.random_walk import ring
from asap_eval.record.journal import Rows
from asap_eval.statistics import distribution, over, pooled, shares


def analyse(rows: Rows, grid: tuple[int, int], taus: Sequence[float]) -> dict[str, Any]:
    """Everything from the rows of readable images.

    Args:
        rows: at least one, each with the columns of `WalkObserver`. grid: patches down and across.
        taus: thresholds, each giving every image a block at which it fires; the main one first.

    Returns:
        ``grid``, ``blocks``, the blocks ``sink_emergence`` (Figure 7), ``spearman`` (Appendix A),
        ``appendix_b``, ``distances`` and ``border``, and ``at_firing``, a list over taus:
        ``{tau fired spearman border}`` at each image's own block.
    """
    walks = [row["walk"] for row in rows]
    columns = {name: table(walks, name) for name in walks[0] if name != "steps"}
    border = _border(columns, grid)
    return {
        "grid": list(grid),
        "blocks": columns["peak"].shape[1],
        "sink_emergence": {
            "peak": over(columns["peak"]),
            "peak_with_prefix": over(columns["peak_with_prefix"]),
        },
        "spearman": over(columns["spearman"]),
        "appendix_b": _appendix_b(walks, columns["peak"]),
        "distances": _distances(columns),
        "border": {
            "base_rate": float(ring(grid).double().mean()),
            **{
                k: v for reading, flags in border.items() for k, v in shares(reading, flags).items()
            },
        },
        "at_firing": [_at_firing(columns, border, tau) for tau in taus],
    }


def positions(walks: Sequence[Mapping[str, Any]], grid: tuple[int, int]) -> dict[str, Tensor]:
    """``heaviest`` and ``sink``, ``[L, h, w]`` int64: images whose patch it is, for every block."""
    found = {}
    for name in ("heaviest", "sink"):
        if name in walks[0]:
            patches = torch.from_numpy(table(walks, name)).long().T  # [L, n]
            counts = torch.zeros(len(patches), grid[0] * grid[1], dtype=torch.long)
            counts.scatter_add_(1, patches, torch.ones_like(patches))
            found[name] = counts.view(-1, *grid)
    return found


def table(walks: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """``[n, L]`` one column of all images; NaN where it is not defined."""
    return np.array([walk[name] for walk in walks], dtype=np.float64)


def firing(peak: np.ndarray, tau: float) -> np.ndarray:
    """``[n]`` first block, from 1, whose heaviest patch passes tau; 0 = never."""
    passes = peak > tau
    return np.where(passes.any(1), passes.argmax(1) + 1, 0)


def at_block(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The entry of ``[n, L]`` at each image's block; images that never fire are left out."""
    fires = blocks > 0
    return values[fires, blocks[fires] - 1]


def _appendix_b(walks: Sequence[Mapping[str, Any]], peak: np.ndarray) -> dict[str, Any]:
    """Whether the sink of a block gets lighter in the step after it, in both readings.

    Where the order is ``walk``, also how often the condition of Appendix B holds: the sink grows
    if and only if more flows in than out (`random_walk.flows`).
    """
    found: dict[str, Any] = {}
    if peak.shape[1] > 1:
        falls = peak[:, 1:] < peak[:, :-1]
        found["peak"] = {**shares("falls", falls), **pooled("falls_all", falls)}
    for reading in walks[0]["steps"]:
        steps = [walk["steps"][reading] for walk in walks]
        before, after = table(steps, "before"), table(steps, "after")
        falls = after < before
        figures = {**shares("falls", falls), **pooled("falls_all", falls)}
        figures["change"] = over(after / before)
        if "inflow" in steps[0]:
            into, out = table(steps, "inflow"), table(steps, "outflow")
            figures |= shares("inflow_exceeds_outflow", into > out)
            figures["inflow_over_outflow"] = over(into / out)
        found[reading] = figures
    return found


def _distances(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Distances to the sink and between all rows of C, and how often a step shrinks the former."""
    distance = columns["distance"]
    found: dict[str, Any] = {
        "to_sink": over(distance),
        "spread": over(columns["spread"]),
        "effective_rank": over(columns["rank"]),
    }
    if distance.shape[1] > 1:
        shrinks = distance[:, 1:] < distance[:, :-1]
        found |= {**shares("shrinks", shrinks), **pooled("shrinks_all", shrinks)}
    return found


def _border(columns: Mapping[str, np.ndarray], grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """``[n, L]`` bool by reading: whether the sink lies in the outermost ring of patches."""
    readings = {"cls": "sink", "heaviest": "heaviest"}
    border = ring(grid).numpy()
    return {
        reading: border[columns[name].astype(int)]
        for reading, name in readings.items()
        if name in columns
    }


def _at_firing(
    columns: Mapping[str, np.ndarray], border: Mapping[str, np.ndarray], tau: float
) -> dict[str, Any]:
    """What is true of each image at the block where it fires; the others are left out."""
    blocks = firing(columns["peak"], tau)
    fires = blocks[blocks > 0]
    found: dict[str, Any] = {
        "tau": tau,
        "fired": {
            "n": int(fires.size),
            "never": int((blocks == 0).sum()),
            "mean": float(fires.mean()) if fires.size else None,
            "histogram": {
                str(b): int((fires == b).sum()) for b in range(1, columns["peak"].shape[1] + 1)
            },
        },
        "spearman": distribution(at_block(columns["spearman"], blocks)),
        "border": {},
    }
    if fires.size:
        for reading, flags in border.items():
            one = shares(reading, at_block(flags, blocks)[:, None])
            found["border"] |= {name: values[0] for name, values in one.items()}
    return found
