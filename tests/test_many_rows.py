"""Rows of a run are read from their file as often as statistics ask, and never held whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import vlm_rows

from asap_eval.bench.imagenet import ImageNet
from asap_eval.bench.language.rows import work_summary
from asap_eval.bench.language.scores import by_task, difference, task_block
from asap_eval.data.questions.lmms import totals_of
from asap_eval.errors import RecordError
from asap_eval.hosts import geometry_of
from asap_eval.record.journal import Chosen, Journal, Row, Rows, Stored
from asap_eval.statistics import paired
from asap_eval.work.rows import columns, readable

MANY = 10_000
NUMBERS = 400
"""Bytes a row that statistics may hold; a row itself takes one to two thousand."""
BLOCK = 3 << 20
"""Bytes of the rows that are read at once, with what reads them."""


def image(place: int) -> Row:
    return {
        "id": f"{place}.png",
        **{"label": place % 10, "prediction": place % 7, "correct": place % 10 == place % 7},
        **{"top5": place % 3 > 0, "fired": place % 12, "tokens": 100 + place % 50},
        **{"layer_mean": 150.0 + place % 9, "model_macs": 1e9 + place, "attention_macs": 1e8},
        **{"method_macs": 1e6 + place % 5, "error": None},
    }


def kept(folder: Path, rows: list[Row], name: str = "x") -> Stored:
    journal = Journal(folder / f"{name}.samples.jsonl")
    journal.append(rows)
    return Stored(journal, len(rows))


def peak(made: Callable[[], Any]) -> tuple[Any, int]:
    """What was made, and the most bytes that it took on the way."""
    made()  # what is imported and compiled on the way counts for nobody
    tracemalloc.start()
    try:
        return made(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_images_are_summarised_from_the_file(tmp_path: Path) -> None:
    rows, bench, shapes = [image(at) for at in range(MANY)], ImageNet(), geometry_of(tiny.vit())

    def summarised(found: Rows) -> Any:
        both = ([row["correct"] for row in found] for _ in range(2))
        return bench.summarise(found, shapes, "full"), paired(*both)

    stored = kept(tmp_path, rows)
    found, most = peak(lambda: summarised(stored))
    assert found == summarised(rows)
    assert most < BLOCK + NUMBERS * MANY


@pytest.mark.parametrize("name", ["vqav2_val", "mme", "pope"])
def test_questions_are_scored_from_the_file(name: str, questions: Path, tmp_path: Path) -> None:
    asked = vlm_rows.asked(questions, name)
    geometry: Any = SimpleNamespace(tower=SimpleNamespace(depth=12))
    few = [vlm_rows.rows_of(asked, said) for said in (lambda _: "yes", lambda _: "no")]
    count = MANY if name == "vqav2_val" else len(few[0])  # the others are scored as whole sets
    own, before = ([one[at % len(one)] for at in range(count)] for one in few)

    def scored(own: Rows, before: Rows) -> Any:
        work = work_summary(readable(own, "questions"), geometry, "full")
        new, old = (by_task(rows, [asked.task])[name] for rows in (own, before))
        blocks = [task_block(totals_of(asked.task), one) for one in (new, old)]
        return work, blocks, difference(*blocks, new, old)

    files = kept(tmp_path, own, "own"), kept(tmp_path, before, "before")
    found, most = peak(lambda: scored(*files))
    assert found == scored(own, before)
    assert most < BLOCK + 2 * NUMBERS * count


def test_rows_that_failed_are_passed_over(tmp_path: Path) -> None:
    lost = {**image(0), "id": "lost.png", "error": "torn", "tokens": None}
    read = readable(kept(tmp_path, [image(0), lost, image(1)]), "images")
    assert isinstance(read, Chosen)
    assert [row["id"] for row in read] == ["0.png", "1.png"]
    assert (len(read), image(1) in read, lost in read) == (2, True, False)
    assert columns(read, {"tokens": "q"})["tokens"].tolist() == [100, 101]


def test_a_file_of_other_rows_is_refused(tmp_path: Path) -> None:
    rows = kept(tmp_path, [image(0), image(1)])
    assert (list(rows), image(1) in rows) == ([image(0), image(1)], True)
    kept(tmp_path, [image(2)])
    with pytest.raises(RecordError, match="has 3 samples, not 2"):
        list(rows)
