"""What two knobs do together (the paper's Figures 6 and 8: K and tau), and what alpha does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from asap_eval.report.layouts.columns import present
from asap_eval.report.pictures.figure import DASHES, Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, groups
from asap_eval.report.pictures.looks import look_of

LEAST = 3
"""Values of alpha that make a line."""
SHADES = ("white", "0.55", "0.8", "0.3")
"""Fills of the marks of one method's lines; its colour and marker are the same in all of them."""


def heat_maps(records: Sequence[Found]) -> list[Figure]:
    """A figure for each group whose records hold two or more values of both ``k`` and ``tau``."""
    found: list[Figure] = []
    for group in groups(records):
        for cells in _apart(group, "tau", budget=False):
            grid = {(float(c.record.job.params["tau"]), float(c.row["k"])): c for c in cells}
            taus, ks = (sorted({pair[at] for pair in grid}) for at in (0, 1))
            if len(taus) > 1 and len(ks) > 1:
                found.append(_heat_map(group, grid, taus, ks, len(found)))
    return found


def alphas(records: Sequence[Found]) -> list[Figure]:
    """A figure for each group with three or more values of ``alpha`` at one budget."""
    found: list[Figure] = []
    for group in groups(records):
        series = [s for s in _apart(group, "alpha", budget=True) if len(s) >= LEAST]
        if series:
            found.append(_alphas(group, series))
    return found


def _apart(group: Group, option: str, *, budget: bool) -> list[list[Line]]:
    """Lines with an option, those together that differ in it (and in the knob) alone."""
    parts: dict[str, list[Line]] = {}
    for line in group.lines:
        job, row = line.record.job, line.row
        # A criterion of ours in place of a number has no place on an axis.
        fits = isinstance(job.params.get(option), (int, float)) and present(row["top1"])
        fits = fits and (job.budget is not None) == budget
        if fits and (budget or present(row["k"])):
            others = {name: value for name, value in job.params.items() if name != option}
            same = [job.method, others, str(row["budget"]), str(row["target"])]
            parts.setdefault(json.dumps(same, sort_keys=True), []).append(line)
    return [sorted(p, key=lambda line: line.record.job.params[option]) for p in parts.values()]


def _heat_map(
    group: Group,
    grid: dict[tuple[float, float], Line],
    taus: Sequence[float],
    ks: Sequence[float],
    number: int,
) -> Figure:
    method = next(iter(grid.values())).record.job.method
    with styled():
        canvas = Canvas(figsize=(8.6, 1.7 + 0.42 * len(taus)), layout="constrained")
        canvas.suptitle(f"{method} over K and tau · {group.title}", fontsize=9)
        left, right = canvas.subplots(1, 2)
        _panel(left, grid, taus, ks, "top1", "{:.1f}", "top-1 in %")
        _panel(right, grid, taus, ks, "reduction_pct", "{:+.1f}", "change of the MACs in %")
        best = max(grid, key=lambda at: float(grid[at].row["top1"]))
        top = [float(line.row["top1"]) for line in grid.values()]
        suffix = "" if not number else f"-{number + 1}"
        return finished(
            canvas,
            f"k-tau.{group.name}{suffix}",
            title=f"{method} over K and tau: {group.title}",
            caption=f"Top-1 (left) and change of the MACs, the method's own products included "
            f"(right), of {method} over K and tau on {group.title}; darker is more, hatched was "
            "not run.",
            alt=f"Two heat maps of {len(ks)} values of K by {len(taus)} of tau. Top-1 runs from "
            f"{min(top):.2f} to {max(top):.2f} %, best at K={best[1]:g}, tau={best[0]:g}.",
        )


def _panel(
    axes: Axes,
    grid: dict[tuple[float, float], Line],
    taus: Sequence[float],
    ks: Sequence[float],
    column: str,
    form: str,
    title: str,
) -> None:
    values = np.full((len(taus), len(ks)), np.nan)
    for (tau, k), line in grid.items():
        if present(line.row[column]):
            values[taus.index(tau), ks.index(k)] = line.row[column]
    axes.grid(False)
    axes.spines[:].set_visible(False)
    image = axes.imshow(values, cmap="Greys", aspect="auto", origin="lower")
    image.set_clim(*_stretched(values))
    for (down, across), value in np.ndenumerate(values):
        if np.isnan(value):
            cell = (across - 0.5, down - 0.5)
            axes.add_patch(Rectangle(cell, 1, 1, fill=False, hatch="///", ec="0.6", lw=0))
            continue
        light = float(np.asarray(image.norm(value))) > 0.5
        axes.text(
            across,
            down,
            form.format(value),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if light else "black",
        )
    axes.set_xticks(range(len(ks)), [f"{k:g}" for k in ks])
    axes.set_yticks(range(len(taus)), [f"{tau:g}" for tau in taus])
    axes.set_xlabel("K, bins of distance")
    axes.set_ylabel("tau, mass at which an image is reduced")
    axes.set_title(title)


def _stretched(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Limits of the greys: none is so dark that neighbours look alike."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return low, high + (0.5 * (high - low) or 1)


def _alphas(group: Group, series: Sequence[Sequence[Line]]) -> Figure:
    with styled():
        canvas = Canvas(figsize=(7.2, 4.8), layout="constrained")
        canvas.suptitle(f"Share of attention in a step of the walk · {group.title}", fontsize=9)
        upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for at, lines in enumerate(series):
            x = [float(line.record.job.params["alpha"]) for line in lines]
            rows = [line.row for line in lines]
            method = look_of(lines[0].record.job.method)
            look: dict[str, Any] = {
                "color": method.colour,
                "ls": DASHES[at % len(DASHES)],
                "marker": method.marker,
                "mfc": SHADES[at % len(SHADES)],
            }
            y = np.array([float(row["delta_top1"]) for row in rows])
            bars = np.array([(row["delta_low"], row["delta_high"]) for row in rows], dtype=float)
            upper.errorbar(x, y, yerr=np.abs(bars.T - y), capsize=2, label=_name(lines), **look)
            lower.plot(x, [float(row["reduction_pct"]) for row in rows], **look)
        upper.axhline(0, color="0.5", lw=0.8, ls=":")
        upper.set_ylabel("difference to the unpruned\nmodel in points of top-1")
        lower.set_ylabel("change of the\nMACs in %")
        lower.set_xlabel("alpha")
        canvas.legend(loc="outside lower center", ncols=2)
        found = [
            (float(x.row["delta_top1"]), x.record.job.params["alpha"]) for s in series for x in s
        ]
        return finished(
            canvas,
            f"alpha.{group.name}",
            title=f"alpha: {group.title}",
            caption="What the share of attention in a step of the walk (alpha) does, the knob "
            f"found anew for each on {group.title}. Bars: paired 95 % intervals. Below: the work "
            "that the knobs came to on these images. A budget that no knob meets has no mark.",
            alt=f"Lines over alpha. The smallest loss is {max(found)[0]:+.2f} points at "
            f"alpha={max(found)[1]:g}, the largest {min(found)[0]:+.2f} at {min(found)[1]:g}.",
        )


def _name(lines: Sequence[Line]) -> str:
    """What the lines of a series share."""
    row = lines[0].row
    options = {k: v for k, v in json.loads(row["options"]).items() if k != "alpha"}
    words = [f"{name}={value}" for name, value in options.items()]
    return " ".join([row["method"], *words, f"at {row['target']:g} %"])


HEAT_MAP = Picture(
    "k-tau",
    "records over at least two values each of k and method.tau (experiment=fig6)",
    heat_maps,
)
ALPHA = Picture(
    "alpha",
    f"records of at least {LEAST} values of method.alpha at one budget (experiment=alpha)",
    alphas,
)
