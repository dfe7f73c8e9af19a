"""Where questions lie: which files of the hub, or of a folder, are those of a task."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Hub
from hub_stand_in import hub as hub  # a fixture
from PIL import Image

from asap_eval.data.questions.documents import Documents, open_documents
from asap_eval.data.questions.tasks import TASKS
from asap_eval.errors import DataError

datasets = pytest.importorskip("datasets", reason="the extra [vlm] is not installed")

ASKED, SHOWN = "testdev_balanced_instructions", "testdev_balanced_images"
"""GQA's configs: its questions, and its pictures by their ids."""


def parquet(rows: Sequence[dict[str, Any]], path: Path | None = None) -> bytes:
    file = io.BytesIO()
    datasets.Dataset.from_list(list(rows)).to_parquet(file)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return file.getvalue()


def questions(*ids: str) -> list[dict[str, Any]]:
    return [{"imageId": one, "question": f"What is {one}?", "answer": "a"} for one in ids]


def pictures(*ids: str) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", (6, 4)).save(file, "PNG")
    return [{"id": one, "image": {"bytes": file.getvalue(), "path": None}} for one in ids]


def pope(answer: str) -> list[dict[str, Any]]:
    row = {"question_id": "0", "question": "Is it?", "answer": answer, "category": "random"}
    return [{**row, **pictures("x")[0]}]


CARD = f"""---
configs:
- config_name: {ASKED}
  data_files: [{{split: testdev, path: {ASKED}/testdev-*}}, {{split: train, path: {ASKED}/train-*}}]
- config_name: {SHOWN}
  data_files: [{{split: testdev, path: {SHOWN}/testdev-*}}, {{split: train, path: {SHOWN}/train-*}}]
---
"""


def test_of_the_hub_the_split_s_files_alone_are_fetched(hub: Hub) -> None:
    name = TASKS["gqa"].hub
    hub.files[name] = {
        "README.md": CARD.encode(),
        f"{ASKED}/testdev-0.parquet": parquet(questions("n0", "n1")),
        f"{ASKED}/train-0.parquet": parquet(questions("t0") * 50),
        f"{SHOWN}/testdev-0.parquet": parquet(pictures("n1", "n0")),
        f"{SHOWN}/train-0.parquet": parquet(pictures("t0") * 50),
    }
    found = open_documents(TASKS["gqa"], "hub")
    assert [found.text(at)["imageId"] for at in range(2)] == ["n0", "n1"]
    assert found.picture(1).size == (6, 4)
    assert sorted(file for file in hub.asked if file != "README.md") == [
        f"{SHOWN}/testdev-0.parquet",
        f"{ASKED}/testdev-0.parquet",
    ]
    assert found.commits == {name: hub.commit(name)}


def _train_alone(folder: Path) -> None:
    parquet(pope("no"), folder / "pope" / "data" / "train-0.parquet")


def _two_splits(folder: Path) -> None:
    parquet(pope("no"), folder / "pope" / "train-0.parquet")
    parquet(pope("yes"), folder / "pope" / "test-0.parquet")


def _no_split(folder: Path) -> None:
    parquet(pope("yes"), folder / "pope" / "questions.parquet")


def _in_data(folder: Path) -> None:
    parquet(pope("yes"), folder / "pope" / "data" / "test-0.parquet")


def _another_config(folder: Path) -> None:
    parquet(questions("x"), folder / "gqa" / "train_balanced_instructions" / "testdev-0.parquet")


def _double_ids(folder: Path) -> None:
    parquet(questions("x"), folder / "gqa" / ASKED / "testdev-0.parquet")
    parquet(pictures("x", "y", "x"), folder / "gqa" / SHOWN / "testdev-0.parquet")


def _no_ids(folder: Path) -> None:
    parquet(questions("x"), folder / "gqa" / ASKED / "testdev-0.parquet")
    shown = [{"image": one["image"]} for one in pictures("x")]
    parquet(shown, folder / "gqa" / SHOWN / "testdev-0.parquet")


@pytest.mark.parametrize("make", [_two_splits, _no_split, _in_data])
def test_files_of_the_task_s_split(make: Callable[[Path], None], tmp_path: Path, hub: Hub) -> None:
    make(tmp_path)
    found: Documents = open_documents(TASKS["pope"], str(tmp_path))
    assert [found.text(at)["answer"] for at in range(len(found))] == ["yes"]


@pytest.mark.parametrize(
    ("make", "task", "says"),
    [
        (_train_alone, "pope", "no file says that it is of the split test; there are train-0"),
        (_another_config, "gqa", f"no files of the config {ASKED}"),
        (_double_ids, "gqa", "1 pictures come more than once, the first has id x"),
        (_no_ids, "gqa", "its pictures lack id; their columns are image"),
    ],
)
def test_files_of_something_else_are_refused(
    make: Callable[[Path], None], task: str, says: str, tmp_path: Path, hub: Hub
) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=says):
        open_documents(TASKS[task], str(tmp_path))
