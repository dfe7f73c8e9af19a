"""Layout of an experiment that sweeps two keys: top-1 as a grid of their values."""

from __future__ import annotations

from collections.abc import Sequence

from asap_eval.report.experiment.match import Found
from asap_eval.report.layouts.columns import BELOW, Row, number, present
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text


def grid(found: Sequence[Found], lines: Sequence[Row]) -> Sheet:
    """Rows of one key, columns of the other, in the order of the file; cells top-1 (MACs)."""
    cells = {
        tuple(map(str, f.entry.swept.values())): _cell(line)
        for f, line in zip(found, lines, strict=True)
        if f.entry.swept
    }
    down, across = next(tuple(f.entry.swept) for f in found if f.entry.swept)
    heads = list(dict.fromkeys(column for _, column in cells))
    rows = [
        [label, *(cells.get((label, column), DASH) for column in heads)]
        for label in dict.fromkeys(label for label, _ in cells)
    ]
    names = [name.rpartition(".")[2] for name in (down, across)]
    title = f"top-1 % (change of the MACs in %) over {names[0]} (down) and {names[1]} (across)"
    return sheet_of_text(title, [f"{names[0]} \\ {names[1]}"], rows, numbers=heads)


def _cell(line: Row) -> str:
    if not present(line["top1"]):
        return DASH
    mark = f" {BELOW}" if line["below_random"] else ""
    return f"{line['top1']:.2f} ({number(line['reduction_pct'], '{:+.1f}')}){mark}"
