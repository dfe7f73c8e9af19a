"""The questions of a run in a fixed order, task by task, and their batches.

Documents that are scored together are a group, and a run takes whole groups.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Generic

from PIL import Image
from torch.utils.data import Dataset

from asap_eval.data.batches import batches_of
from asap_eval.data.questions.asker import AnyAsker, Source
from asap_eval.data.questions.documents import Documents, open_documents
from asap_eval.data.questions.lmms import Judge, check_lmms_eval, judge_of
from asap_eval.data.questions.tasks import Task
from asap_eval.data.subset import Sample, check_sample, subset
from asap_eval.errors import BadValueError, DataError


@dataclass(frozen=True)
class Asked(Generic[AnyAsker]):
    """Some questions of one task.

    Attributes:
        documents: all of the task. judge: asks of them, and judges the answers if it can.
        groups: places of documents that are scored together, in stored order.
        chosen: groups of this set, ascending.
    """

    documents: Source
    judge: AnyAsker
    groups: Sequence[Sequence[int]]
    chosen: Sequence[int]

    @property
    def task(self) -> Task:
        return self.documents.task

    @cached_property
    def places(self) -> list[int]:
        """Documents of this set, ascending."""
        return sorted(place for group in self.chosen for place in self.groups[group])

    @cached_property
    def ids(self) -> list[str]:
        return [f"{self.task.name}/{place}" for place in self.places]


@dataclass(frozen=True)
class QuestionSet(Generic[AnyAsker]):
    """The questions of a run.

    Attributes:
        asked: by task. sample: how they were chosen.
        new_tokens: bound of every answer; None = each task's own.
    """

    asked: Sequence[Asked[AnyAsker]]
    sample: Sample = "first"
    new_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> list[str]:
        """``<task>/<place in the stored order>``."""
        return [name for asked in self.asked for name in asked.ids]

    @cached_property
    def digest(self) -> str:
        """sha256 over every chosen document, its picture left out."""
        digest = hashlib.sha256()
        for asked in self.asked:
            for name, place in zip(asked.ids, asked.places, strict=True):
                text = json.dumps(asked.documents.text(place), sort_keys=True, default=str)
                digest.update(f"{name} {text}\n".encode())
        return digest.hexdigest()

    def content(self) -> str:
        """Hash of what is stored of the tasks, pictures included; see `Documents.content`."""
        parts = [asked.documents.content(asked.places) for asked in self.asked]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def check(self, start: int, stop: int) -> None:
        """Nothing: every worker opens the questions itself."""

    @property
    def commits(self) -> dict[str, str]:
        """Commits of the hub's repositories that the questions are from, by their names."""
        return dict(pair for one in self.asked for pair in one.documents.commits.items())

    def calibration(self, count: int) -> tuple[QuestionSet[AnyAsker], bool]:
        """Questions to search a knob on, evenly from all tasks, and whether none is in this set.

        They come after those of this set (``spread``: from the ones between). Where no task has
        any left they are of this set. One token of answer is enough: a budget counts nothing that
        comes after it.
        """
        if count < 1:
            raise BadValueError(f"{count} calibration questions: give a number >= 1.")
        left = [_left(asked, self.sample) for asked in self.asked]
        disjoint = any(left)
        pools = left if disjoint else [list(asked.chosen) for asked in self.asked]
        each = -(-count // sum(map(bool, pools)))
        found = [
            replace(asked, chosen=_enough(asked.groups, pool, each, "spread"))
            for asked, pool in zip(self.asked, pools, strict=True)
            if pool
        ]
        return QuestionSet(found, self.sample, new_tokens=1), disjoint

    def ends(self, batch_size: int) -> list[int]:
        """Where batches end, counted in questions: no batch holds two tasks."""
        sizes: list[int] = []
        for asked in self.asked:
            whole, rest = divmod(len(asked.ids), batch_size)
            sizes += [batch_size] * whole + [rest] * bool(rest)
        return list(accumulate(sizes))


def _left(asked: Asked[AnyAsker], sample: Sample) -> list[int]:
    """Groups outside this set; where it takes the first ones, only those after it."""
    taken = set(asked.chosen)
    first = max(taken) + 1 if sample == "first" else 0
    return [group for group in range(first, len(asked.groups)) if group not in taken]


def open_questions(
    tasks: Sequence[Task],
    data: str,
    *,
    limit: int | None,
    sample: Sample,
    new_tokens: int | None = None,
) -> QuestionSet[Judge]:
    """The questions of some tasks.

    Args:
        data: a folder, or ``hub``. limit: questions of each task, rounded up to whole groups; a
            task that has fewer is taken whole. sample: the first ones, or evenly over all.

    Raises:
        UnsupportedModelError: lmms-eval is missing. DataError: documents that cannot be used.
        BadValueError: limit below 1, or above what every task has.
    """
    check_sample(sample)
    check_lmms_eval()
    asked = []
    for task in tasks:
        documents = open_documents(task, data)
        groups = _groups(documents)
        chosen = range(len(groups))
        picked = chosen if limit is None else _enough(groups, chosen, limit, sample)
        asked.append(Asked(documents, judge_of(documents), groups, picked))
    most = max(len(a.documents) for a in asked)
    if limit is not None and limit > most:
        raise BadValueError(
            f"limit={limit}, but no task of data={data} has more than {most} questions. "
            f"Use limit={most} or leave it out."
        )
    return QuestionSet(asked, sample, new_tokens)


def _groups(documents: Documents) -> list[list[int]]:
    """Places of documents that are scored together, by the first of each.

    Raises:
        DataError: a document that cannot be scored, or a group that is not whole.
    """
    task = documents.task
    groups: dict[Hashable, list[int]] = {}
    for place, document in enumerate(documents.texts()):
        if reason := task.wrong(document):
            raise DataError(f"{documents.source}: question {task.name}/{place}: {reason}.")
        key = place if task.group is None else task.group(document)
        groups.setdefault(key, []).append(place)
    broken = task.broken
    if broken is not None:
        for places in groups.values():
            if reason := broken([documents.text(place) for place in places]):
                raise DataError(f"{documents.source}: question {task.name}/{places[0]}: {reason}.")
    return list(groups.values())


def _enough(
    groups: Sequence[Sequence[int]], pool: Sequence[int], count: int, sample: Sample
) -> list[int]:
    """Groups of a pool that hold at least ``count`` documents, or all of them.

    As few groups as can be: the first ones, or evenly over the pool.
    """

    def holds(number: int) -> bool:
        return sum(len(groups[group]) for group in subset(pool, number, sample)) >= count

    return subset(pool, bisect_left(range(len(pool)), True, lo=1, key=holds), sample)


@dataclass(frozen=True)
class Question:
    """One question, read.

    Attributes:
        id: of the sample. document: without its picture. picture: RGB (PIL), None where it cannot
            be shown: ``error`` says why.
    """

    id: str
    document: dict[str, Any]
    picture: Image.Image | None
    error: str | None = None


@dataclass(frozen=True)
class QuestionBatch(Generic[AnyAsker]):
    """Questions of one task; ``new_tokens`` bounds each answer."""

    judge: AnyAsker
    questions: list[Question]
    new_tokens: int


def question_batches(
    questions: QuestionSet[AnyAsker],
    batch_size: int,
    workers: int = 0,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[QuestionBatch[AnyAsker]]:
    """Batches in order, from question ``start`` on, where a batch has to begin.

    Args:
        workers: processes that decode pictures. stop: where the last batch ends, None = with the
            questions.
    """
    places = [(at, p) for at, asked in enumerate(questions.asked) for p in asked.places]
    bounds = [0, *questions.ends(batch_size)]
    stop = bounds[-1] if stop is None else stop
    assert {start, stop} <= set(bounds), f"no batches reach from question {start} to {stop}"
    batches = [
        list(range(first, last)) for first, last in pairwise(bounds) if start <= first < stop
    ]
    for batch in batches_of(_Read(questions, places), batches, workers, list):
        asked = questions.asked[batch[0][0]]
        bound = asked.judge.new_tokens
        if questions.new_tokens is not None:
            bound = min(bound, questions.new_tokens)
        yield QuestionBatch(asked.judge, [question for _, question in batch], bound)


class _Read(Dataset["tuple[int, Question]"]):
    """``(task's place, question)``, decoded; the documents alone travel to workers."""

    def __init__(self, questions: QuestionSet[AnyAsker], places: Sequence[tuple[int, int]]) -> None:
        self.documents = [asked.documents for asked in questions.asked]
        self.places, self.ids = places, questions.ids

    def __getitem__(self, index: int) -> tuple[int, Question]:
        at, place = self.places[index]
        documents = self.documents[at]
        document = documents.text(place)
        try:
            return at, Question(self.ids[index], document, documents.picture(place))
        except DataError as error:
            return at, Question(self.ids[index], document, None, str(error))
