"""One case as a picture: the crops of its image, and what each stage of a method made of them.

The paper's Figure 9 by meaning. A row is a crop: the whole picture, then LLaVA-NeXT's tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from asap_eval.report.cases import Case, cells_of
from asap_eval.report.pictures.figure import DPI, Figure, finished, styled
from asap_eval.report.pictures.keep_map import DROPPED, KEPT, POOLED, KeepMap
from asap_eval.report.pictures.panels import BESIDE, COLOURS, field, legend, shown

SIDE = 216
"""Pixels of a panel in the PNG."""
LETTERS = 24
"""Characters of the caption for each panel of a row."""
LINE, LABELS = 0.17, 0.42
"""Inches of a line of the caption, and of the labels above a row."""

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Stage:
    """One stage of a method on the case.

    Attributes:
        name: of the stage. answer: the model's after it.
        maps: of every crop. fired: block that reduced each, 0 = never.
        notes: of each crop by name, for each patch: keys of `panels.BESIDE`.
    """

    name: str
    answer: str
    maps: Sequence[KeepMap]
    fired: Sequence[int]
    notes: Mapping[str, Sequence[Sequence[float]]]


def case_sheet(
    name: str, method: str, case: Case, crops: Sequence[str], stages: Sequence[Stage]
) -> Figure:
    """The sheet of a case.

    Args:
        name: of its files. method: with its settings. crops: their names, as many as maps.
        stages: at least one.
    """
    rows = [list(_panels(crop, at, stages)) for at, crop in enumerate(crops)]
    across = max(map(len, rows))
    said = [f"{stage.name}: {stage.answer or '(empty)'}" for stage in stages]
    lines = [
        line
        for text in (*caption(case, method), "run again, " + " · ".join(said))
        for line in wrap(text, LETTERS * max(across, 3)) or [""]
    ]
    with styled():
        inch = SIDE / DPI
        size = (
            max(across, 3) * (inch + 0.1),
            0.5 + LINE * len(lines) + len(rows) * (inch + LABELS),
        )
        canvas = Canvas(figsize=size, layout="constrained")
        canvas.suptitle("\n".join(_plain(line) for line in lines), fontsize=8, x=0.01, ha="left")
        axes = canvas.subplots(len(rows), across, squeeze=False)
        for row, panels in enumerate(rows):
            for column in range(across):
                axes[row, column].set_axis_off()
                if column < len(panels):
                    panels[column](axes[row, column])
        canvas.legend(handles=legend(), loc="outside lower center", ncols=4, handlelength=1.4)
        counts = "; ".join(
            f"{stage.name}: {', '.join(_counts(one) for one in stage.maps)}" for stage in stages
        )
        return finished(
            canvas,
            name,
            title=f"{case.outcome}: {case.id}",
            caption=" · ".join(caption(case, method)),
            alt=f"{len(crops)} crops of the picture, each with the patches that are kept / pooled "
            f"/ dropped. {counts}.",
            colours=COLOURS,
        )


def caption(case: Case, method: str) -> list[str]:
    """What the case is, in lines."""
    _, _, question, truth, before, after, outcome = cells_of(case)
    part = f" · {case.part}" if case.part else ""
    return [
        f"{case.id}{part} · {outcome} by {method}",
        question,
        f"right: {truth} · unpruned: {before} · method: {after}",
    ]


def _panels(crop: str, at: int, stages: Sequence[Stage]) -> Iterator[Draw]:
    """The crop, and of each stage its map and what it notes; notes of an earlier stage once."""
    yield partial(shown, image=stages[0].maps[at].image, title=f"{crop}\nas the model saw it")
    told: dict[str, Sequence[float]] = {}
    for stage in stages:
        one, fired = stage.maps[at], stage.fired[at]
        when = f"block {fired}" if fired else "not reduced in the tower"
        kept, pooled, dropped = _fates(one)
        title = f"{stage.name}, {when}\n{kept} kept, {pooled} pooled, {dropped} dropped"
        yield partial(shown, image=one.drawn(SIDE), title=_plain(title))
        for note in BESIDE:
            values = stage.notes[note][at] if note in stage.notes else None
            if values is not None and fired and one.sink is not None and told.get(note) != values:
                told[note] = values
                yield partial(field, values=values, sink=one.sink, grid=one.grid, name=note)


def _counts(one: KeepMap) -> str:
    return " / ".join(map(str, _fates(one)))


def _fates(one: KeepMap) -> list[int]:
    """Patches kept, pooled and dropped."""
    return [one.fates.count(fate) for fate in (KEPT, POOLED, DROPPED)]


def _plain(text: str) -> str:
    """Text that matplotlib does not read as a formula, without what has no glyph."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return shown.replace("$", r"\$")
