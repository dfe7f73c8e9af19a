"""``asap-eval cases``: pictures of the answers that a method fixed or broke.

Every case gets a sheet: its question, the right answer, the unpruned model's and the method's, and
what each stage of the method kept of the picture. ``index.md`` lists all cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from asap_eval.bench.language.asked import ready_of
from asap_eval.bench.language.keepmaps import Kept, keep_maps, stages_of
from asap_eval.cli.crops import maps_of
from asap_eval.cli.machine import device_of
from asap_eval.cli.report.cases import Choice, chosen_cases
from asap_eval.cli.words import Count, command
from asap_eval.data.questions.question_set import Asked, Question, QuestionSet
from asap_eval.errors import (
    AsapEvalError,
    BadValueError,
    DataError,
    RecordError,
    WeightsError,
)
from asap_eval.models import LoadedVlm
from asap_eval.record import RunRecord
from asap_eval.report.cases import COLUMNS, Case, Compared, cells_of
from asap_eval.report.pictures.case_sheet import Stage, case_sheet
from asap_eval.report.pictures.kinds import write
from asap_eval.report.pictures.panels import BESIDE
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text
from asap_eval.report.text import as_text, save
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.runner.progress import bar


@dataclass
class Drawing(Choice):
    """The cases, and how they are drawn."""

    out: Path = Path("cases")  # folder to write
    most: Count = 8  # sheets of each outcome and record, 0 = all
    data: str | None = None  # where the questions are, if no longer where the record says
    weights: str | None = None  # where the model is, likewise
    device: str | None = None  # to run on, if not that of the record


MOVED = ("data", "weights", "device")
"""Keys that stand for those of a record's job."""
MORE = ("method, run again", "picture")
"""Columns of the index behind those of the cases."""


@dataclass(frozen=True)
class Drawn:
    """What became of a case: the method's answer when it ran again, and the sheet or why none."""

    again: str
    picture: str


def main(argv: Sequence[str]) -> int:
    """Write sheets and index; standard output gets their paths.

    Returns:
        2 where the call is wrong, 1 where nothing can be drawn.
    """
    return command(argv, Drawing, "cases", str(__doc__), _written)


def _written(wanted: Drawing) -> None:
    found = chosen_cases(wanted)
    _check_any(found, wanted.task)
    drawn = [_drawn(one, wanted) for one in found]
    index = [_index(*pair) for pair in zip(found, drawn, strict=True)]
    try:
        save(as_text(index, "markdown"), wanted.out / "index.md")
    except OSError as error:
        raise AsapEvalError(f"{error.filename} cannot be written: {error.strerror}.") from error
    print(wanted.out / "index.md")


def _check_any(found: Sequence[Compared], task: str) -> None:
    if not any(one.cases for one in found):
        raise RecordError(
            f"No answer of task {task} was fixed or broken by "
            f"{', '.join(one.name for one in found)}: there is nothing to draw. (Answers that can "
            "be right in part, as VizWiz's and VQAv2's, are neither.)"
        )


def _drawn(one: Compared, wanted: Drawing) -> dict[str, Drawn]:
    """What became of every chosen case of a record, by id."""
    cases = one.first(wanted.most or None)
    if not cases:
        return {}
    ready = _opened(one.record, wanted)
    samples = cast("QuestionSet", ready.samples)  # every bench with tasks has such
    asked = next(a for a in samples.asked if a.task.name == one.task)
    found = {}
    with bar(one.name, len(cases)) as advance:
        for case in cases:
            found[case.id] = _sheet(ready, one, case, asked, wanted.out)
            advance(1)
    return found


def _opened(record: RunRecord, wanted: Drawing) -> Prepared:
    """Model and questions of a record.

    Raises:
        DataError, WeightsError: they are not what the record was made with, or not there.
    """
    moved: dict[str, Any] = {
        key: value for key in MOVED if (value := getattr(wanted, key)) is not None
    }
    if wanted.device is not None:
        moved["device"] = device_of(wanted.device)
    job = dataclasses.replace(record.job, **moved)
    try:
        ready = prepare(job)
    except DataError as error:
        raise DataError(
            f"The questions of {record.stem} cannot be opened: {error} If they moved, give "
            "data=<folder>."
        ) from error
    except WeightsError as error:
        raise WeightsError(
            f"The model of {record.stem} cannot be opened: {error} If it moved, give "
            "weights=<folder>."
        ) from error
    weights, data = record.provenance.weights["sha256"], record.provenance.data["ids_digest"]
    if ready.loaded.weights.sha256 != weights:
        raise WeightsError(
            f"{ready.loaded.weights.name} has other weights than those {record.stem} was made "
            f"with: sha256 {ready.loaded.weights.sha256[:12]}, the record says {weights[:12]}. "
            "Give theirs as weights=<folder>, or run the job again."
        )
    pictures = record.provenance.data.get("content", ready.content)
    if ready.samples.digest == data and ready.content != pictures:
        raise DataError(
            f"data={job.data} has the questions that {record.stem} was made with, but other "
            "pictures. Give theirs as data=<folder>, or run the job again."
        )
    if ready.samples.digest != data:
        raise DataError(
            f"data={job.data} has other questions than those {record.stem} was made with: sha256 "
            f"{ready.samples.digest[:12]}, the record says {data[:12]}. Give theirs as "
            "data=<folder>, or run the job again."
        )
    return ready


def _sheet(ready: Prepared, one: Compared, case: Case, asked: Asked, out: Path) -> Drawn:
    """Run the stages on a case and draw them."""
    record = one.record
    try:
        kept = _kept(ready, record, case, asked)
        stages = [_stage(name, stage, asked) for name, stage in kept.items()]
    except (DataError, BadValueError) as error:
        return Drawn(DASH, f"none: {error}")
    names = next(iter(kept.values())).names
    figure = case_sheet(case.id.replace("/", "-"), one.name, case, names, stages)
    paths = write(figure, out / record.stem)
    for path in paths:
        print(path)
    link = f"[sheet]({paths[-1].relative_to(out).as_posix()})"
    return Drawn(stages[-1].answer or "(empty)", link)


def _kept(ready: Prepared, record: RunRecord, case: Case, asked: Asked) -> dict[str, Kept]:
    place, bench = int(case.id.rpartition("/")[2]), record.job.bench_params
    documents = asked.documents
    question = Question(case.id, documents.text(place), documents.picture(place))
    shown = ready_of(asked.judge, question)
    bound = min(asked.judge.new_tokens, bench["new_tokens"] or asked.judge.new_tokens)
    return keep_maps(
        cast(LoadedVlm, ready.loaded),
        stages_of(record.job.method, record.knob, record.job.params),
        case.id,
        shown.picture,
        shown.prompt,
        seed=record.job.seed,
        newline=bench["newline"],
        new_tokens=bound,
    )


def _stage(name: str, kept: Kept, asked: Asked) -> Stage:
    return Stage(
        name,
        asked.judge.cut(kept.answer),
        maps_of(kept),
        kept.fired.tolist(),
        {note: kept.notes[note].tolist() for note in BESIDE if note in kept.notes},
    )


def _index(one: Compared, drawn: Mapping[str, Drawn]) -> Sheet:
    """All cases of a record, with the sheets of those that have one."""
    record, without = one.record, Drawn(DASH, DASH)
    notes = [
        *one.notes,
        f"{sum(d.again != DASH for d in drawn.values())} of {len(one.cases)} cases have a sheet",
        f"weights {record.provenance.weights['name']}, data {record.provenance.data['source']}",
    ]
    rows = []
    for case in one.cases:
        what = drawn.get(case.id, without)
        rows.append([*cells_of(case), what.again, what.picture])
    sheet = sheet_of_text(
        one.title,
        [*COLUMNS, *MORE],
        rows,
        notes=notes,
        commands=[(one.name, record.provenance.command)],
    )
    return sheet.without_empty_columns() if rows else sheet
