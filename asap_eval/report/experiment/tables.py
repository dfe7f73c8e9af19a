"""Tables of an experiment: one for each model and each set of records that may be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from asap_eval.errors import RecordError
from asap_eval.experiment import About, Entry, Experiment
from asap_eval.record import RunRecord
from asap_eval.report.experiment.beside import Beside
from asap_eval.report.experiment.columns import experiment_layout
from asap_eval.report.experiment.grid import grid
from asap_eval.report.experiment.lines import facts, images_note, line_of
from asap_eval.report.experiment.match import Found, matched
from asap_eval.report.experiment.task_table import changes, scores
from asap_eval.report.experiment.tasks import task_columns, tasks_of
from asap_eval.report.experiment.verdict import NOT_COMPARABLE
from asap_eval.report.frame import CONTROL, FIELDS, comparable, frame
from asap_eval.report.layouts.columns import BELOW, Row, counted_notes, laid_out, name_of, present
from asap_eval.report.layouts.overview import (
    COMPARED,
    LAYOUTS,
    data_notes,
    layout_of,
    overview,
    title_of,
)
from asap_eval.report.paper.claims import claims
from asap_eval.report.paper.scaling_law import scaling_law
from asap_eval.report.sheet import Sheet, sheet_of_text

OTHERS = ("none", CONTROL)
"""Methods with whose records other rows are compared."""


@dataclass(frozen=True)
class Group:
    """The lines that may be compared.

    Attributes:
        head: what stands beside the title. found, lines: by line, and as rows. records: of them.
        tasks: where the benchmark has several. model: None where no row ran.
    """

    head: str
    found: list[list[Found]]
    lines: list[Row]
    records: list[RunRecord]
    tasks: list[str]
    model: str | None


def experiment_tables(
    experiment: Experiment,
    found: Sequence[Found],
    records: Sequence[RunRecord],
    beside: Mapping[str, Beside] | None = None,
) -> list[Sheet]:
    """A table for each model and group that may be compared; empty columns left out.

    Rows of benchmarks with a layout of their own are shown in that, unless they name tasks.

    Args:
        found: rows and what became of them. records: theirs, and those they compare with.
        beside: the same rows on other images, by the model (`lines_beside`); for tables of one
            accuracy a row.
    """
    own = [
        f
        for f in found
        if f.entry.bench in LAYOUTS and f.entry.bench not in COMPARED and not f.entry.names_tasks
    ]
    tables = _own_tables(own, experiment.about)
    left = {id(f) for f in own}
    found = [f for f in found if id(f) not in left]
    for group in groups_of(experiment, found, records) if found else []:
        other = (beside or {}).get(group.model or "")
        tables += (
            _task_tables(experiment.about, group)
            if group.tasks
            else _table(experiment.about, group, other)
        )
        firsts = [line[0] for line in group.found]
        if experiment.about.layout == "grid" and any(f.entry.swept for f in firsts):
            tables.append(grid(firsts, group.lines))
    if experiment.about.layout == "claims":
        tables += claims(records, experiment=experiment)
    if experiment.about.layout == "law":
        tables += scaling_law()
    return tables


def _own_tables(found: Sequence[Found], about: About) -> list[Sheet]:
    """Tables of benchmarks with a layout of their own; rows that did not run stand below them."""
    records = {f.record.key: f.record for f in found if f.record is not None}
    printed = any(f.entry.published for f in found)
    beside = {
        f.record.key: _printed(f, f.record) | {"place": place}
        for place, f in enumerate(found)
        if printed and f.record
    }
    tables = overview(list(records.values()), beside)
    if tables and beside:
        title = ": ".join(part for part in (about.paper, about.title) if part)
        notes = (*([about.asks] if about.asks else []), *about.notes)
        tables[0] = replace(tables[0], title=f"{title} · {tables[0].title}").noted(above=notes)
    ran = {id(f.entry) for f in found if f.record is not None}
    missing = [f for f in found if id(f.entry) not in ran]
    why = [f"{f.entry.describe()}: {f.verdict}" for f in missing]
    if tables and why:
        tables[0] = tables[0].noted(*why)
    elif why:
        tables = [sheet_of_text("no record", ["row"], [[line] for line in why])]
    return tables


def _printed(found: Found, record: RunRecord) -> Row:
    """What the paper prints for a row, and why it cannot be compared with another model's."""
    row = facts(found.entry.published)
    if found.entry.published and record.job.model != found.entry.model:
        row["published_not_comparable"] = f"published for {found.entry.model}"
    return row


def experiment_frame(
    experiment: Experiment, found: Sequence[Found], records: Sequence[RunRecord]
) -> pd.DataFrame:
    """The lines of all tables as numbers, nothing rounded."""
    groups = groups_of(experiment, found, records)
    return pd.DataFrame([line for group in groups for line in group.lines])


def groups_of(
    experiment: Experiment, found: Sequence[Found], records: Sequence[RunRecord]
) -> list[Group]:
    """The lines of an experiment: a group for each table."""
    if experiment.compares:
        found = [_trained(f) for f in found]
        records = [record for record in records if record.provenance.weights.get("trained")]
    done: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status == "done":
            done[comparable(record)].append(record)
    used = {f.record.key for f in found if f.record}
    keys = _keys(found)
    shown = [r for key in keys for r in done[key] if r.key in used or r.job.method in OTHERS]
    rows: dict[str, Row] = {}
    if shown:
        rows = {str(row["key"]): row for row in frame(shown).to_dict("records")}
    groups = []
    for key, model in keys.items():
        here = done[key]
        lines = _lines(found, key, model)
        if not any(f[0].entry.method == "none" for f in lines):
            unpruned = [r for r in here if r.job.method == "none"]
            lines = [[Found(Entry({"method": "none"}), r)] for r in unpruned] + lines
        samples = images_of(experiment.about)
        cells = [line_of(f, rows, samples, _blank(model)) for f in lines]
        if tasks := tasks_of([f for line in lines for f in line], here):
            _add_tasks(experiment.about, cells, lines, tasks, here)
        groups.append(Group(_head(model, cells), lines, cells, here, tasks, model))
    return groups


def lines_beside(experiment: Experiment, records: Sequence[RunRecord]) -> dict[str, Beside]:
    """What each line came to in records of the experiment on other images, by the model.

    Raises:
        RecordError: they are of several sets of images, so that a line has no one figure.
    """
    found: dict[str, Beside] = {}
    for group in groups_of(experiment, matched(experiment, records), records) if records else []:
        ran = {row["line"]: row for row in group.lines if row["seeds"]}
        if not ran or group.model is None:
            continue
        if group.model in found:
            raise RecordError(
                f"The records beside are of several sets of images or precisions of {group.model}: "
                "give a folder with one."
            )
        first = next(iter(ran.values()))
        found[group.model] = Beside(str(first["data_name"]), int(first["n"]), ran)
    return found


def images_of(about: About) -> int | None:
    """How many images every published figure stands on; None where tasks differ in it."""
    return about.samples if isinstance(about.samples, int) else None


def _add_tasks(
    about: About,
    cells: Sequence[Row],
    lines: Sequence[Sequence[Found]],
    tasks: Sequence[str],
    records: Sequence[RunRecord],
) -> None:
    """Columns of every task in every line, and their verdict where the line itself has none."""
    unpruned = next((r for r in records if r.job.method == "none"), None)
    firsts = (line[0].entry for line in lines)
    printed = next((e.published for e in firsts if e.method == "none" and e.published), None)
    samples = about.samples if isinstance(about.samples, dict) else {}
    for row, found in zip(cells, lines, strict=True):
        row |= task_columns(found, tasks, unpruned, printed, samples)
        row["verdict"] = row["verdict"] or row["task_verdict"]


def _trained(found: Found) -> Found:
    record = found.record
    if record is None or record.provenance.weights.get("trained"):
        return found
    return Found(found.entry, None, "random weights", record.job.model, NOT_COMPARABLE)


def _keys(found: Sequence[Found]) -> dict[tuple[str, ...], str | None]:
    """What names each table, and its model, in the order of the rows."""
    keys: dict[tuple[str, ...], str | None] = {}
    for f in found:
        if f.record is not None:
            keys.setdefault(comparable(f.record), f.record.job.model)
    models = set(keys.values())
    for f in found:
        if f.record is None and f.model is not None and f.model not in models:
            keys.setdefault((f.model,), f.model)
    place = {model: at for at, model in reversed(list(enumerate(map(_model, found))))}
    return dict(sorted(keys.items(), key=lambda pair: place[pair[1]])) or {(): None}


def _model(found: Found) -> str | None:
    return found.record.job.model if found.record else found.model


def _lines(found: Sequence[Found], key: tuple[str, ...], model: str | None) -> list[list[Found]]:
    """Rows of one table in order; those that differ in their seed alone together."""
    chosen: dict[int, Found] = {}
    for f in found:
        if f.record is not None and comparable(f.record) == key:
            chosen[id(f.entry)] = f
        elif f.record is None and f.model in (model, None):
            chosen.setdefault(id(f.entry), f)
    lines: dict[str, list[Found]] = {}
    for at in dict.fromkeys(id(f.entry) for f in found):
        if at in chosen:
            lines.setdefault(chosen[at].entry.line, []).append(chosen[at])
    return list(lines.values())


def _blank(model: str | None) -> Row:
    names = ("model_params", "k", "options", "random_top1", "below_random", "data_notes", "counted")
    return {**dict.fromkeys((*FIELDS, *names)), "model": model}


def _head(model: str | None, lines: Sequence[Row]) -> str:
    ran = next((line for line in lines if present(line["n"])), None)
    return title_of(ran) if ran else model or "no record"


def _table(about: About, group: Group, beside: Beside | None = None) -> list[Sheet]:
    benches = [str(line["bench"]) for line in group.lines if present(line["bench"])]
    layout = experiment_layout(layout_of(benches[0] if benches else ""), beside)
    notes = [*_notes(about, group), *([] if beside is None else [beside.note])]
    return [
        laid_out(
            _title(about, group),
            layout,
            group.lines,
            notes=notes,
            short_notes=[*notes, *_not_run(group)],
            commands=_commands(group),
        )
    ]


def _task_tables(about: About, group: Group) -> list[Sheet]:
    """Scores, and below them the changes from the unpruned model where they were measured."""
    title, notes = _title(about, group), _notes(about, group)
    first = scores(title, group.tasks, group.lines, notes, _commands(group))
    first = replace(first, short_notes=(*first.footnotes, *_not_run(group)))
    second = changes(title, group.tasks, group.lines)
    return [first] if second is None else [first, second]


def _not_run(group: Group) -> list[str]:
    """Why rows have no figures, a line each, for tables whose verdict is a word."""
    return [
        f"{name_of(line)} {line['verdict']}"
        for line in group.lines
        if line["seeds"] == 0 and present(line["verdict"])
    ]


def _title(about: About, group: Group) -> str:
    title = ": ".join(part for part in (about.paper, about.title) if part)
    return f"{title} · {group.head}" if title else group.head


def _commands(group: Group) -> list[tuple[str, ...]]:
    """Of the records behind each line."""
    return [tuple(f.record.provenance.command for f in found if f.record) for found in group.found]


def _notes(about: About, group: Group) -> list[str]:
    notes = [about.asks] if about.asks else []
    notes += about.notes
    notes.append("settings: every option not at its default (asap-eval ls --options)")
    found = [f for line in group.found for f in line]
    if note := images_note(found, images_of(about)):
        notes.append(note)
    if any(line["trained"] is False for line in group.lines):
        notes.append("random weights, not comparable")
    if any(line["below_random"] for line in group.lines):
        notes.append(f"{BELOW} below random patches at the same budget")
    notes += counted_notes(group.lines) + data_notes(group.lines)
    if any(line["seeds"] > 1 for line in group.lines):
        notes.append(
            "Several seeds: mean (least to most); the interval of Δ is the mean of theirs, which "
            "is too wide rather than too narrow."
        )
    return notes
