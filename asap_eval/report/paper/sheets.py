"""A table of the paper in its own layout: what it prints, what was measured, and the verdict.

Rows stand in the paper's order and sections, controls below them. Several rows of ours may answer
one of the paper (another reading); one that nobody ran keeps its printed figures and is not run.
Records of random weights never enter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean

from asap_eval.experiment import Experiment, load
from asap_eval.paper import COLUMNS, PaperRow, PaperTable
from asap_eval.paths import conf_dir
from asap_eval.record import RunRecord
from asap_eval.report.experiment.columns import SETTINGS_OF_SEEDS as SETTINGS
from asap_eval.report.experiment.lines import MARK, images_note
from asap_eval.report.experiment.match import NO_RECORD, matched
from asap_eval.report.experiment.tables import Group, groups_of, images_of
from asap_eval.report.experiment.verdict import NOT_RUN
from asap_eval.report.layouts.columns import BELOW, METHOD, Row, present, text
from asap_eval.report.paper.cited_row import cited_row
from asap_eval.report.paper.costs import COSTS, cost_cells
from asap_eval.report.paper.measured_columns import measures
from asap_eval.report.sheet import EMPTY, THIS, Cell, Head, Line, Sheet

WORDS = (
    Head("row of the paper", kind="text"),
    Head("method", kind="text"),
    Head("settings", kind="text"),
    Head("verdict", kind="verdict"),
)
N = Head("n")
P = Head("McNemar p", group=COLUMNS["acc_delta"].head)

PAIRED = ("acc_delta", "flops_delta_pct")
"""Columns that tell what an accuracy is worth: measured, beside every printed accuracy."""


@dataclass(frozen=True)
class Placed:
    """A line of ours: the paper's row that it answers, if any, and the section it stands in."""

    section: str
    answers: PaperRow | None
    line: Line
    ran: bool


def table_sheet(table: PaperTable, records: Sequence[RunRecord], model: str | None = None) -> Sheet:
    """One table of the paper from records.

    Args:
        model: rows and records of this model alone; None = all.
    """
    experiment = experiment_of(table)
    if model is not None:
        records = [record for record in records if record.job.model == model]
        experiment = experiment.on(model) if experiment else None
    return paper_sheet(table, experiment, records)


def experiment_of(table: PaperTable) -> Experiment | None:
    """The experiment whose rows are a table's; None where there is no such file."""
    if not (conf_dir() / "experiment" / f"{table.experiment}.yaml").is_file():
        return None
    return load(table.experiment)


def paper_sheet(
    table: PaperTable, experiment: Experiment | None, records: Sequence[RunRecord]
) -> Sheet:
    """One table of the paper.

    Args:
        experiment: whose rows are the table's; None = there is none, nothing was run.
        records: of a folder; those that are its rows are found.
    """
    records = [r for r in records if r.provenance.weights.get("trained")]
    groups: list[Group] = []
    if experiment is not None:
        groups = _telling(groups_of(experiment, matched(experiment, records), records))
    placed = [list(_placed(table, group)) for group in groups]
    lines: list[Line] = []
    heads: list[str] = []
    for section in table.sections:
        own = [p for p in placed if any(one.section == section for one in p)]
        blocks = [[one for one in p if one.section == section] for p in own] or [[]]
        for at, block in enumerate(blocks):
            label = section if len(blocks) == 1 else f"{section} ({at + 1})".strip()
            lines += _block(table, section, label, block)
            if own and any(one.ran for one in block):
                heads.append(_about_block(label, groups[placed.index(own[at])]))
    for group, block in zip(groups, placed, strict=True):
        if any(one.section not in table.sections for one in block):
            foreign = [one.line for one in block if one.ran]
            lines += foreign
            heads += [_about_block(foreign[0].section, group)] if foreign else []
    sheet = Sheet(
        name=f"table{table.name}" if table.name.isdigit() else table.name,
        title=f"{table.label}: {table.title}",
        caption=(experiment.about.asks or "") if experiment else "",
        columns=_heads(table),
        rows=tuple(lines),
        footnotes=tuple(_notes(experiment, groups, heads)),
        commands=((THIS, f"asap-eval report table={table.name}"),),
    )
    return _trimmed(table, sheet)


def _telling(groups: Sequence[Group]) -> list[Group]:
    """Groups with a method in them; one without counts where its model has no other."""

    def model(group: Group) -> object:
        return group.lines[0]["model"] if group.lines else None

    told = [
        g for g in groups if any(f.record and f.entry.method != "none" for f in chain(*g.found))
    ]
    models = [model(group) for group in told]
    return [group for group in groups if group in told or model(group) not in models]


def _placed(table: PaperTable, group: Group) -> Iterator[Placed]:
    """The lines of a group; a control stands in the section of the last published row above it."""
    entries = [found[0].entry for found in group.found]
    places = [cited_row(entry, table) for entry in entries]
    model = group.lines[0]["model"] if group.lines else None
    published = [p for p, e in zip(places, entries, strict=True) if p and e.model == model]
    # Another model than the paper's gets a section of its own, with no figures beside it.
    section = published[0].section if published else str(model)
    for entry, place, found, row in zip(entries, places, group.found, group.lines, strict=True):
        answers = place if published and place and entry.model == model else None
        section = answers.section if answers else section
        label = place.row if place else None
        records = [f.record for f in found if f.record is not None]
        line = _line(table, answers, label, section, row, records)
        yield Placed(section, answers, line, bool(records))


def _block(table: PaperTable, section: str, label: str, block: Sequence[Placed]) -> Iterator[Line]:
    """A section: rows before the first of the paper, the paper's, then controls that ran."""
    rows = [row for row in table.rows if row.section == section]
    first = next((at for at, one in enumerate(block) if one.answers), len(block))
    controls = [one for one in block if one.ran and one.answers is None]
    before = [one for one in block[:first] if one in controls]
    yield from (_in(label, one.line) for one in before)
    for row in rows:
        answers = [one for one in block if one.answers is row]
        if not answers:
            answers = [Placed(section, row, _unasked(table, row), False)]
        yield from (_in(label, one.line) for one in answers)
    yield from (_in(label, one.line) for one in controls if one not in before)


def _in(section: str, line: Line) -> Line:
    return replace(line, section=section)


def _heads(table: PaperTable) -> tuple[Head, ...]:
    """Words, n, four columns for each figure of the paper, and what it cost."""
    heads = [*WORDS, N]
    for name in _columns(table):
        column = COLUMNS[name]
        for part in ("published", "measured", "difference", "interval"):
            heads.append(Head(part, column.unit, group=column.head))
        if name == "acc_delta":
            heads.append(P)
    return (*heads, *(head for head, _, _ in COSTS))


def _columns(table: PaperTable) -> tuple[str, ...]:
    more = PAIRED if "acc" in table.columns else ()
    return (*table.columns, *(name for name in more if name not in table.columns))


def _line(
    table: PaperTable,
    answers: PaperRow | None,
    label: str | None,
    section: str,
    row: Row,
    records: Sequence[RunRecord],
) -> Line:
    """One row; figures of several seeds are means, and so are the bounds of their intervals."""
    cells = [
        Cell(text(label)),
        Cell(METHOD.cell(row)),
        Cell(SETTINGS.cell(row)),
        Cell(text(row["verdict"])),
        _n(records),
    ]
    for name, measure in measures(_columns(table)).items():
        column = COLUMNS[name]
        form = f"{{:{'+' if column.signed else ''}.{column.digits}f}}"
        printed = answers.value(name) if answers else None
        value = _mean([measure.value(record) for record in records])
        bounds = [found for r in records if (found := measure.interval(r)) is not None]
        cells.append(_printed(answers, name))
        cells.append(EMPTY if value is None else Cell(form.format(value), value))
        apart = None if value is None or printed is None else value - printed
        signed = f"{{:+.{column.digits}f}}"
        cells.append(
            EMPTY if apart is None or not column.compared else Cell(signed.format(apart), apart)
        )
        cells.append(_interval(bounds, form))
        if name == "acc_delta":
            cells.append(_p(row))
    commands = tuple(portable(record.provenance.command) for record in records)
    return Line((*cells, *cost_cells(row)), section, commands)


def _unasked(table: PaperTable, row: PaperRow) -> Line:
    """A row of the paper that no row of ours answers."""
    cells = [Cell(row.row), EMPTY, EMPTY, Cell(f"{NOT_RUN}: {NO_RECORD}"), EMPTY]
    for name in _columns(table):
        cells += [_printed(row, name), EMPTY, EMPTY, EMPTY]
        cells += [EMPTY] if name == "acc_delta" else []
    return Line((*cells, *[EMPTY] * len(COSTS)))


def _printed(row: PaperRow | None, name: str) -> Cell:
    shown = row.printed.get(name, "") if row else ""
    return Cell(shown, row.value(name)) if row and shown else EMPTY


def _n(records: Sequence[RunRecord]) -> Cell:
    """Samples in the denominator; of several tasks all their samples."""
    counts = [r.metrics.n for r in records if r.metrics]
    if not counts:
        counts = [sum(t.get("n", 0) for t in r.tasks.values()) for r in records if r.tasks]
    return Cell(str(min(counts)), min(counts)) if counts else EMPTY


def _p(row: Row) -> Cell:
    p = row["mcnemar_p"]
    if not present(p):
        return EMPTY
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", float(p))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def _interval(bounds: Sequence[Sequence[float]], form: str) -> Cell:
    if not bounds:
        return EMPTY
    low, high = (fmean(pair[at] for pair in bounds) for at in (0, 1))
    return Cell(f"[{form.format(low)}, {form.format(high)}]")


def _trimmed(table: PaperTable, sheet: Sheet) -> Sheet:
    """Without columns that nobody fills; those of the paper's figures stay."""
    printed = {COLUMNS[name].head for name in table.columns}
    return sheet.only(
        {
            at
            for at, head in enumerate(sheet.columns)
            if head in (*WORDS, N)
            or (head.group in printed and head.name in ("published", "measured"))
            or any(line.cells[at] != EMPTY for line in sheet.rows)
        }
    )


def _about_block(label: str, group: Group) -> str:
    head = portable(group.head)
    return f"{label}: {head}" if label else head


def _notes(
    experiment: Experiment | None, groups: Sequence[Group], heads: Sequence[str]
) -> Iterator[str]:
    yield from dict.fromkeys(heads)
    if experiment is None:
        return
    yield from experiment.about.notes
    lines = [line for group in groups for line in group.lines]
    images = (
        images_note([f for line in group.found for f in line], images_of(experiment.about))
        for group in groups
    )
    yield from dict.fromkeys(note for note in images if note)
    if any(line["below_random"] for line in lines):
        yield f"{BELOW} below random patches at the same budget"
    if any(line["seeds"] > 1 for line in lines):
        yield "several seeds: figures and bounds of intervals are means over them"
    if any(MARK in str(line["verdict"]) for line in lines):
        yield "interval: 95 % over images; of throughput, p10 to p90 of the rounds"


def portable(words: str) -> str:
    """A command or a head without the folders of one machine: of an absolute path its last name."""
    quoted = re.sub(r"(['\"])/(?:[^/'\"]+/)+(?=[^/'\"])", r"\1…/", words)
    return re.sub(r"(?<![^\s=])/(?:[^\s/=]+/)+(?=[^\s/])", "…/", quoted)
