"""Keep-maps side by side: what became of each patch of an image, method by method.

The paper's Figures 3 to 5 and 10 to 14 by meaning. A method that shows distances to its sink and
bins of them (ASAP) has both beside its map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from PIL import Image

from asap_eval.errors import RecordError
from asap_eval.report.pictures.figure import DPI, Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, beside, groups
from asap_eval.report.pictures.keep_map import DROPPED, KEPT, POOLED, KeepMap
from asap_eval.report.pictures.panels import BESIDE, COLOURS, field, legend, shown

SIDE = 168
"""Pixels of a panel in the PNG."""
ACROSS = 4
"""Panels in a row."""
WORDS = 28
"""Characters of a line above a panel."""


@dataclass(frozen=True)
class Column:
    """One method's part of a sheet: its line, and its row for the image."""

    line: Line
    row: dict[str, Any]

    @property
    def notes(self) -> dict[str, Any]:
        """Of an image that was reduced; nothing of one that never was."""
        return dict(self.row["notes"]) if self.row["fired"] else {}


def keep_maps(records: Sequence[Found]) -> list[Figure]:
    """A sheet for each image of each group of ``bench=keepmaps``.

    Raises:
        RecordError: samples or inputs beside a record are missing or not whole.
    """
    found = []
    for group in groups([pair for pair in records if pair[1].job.bench == "keepmaps"]):
        columns: dict[str, list[Column]] = {}
        for line in group.lines:
            for row in _rows(line) if line.row["method"] != "none" else []:
                if row["error"] is None:
                    columns.setdefault(row["id"], []).append(Column(line, row))
        found += [
            _sheet(group, image, parts, at) for at, (image, parts) in enumerate(columns.items(), 1)
        ]
    return found


def _rows(line: Line) -> list[dict[str, Any]]:
    """Rows of the line's first seed."""
    path, record = line.found[0]
    file = beside(path, record.samples)
    if file is None:
        raise RecordError(f"The samples of {path} are not beside it. Run the job again.")
    try:
        return [json.loads(text) for text in file.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RecordError(f"{file} cannot be read ({error}). Run the job again.") from error


def _input(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error}). Run the job again.") from error


def _sheet(group: Group, image: str, columns: Sequence[Column], number: int) -> Figure:
    first = columns[0].line
    down, across = (first.record.analysis or {})["grid"]
    grid = (int(down), int(across))
    picture = _input(first.found[0][0].parent / "inputs" / columns[0].row["input"])
    panels: list[Callable[[Axes], None]] = [
        partial(shown, image=picture, title="as the model saw it")
    ]
    for column in columns:
        drawn = map_of(column.row, picture, grid).drawn(SIDE)
        panels.append(partial(shown, image=drawn, title=_title(column)))
        panels += [
            partial(
                field, values=column.notes[name], sink=column.notes["sink"], grid=grid, name=name
            )
            for name in BESIDE
            if name in column.notes
        ]
    rows = math.ceil(len(panels) / ACROSS)
    inch = SIDE / DPI
    with styled():
        size = (ACROSS * (inch + 0.1), 0.6 + rows * (inch + 0.42))
        canvas = Canvas(figsize=size, layout="constrained")
        canvas.suptitle(f"{image} · {first.row['model']}", fontsize=9)
        for at, axes in enumerate(canvas.subplots(rows, ACROSS, squeeze=False).flat):
            axes.set_axis_off()
            if at < len(panels):
                panels[at](axes)
        canvas.legend(handles=legend(), loc="outside lower center", ncols=4, handlelength=1.4)
        counts = ", ".join(f"{c.line.row['method']} {_counts(c.row)}" for c in columns)
        return finished(
            canvas,
            f"keepmap.{group.name}.{number:02d}-{_slug(image)}",
            title=f"Keep-maps of {image}",
            caption=f"What became of each patch of {image} ({group.title}), from each run's own "
            "map of patches to tokens. Beside a method that has a sink: each patch's distance to "
            "it (dark = near) and the bin it falls into (0 is pooled or pruned).",
            alt=f"The image and {len(columns)} maps of {grid[0]} by {grid[1]} patches (kept / "
            f"pooled / dropped): {counts}.",
            colours=COLOURS,
        )


def _slug(image: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(image).stem)


def map_of(row: dict[str, Any], picture: Image.Image, grid: tuple[int, int]) -> KeepMap:
    """The map of one row of ``bench=keepmaps``."""
    sink = row["notes"].get("sink", -1)
    return KeepMap(picture, grid, row["fates"], row["source"], sink if sink >= 0 else None)


def _title(column: Column) -> str:
    """Method and options in lines that fit, then what is left and since when."""
    lines = [""]
    for word in column.line.label.split():
        lines = (
            [*lines[:-1], f"{lines[-1]} {word}".strip()]
            if len(lines[-1]) + len(word) < WORDS
            else [*lines, word]
        )
    fired = f"block {column.row['fired']}" if column.row["fired"] else "never reduced"
    return "\n".join([*lines, f"{column.row['tokens']} tokens, {fired}"])


def _counts(row: dict[str, Any]) -> str:
    return " / ".join(str(row["fates"].count(fate)) for fate in (KEPT, POOLED, DROPPED))


KEEP_MAPS = Picture(
    "keepmap", "records of bench=keepmaps with their samples and inputs beside them", keep_maps
)
