"""How many tokens each method leaves of an image: the distribution over images."""

from __future__ import annotations

import json
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from asap_eval.errors import RecordError
from asap_eval.report.layouts.columns import Row, number, present
from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, beside, groups
from asap_eval.report.pictures.looks import look_of

INCH = 0.24
"""Height of a line of the picture."""
LEAST = 20
"""Images that make a distribution."""


def tokens(records: Sequence[Found]) -> list[Figure]:
    """A figure for each group and budget with two or more methods or settings."""
    found = []
    for group in groups(records):
        parts: dict[str, list[tuple[Line, list[int]]]] = {}
        for line in group.lines:
            if present(line.row["target"]) and len(counts := _counts(line)) >= LEAST:
                target = f"{line.row['budget']} {line.row['target']:g}"
                parts.setdefault(target, []).append((line, counts))
        found += [_figure(group, target, p) for target, p in parts.items() if len(p) > 1]
    return found


def _counts(line: Line) -> list[int]:
    """Tokens after the last block of every readable image, of a video of each of its frames, over
    all seeds; [] without samples.

    Raises:
        RecordError: the file of samples is there and is not whole.
    """
    counts: list[int] = []
    for path, record in line.found:
        file = beside(path, record.samples)
        if file is None:
            return []
        try:
            rows = [json.loads(text) for text in file.read_text("utf-8").splitlines()]
            for row in rows:
                if row["error"] is None:
                    left = row["tokens"]
                    counts += left if isinstance(left, list) else [left]
        except (OSError, ValueError, KeyError) as error:
            raise RecordError(
                f"{file} is no whole file of samples ({error}). Run the job again."
            ) from error
    return counts


def _figure(group: Group, target: str, parts: Sequence[tuple[Line, list[int]]]) -> Figure:
    unit = " %" if target.startswith("macs") else ""
    with styled():
        canvas = Canvas(figsize=(7.8, 1.5 + INCH * len(parts)), layout="constrained")
        axes = canvas.add_subplot()
        canvas.suptitle(
            f"Tokens left after the last block · {group.title} · {target}{unit}", fontsize=9
        )
        boxes = axes.boxplot(
            [counts for _, counts in parts][::-1],
            orientation="horizontal",
            whis=(0, 100),
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": "0.92"},
            medianprops={"color": "black", "lw": 2},
            showmeans=True,
        )
        for box, mean, (line, _) in zip(boxes["boxes"], boxes["means"], parts[::-1], strict=True):
            look = look_of(line.record.job.method)
            box.set(edgecolor=look.colour, linewidth=1.6)
            mean.set(markersize=5, **look.mark)
        names = [f"{line.label}  {_change(line.row)}" for line, _ in parts][::-1]
        axes.set_yticks(range(1, len(parts) + 1), names, fontsize=7.5)
        axes.set_ylim(0.3, len(parts) + 0.7)
        axes.set_xlim(left=0)
        axes.set_xlabel("patch and pooled tokens of an image (line: median, mark: mean)")
        spread = [(max(c) - min(c), line.label, min(c), max(c)) for line, c in parts]
        widest = max(spread)
        return finished(
            canvas,
            f"tokens.{group.name}.{target.replace(' ', '')}",
            title=f"Tokens left after the last block: {group.title}, budget {target}{unit}",
            caption="Patch and pooled tokens of an image after the last block, over the images of "
            f"{group.title}: quartiles in the box, all images between the whiskers; behind each "
            "name the change of the MACs. Methods that keep the same count of every image are a "
            "line. The work is decided by when tokens go as much as by how many.",
            alt=f"Box plots of {len(parts)} settings. The widest is {widest[1]}: {widest[2]} to "
            f"{widest[3]} tokens.",
        )


def _change(row: Row) -> str:
    return f"({number(row['reduction_pct'], '{:+.1f}')} %)"


TOKENS = Picture(
    "tokens",
    f"at least two records with one budget on the same {LEAST} or more images, and their samples",
    tokens,
)
