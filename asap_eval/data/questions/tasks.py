"""The paper's seven tasks, and four that ask for text: where their questions lie, what belongs
together, what is printed.

Prompts and scorers are lmms-eval's (`asap_eval.data.questions.lmms`); this is what has to be known
without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asap_eval.errors import BadValueError, unknown

Document = Mapping[str, Any]

CIRCLE = 1_000_000
"""MMBench asks each question once for every order of its options; the indices of these copies
differ by multiples of this."""


def _nothing(document: Document) -> str | None:
    """Nothing is wrong."""
    return None


@dataclass(frozen=True)
class Task:
    """One task; it travels to worker processes, so its functions are named ones.

    Attributes:
        name: lmms-eval's. file: its YAML below lmms-eval's ``tasks``.
        hub, config, split: the data set on the hub. pictures: config of the hub and column of it
            that hold pictures by the column ``imageId``, where they lie apart.
        columns: of every document, besides the picture.
        score: what the number is that enters Avg. scorer: how an answer is judged.
        kind: how samples make a score: their mean, F1 of ``part`` by ``part``, or groups.
        soft: whether an answer can be right in part. new_tokens: of an answer, where the task
            itself names no bound.
        part: subset that is scored by itself. group: documents that are scored together.
        wrong: what is wrong with a document, or None. broken: with the documents of a group.
        full: the score that counts as 100 in Avg.
        by_share: whether the score is the mean of what each sample is judged, because lmms-eval's
            own sum adds up over calls and is divided by the whole set's size whatever was asked.
    """

    name: str
    file: str
    hub: str
    split: str
    columns: Sequence[str]
    score: str
    scorer: str
    kind: Literal["mean", "f1", "groups"] = "mean"
    config: str | None = None
    pictures: tuple[str, str] | None = None
    soft: bool = False
    new_tokens: int | None = None
    part: Callable[[Document], str] | None = None
    group: Callable[[Document], Hashable] | None = None
    wrong: Callable[[Document], str | None] = _nothing
    broken: Callable[[Sequence[Document]], str | None] | None = None
    full: float = 100.0
    by_share: bool = False

    @property
    def circular(self) -> bool:
        """Whether a group counts once, as right only where each of its samples is."""
        return self.kind == "groups" and self.part is None


def _category(document: Document) -> str:
    return str(document["category"])


def _category_and_question(document: Document) -> Hashable:
    return document["category"], document["question_id"]


def _of_circle(document: Document) -> Hashable:
    return int(document["index"]) % CIRCLE


def _yes_or_no(document: Document) -> str | None:
    answer = str(document["answer"])
    ok = answer.lower().strip() in ("yes", "no")
    return None if ok else f"its answer is {answer!r}, not yes or no"


def _listed(document: Document) -> str | None:
    return None if document["answers"] else "it has no answers"


def _voices(document: Document) -> str | None:
    """Its scorer holds an answer against all entries unequal to it, so equal ones would be lost."""
    answers = document["answers"]
    if reason := _listed(document):
        return reason
    if any(one in answers[:place] for place, one in enumerate(answers)):
        return "two of its answers are the same entry; give each an answer_id of its own"
    return None


def _choice(document: Document) -> str | None:
    count, answer = len(document["choices"]), document["answer"]
    if isinstance(answer, int) and 0 <= answer < count:
        return None
    return f"its answer is {answer!r}; it has choices 0 to {count - 1}"


def _letter(document: Document) -> str | None:
    answer = document["answer"]
    return None if answer in tuple("ABCD") else f"its answer is {answer!r}, not A, B, C or D"


def _one_text(document: Document) -> str | None:
    return None if str(document["answer"]).strip() else "it has no answer"


def _any_text(document: Document) -> str | None:
    answer = document["answer"]
    given = answer if isinstance(answer, list) else [answer]
    ok = given and all(isinstance(one, str) and one.strip() for one in given)
    return None if ok else f"its answer is {answer!r}, not one or more texts"


def _pair(group: Sequence[Document]) -> str | None:
    if len(group) == 2:
        return None
    return f"its picture has {len(group)} questions; MME scores the two of a picture together"


def _circle(group: Sequence[Document]) -> str | None:
    indices = [int(document["index"]) for document in group]
    if min(indices) < CIRCLE and len(set(indices)) == len(indices):
        return None
    return f"its orders have the indices {indices}; the first is below {CIRCLE}, none comes twice"


_VQA = "mean share of ten people's answers that agree, 3 = full (EvalAI's normalisation)"

TASKS = {
    task.name: task
    for task in (
        Task(
            "pope",
            "pope/pope.yaml",
            "lmms-lab-encoder/POPE",
            "test",
            ("question_id", "question", "answer", "category"),
            "mean F1 of its categories, %",
            "the whole answer in lower case equals yes or no",
            kind="f1",
            part=_category,
            wrong=_yes_or_no,
        ),
        Task(
            "gqa",
            "gqa/gqa.yaml",
            "lmms-lab-encoder/GQA",
            "testdev",
            ("imageId", "question", "answer"),
            "exact match, %",
            "exact match, case and punctuation left out",
            config="testdev_balanced_instructions",
            pictures=("testdev_balanced_images", "id"),
        ),
        Task(
            "mme",
            "mme/mme.yaml",
            "lmms-lab-encoder/MME",
            "test",
            ("question_id", "question", "answer", "category"),
            "perception + cognition, at most 2800",
            "yes or no among the first four letters; both questions of a picture count twice",
            kind="groups",
            part=_category,
            group=_category_and_question,
            wrong=_yes_or_no,
            broken=_pair,
            full=2000.0,
        ),
        Task(
            "scienceqa_img",
            "scienceqa/scienceqa_img.yaml",
            "lmms-lab-encoder/ScienceQA",
            "test",
            ("question", "choices", "answer", "hint"),
            "exact match, %",
            "the option's letter, or the letter and a point in front",
            config="ScienceQA-IMG",
            wrong=_choice,
        ),
        Task(
            "vizwiz_vqa_val",
            "vizwiz_vqa/vizwiz_vqa_val.yaml",
            "lmms-lab-encoder/VizWiz-VQA",
            "val",
            ("question_id", "question", "answers"),
            "VQA accuracy, %",
            _VQA,
            soft=True,
            new_tokens=16,
            wrong=_listed,
        ),
        Task(
            "vqav2_val",
            "vqav2/vqav2_val.yaml",
            "lmms-lab-encoder/VQAv2",
            "validation",
            ("question_id", "question", "answers"),
            "VQA accuracy, %",
            _VQA,
            soft=True,
            wrong=_voices,
        ),
        Task(
            "mmbench_en_dev_static",
            "mmbench/mmbench_en_dev_static.yaml",
            "lmms-lab-encoder/MMBench",
            "dev",
            (
                *("index", "question", "hint", "answer", "A", "B", "C", "D"),
                *("category", "L2-category", "source", "split"),
            ),
            "circular accuracy, %",
            "letter or text of the option by rules, right in every order of the options",
            kind="groups",
            config="en",
            group=_of_circle,
            wrong=_letter,
            broken=_circle,
        ),
        Task(
            "textvqa_val",
            "textvqa/textvqa_val.yaml",
            "lmms-lab-encoder/textvqa",
            "validation",
            ("question_id", "question", "answers"),
            "VQA accuracy, %",
            _VQA,
            soft=True,
            new_tokens=16,
            wrong=_listed,
        ),
        Task(
            "ocrbench",
            "ocrbench/ocrbench.yaml",
            "echo840/OCRBench",
            "test",
            ("dataset", "question", "question_type", "answer"),
            "answers found, %",
            "the answer contains the right one, case left out (formulas: blanks left out)",
            wrong=_any_text,
            by_share=True,
        ),
        Task(
            "docvqa_val",
            "docvqa/docvqa_val.yaml",
            "lmms-lab-encoder/DocVQA",
            "validation",
            ("questionId", "question", "answers"),
            "ANLS, %",
            "normalised edit distance to the nearest right answer, 0 where it is a half or more",
            config="DocVQA",
            soft=True,
            wrong=_listed,
        ),
        Task(
            "chartqa",
            "chartqa/chartqa.yaml",
            "lmms-lab-encoder/ChartQA",
            "test",
            ("type", "question", "answer"),
            "relaxed accuracy, %",
            "a number within 5 %, otherwise the same text, case left out",
            wrong=_one_text,
        ),
    )
}
"""By name, in the order of lmms-eval's list in the documentation."""

PAPER = (
    *("pope", "gqa", "mme", "scienceqa_img", "vizwiz_vqa_val", "vqav2_val"),
    "mmbench_en_dev_static",
)
"""Those of the paper, which run where none is named."""


def truth(document: Document) -> str:
    """The right answer in words: a choice's text with its letter; of several people's the most
    frequent one."""
    if "answers" in document:
        given = [one["answer"] if isinstance(one, Mapping) else one for one in document["answers"]]
        return str(Counter(given).most_common(1)[0][0]) if given else ""
    answer = document["answer"]
    if isinstance(answer, list):
        return str(answer[0])
    if "choices" in document and isinstance(answer, int) and 0 <= answer < len(document["choices"]):
        return f"{chr(ord('A') + answer)}. {document['choices'][answer]}"
    named = answer in tuple("ABCD") and answer in document
    return f"{answer}. {document[answer]}" if named else str(answer)


def chosen(names: Sequence[str]) -> list[Task]:
    """Tasks by name, in the given order.

    Raises:
        UnknownNameError: no such task; near names are suggested. BadValueError: none, or one twice.
    """
    for name in names:
        if name not in TASKS:
            raise unknown("task", str(name), TASKS)
    if not names or len(set(names)) < len(names):
        raise BadValueError(f"tasks=[{','.join(names)}]: name each task once, at least one.")
    return [TASKS[name] for name in names]


QUESTIONS = {
    "pope": 9_000,
    "gqa": 12_578,
    "mme": 2_374,
    "scienceqa_img": 2_017,
    "vizwiz_vqa_val": 4_319,
    "vqav2_val": 214_354,
    "mmbench_en_dev_static": 4_329,
    "textvqa_val": 5_000,
    "ocrbench": 1_000,
    "docvqa_val": 5_349,
    "chartqa": 2_500,
}
"""How many questions the published splits have, for plans made where the data is not.

From the data sets' papers and lmms-eval's lists of tasks, by recollection; none was counted here. A
run counts its own.
"""
