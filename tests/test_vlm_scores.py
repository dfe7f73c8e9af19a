"""Known answers have known scores: lmms-eval's scorers, through the rows of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlm_rows import Say, asked, rows_of

from asap_eval.bench.language.scores import answered, average, difference, relative, task_block
from asap_eval.data.questions.lmms import judge_of, totals_of
from asap_eval.data.questions.question_set import Asked
from asap_eval.data.questions.tasks import TASKS, chosen
from asap_eval.data.questions.tasks import truth as truth_in_words
from asap_eval.errors import UnknownNameError


def block_of(questions: Asked, say: Say) -> dict[str, Any]:
    return task_block(totals_of(questions.task), answered(questions.task, rows_of(questions, say)))


def truth(document: dict[str, Any]) -> str:
    """The right answer of any task's document."""
    if "choices" in document:
        return "ABCD"[document["answer"]]
    if "answers" in document:
        first = document["answers"][0]
        return first if isinstance(first, str) else first["answer"]
    answer = document["answer"]
    return answer[0] if isinstance(answer, list) else str(answer)


@pytest.mark.parametrize("name", TASKS)
def test_what_we_say_of_a_task_is_what_lmms_eval_says(name: str, questions: Path) -> None:
    """Split, data set and metrics of the table against the task's own YAML."""
    own = asked(questions, name).judge.own.config
    task = TASKS[name]
    assert (own.task, own.dataset_path, own.test_split.strip()) == (name, task.hub, task.split)
    assert own.dataset_name == task.config
    assert own.generation_kwargs.get("do_sample", False) is False
    assert 1 <= asked(questions, name).judge.new_tokens <= 1024


PROMPTS = {
    "pope": "Is there a ring in the image?\nAnswer the question using a single word or phrase.",
    "mme": "Is there a ring here?\nAnswer the question using a single word or phrase.",
    "scienceqa_img": "Which of these shapes is in the picture?\nA. circle\nB. ring\n"
    "Answer with the option's letter from the given choices directly.",
    "textvqa_val": "What does the sign say?\nAnswer the question using a single word or phrase.",
    "ocrbench": "what is written in the image?",
    "docvqa_val": "What is the text of this page?\n"
    "Answer the question using a single word or phrase.",
    "chartqa": "What is the value of the first bar?\nAnswer the question with a single word.",
    "mmbench_en_dev_static": "Which shape is in the picture? There are several options:\nA. ring\n"
    "B. circle\n\nAnswer with the option's letter from the given choices directly.",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_the_tasks(name: str, questions: Path) -> None:
    one = asked(questions, name)
    text = one.judge.prompt(one.documents.text(0))
    kinds = ("circle", "square", "triangle", "cross", "ring", "star")
    said = [kind for kind in kinds if kind in text]
    expected = PROMPTS[name]
    assert len(said) == sum(kind in expected for kind in kinds)
    for kind in kinds:
        text, expected = text.replace(kind, "X"), expected.replace(kind, "X")
    assert text == expected


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_have_full_marks(name: str, questions: Path) -> None:
    one = asked(questions, name)
    block = block_of(one, truth)
    full = {"mme": 800.0}.get(name, 100.0)  # four categories of 200
    assert block["score"] == pytest.approx(full)
    assert block["in_avg"] == pytest.approx(40.0 if name == "mme" else 100.0)
    assert block["correct_pct"] == (None if TASKS[name].soft else 100.0)
    assert block["n"] == len(one.places)
    assert block["failed"] == 0


@pytest.mark.parametrize("name", TASKS)
def test_no_answer_is_worth_nothing(name: str, questions: Path) -> None:
    block = block_of(asked(questions, name), lambda document: "something else")
    assert block["score"] == 0
    lost = block_of(asked(questions, name), lambda document: None)
    assert lost["score"] == 0
    assert lost["failed"] == lost["n"]


def test_answers_of_text_that_are_nearly_right(questions: Path) -> None:
    """Charts allow 5 %, documents some letters, OCRBench other words around the right one."""
    charts = asked(questions, "chartqa")
    near = block_of(charts, lambda d: str(float(d["answer"]) * 1.04))
    assert near["score"] == near["relaxed_human_split"] == near["relaxed_augmented_split"] == 100
    assert block_of(charts, lambda d: str(float(d["answer"]) * 1.06))["score"] == 0
    assert block_of(charts, lambda d: f"{d['answer']} units")["score"] == 0
    pages = asked(questions, "docvqa_val")
    cut = block_of(pages, lambda d: max(d["answers"], key=len)[:-1])
    assert 80 < cut["score"] < 100
    assert cut["correct_pct"] is None
    signs = asked(questions, "ocrbench")
    assert block_of(signs, lambda d: f"It says {d['answer'][0].lower()}.")["score"] == 100
    half = [0]

    def every_second(document: dict[str, Any]) -> str:
        half[0] += 1
        return truth(document) if half[0] % 2 else "nothing"

    assert block_of(signs, every_second)["score"] == 50
    assert block_of(signs, truth)["score"] == 100, "lmms-eval's own sum would have 150 here"
    voices = asked(questions, "textvqa_val")
    before = [dict(voices.documents.text(place)) for place in voices.places]
    assert block_of(voices, lambda d: truth(d).upper())["score"] == 100
    assert [dict(voices.documents.text(place)) for place in voices.places] == before


def test_pope_is_the_mean_of_three_f1(questions: Path) -> None:
    """Always yes: precision 1/2, recall 1. Right in one category alone: the mean, not the pool."""
    pope = asked(questions, "pope")
    always = block_of(pope, lambda document: "Yes")
    assert always["score"] == pytest.approx(200 / 3)
    assert always["pope_f1_score"] == pytest.approx(200 / 3)
    assert always["pope_accuracy"] == pytest.approx(50)

    def mixed(document: dict[str, Any]) -> str:
        return truth(document) if document["category"] == "popular" else "no"

    found = block_of(pope, mixed)
    assert found["f1_popular"] == pytest.approx(100)
    assert found["f1_random"] == found["f1_adversarial"] == 0
    assert found["score"] == pytest.approx(100 / 3)
    assert found["pope_f1_score"] == pytest.approx(50)  # a third of all yeses, none of them wrong
    assert found["metric"] == "mean F1 of adversarial, popular, random, %"
    dotted = block_of(pope, lambda document: f"{truth(document)}.")
    assert dotted["pope_accuracy"] == 0  # lmms-eval compares the whole answer


def test_failed_questions_of_pope_stay_in_f1(questions: Path) -> None:
    """lmms-eval counts an answer that is neither yes nor no as nothing at all."""
    pope = asked(questions, "pope")
    lost = block_of(pope, lambda d: None if d["answer"] == "yes" and _even(d) else truth(d))
    assert lost["score"] < 100
    assert lost["pope_recall"] < 100
    wrong = block_of(pope, lambda d: None if d["answer"] == "no" and _even(d) else truth(d))
    assert wrong["pope_precision"] < 100


def _even(document: dict[str, Any]) -> bool:
    return int(document["question_id"]) // 2 % 2 == 0


def test_mme_counts_pairs(questions: Path) -> None:
    """Always yes: half of each picture's questions and no pair, 50 of 200 in each category."""
    found = block_of(asked(questions, "mme"), lambda document: "Yes, it is")
    assert found["mme_perception_score"] == pytest.approx(150)
    assert found["mme_cognition_score"] == pytest.approx(50)
    assert found["score"] == pytest.approx(200)
    assert found["in_avg"] == pytest.approx(10)


def test_vqa_answers_are_right_in_part(questions: Path) -> None:
    """One person of ten says "many": leaving out each of the others in turn, one agrees: 1/3."""
    found = block_of(asked(questions, "vqav2_val"), lambda document: "many")
    assert found["score"] == pytest.approx(100 * 0.9 / 3)
    numbers = {"1": "one", "2": "Two.", "3": "three"}
    said = block_of(asked(questions, "vqav2_val"), lambda d: numbers[truth(d)])
    assert said["score"] == pytest.approx(100)
    people = block_of(asked(questions, "vizwiz_vqa_val"), lambda document: "the shape")
    assert people["score"] == pytest.approx(100 * 0.9 / 3)


def test_mmbench_asks_for_every_order(questions: Path) -> None:
    """The first letter always: right in one order of each question, so in no circle."""
    bench = asked(questions, "mmbench_en_dev_static")
    first = block_of(bench, lambda document: "A")
    assert first["score"] == 0
    assert 0 < first["correct_pct"] < 100
    texts = block_of(bench, lambda document: f"It is a {document[document['answer']]}")
    assert texts["score"] == pytest.approx(100)


def test_mmbench_s_circles_are_lmms_eval_s(questions: Path) -> None:
    """Our rule for one circle, right in every order, makes lmms-eval's number."""
    bench = asked(questions, "mmbench_en_dev_static")
    rows = rows_of(bench, lambda d: "A" if d["index"] % 1_000_000 == 1 else truth(d))
    circles: dict[str, list[float]] = {}
    for row in rows:
        circles.setdefault(row["group"], []).append(row["score"])
    ours = 100 * np.mean([min(scores) for scores in circles.values()])
    assert task_block(totals_of(bench.task), answered(bench.task, rows))["score"] == pytest.approx(
        ours
    )
    assert 0 < ours < 100


def test_mmbench_s_p_pairs_what_its_score_counts(questions: Path) -> None:
    """Circles: orders that only one model gets right change nothing where no circle is right."""
    bench = asked(questions, "mmbench_en_dev_static")
    right, first, second = (
        answered(bench.task, rows_of(bench, said))
        for said in (truth, lambda document: "A", lambda document: "B")
    )
    none = task_block(totals_of(bench.task), first)
    assert none["score"] == 0
    assert difference(none, none, second, first)["mcnemar_p"] == 1
    circles = len(set(first.groups))
    lost = difference(none, none, first, right)["mcnemar_p"]
    assert lost == pytest.approx(2 / 2**circles)


def test_averages_are_the_paper_s() -> None:
    """Table 5: the unpruned LLaVA-1.5 and ASAP's pooling at 128 tokens, printed 72.6 and 98.5."""
    names = ("gqa", "mme", "pope", "scienceqa_img", "vizwiz_vqa_val", "vqav2_val")
    names += ("mmbench_en_dev_static",)

    def blocks(*scores: float) -> dict[str, dict[str, float]]:
        return {
            name: {"score": score, "in_avg": 100 * score / TASKS[name].full}
            for name, score in zip(names, scores, strict=True)
        }

    whole = blocks(61.9, 1862, 85.9, 69.5, 54.3, 78.5, 64.7)
    pooled = blocks(60.4, 1812, 86.2, 69.1, 56.7, 74.9, 62.7)
    assert round(average(whole), 1) == 72.6
    assert round(average(pooled), 1) == 71.5
    found = relative(pooled, whole)
    assert round(found["rel"], 1) == 98.5
    assert found["rel_of_ratios"] == pytest.approx(98.6, abs=0.2)
    assert found["rel_of_ratios"] != found["rel"]
    nothing = relative(pooled, blocks(0, 0, 0, 0, 0, 0, 0))
    assert (nothing["rel"], nothing["rel_of_ratios"]) == (None, None)


ONE_WORSE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "pope": lambda d: d["question_id"] == "0",
    "gqa": lambda d: d["imageId"] == "n0",
    "mme": lambda d: d["question_id"].endswith("/0.png") and d["answer"] == "No",
    "vqav2_val": lambda d: d["question_id"] == 1000,
    "mmbench_en_dev_static": lambda d: d["index"] == 1,
}


@pytest.mark.parametrize("name", ONE_WORSE)
def test_a_difference_is_paired_and_its_interval_around_it(name: str, questions: Path) -> None:
    """Against all right answers one is lost; four samples or so say little."""
    one, task = asked(questions, name), TASKS[name]

    said = "no" if name == "pope" else "maybe"  # its F1 leaves out what is neither

    def worse(document: dict[str, Any]) -> str:
        return said if ONE_WORSE[name](document) else truth(document)

    before, own = (answered(task, rows_of(one, said)) for said in (truth, worse))
    blocks = [task_block(totals_of(task), r) for r in (own, before)]
    found = difference(*blocks, own, before)
    expected = {"pope": -100 * (1 - 6 / 7) / 3, "mme": -150.0}.get(name, -25.0)
    assert found["delta"] == pytest.approx(expected)
    low, high = found["delta_ci95"]
    assert low < found["delta"] < 0 < high  # one that is lost of a few proves nothing
    assert found["baseline"] == blocks[1]["score"]
    assert found["mcnemar_p"] == (None if task.soft else 1.0)
    same = difference(blocks[1], blocks[1], before, before)
    assert same["delta_ci95"][0] == pytest.approx(-same["delta_ci95"][1])
    assert same["delta_ci95"][0] < -10  # equal answers to so few questions prove nothing either


def test_an_answer_is_cut_where_its_task_ends_it(questions: Path) -> None:
    judge = asked(questions, "vizwiz_vqa_val").judge
    assert judge.new_tokens == 16
    assert judge.cut("red ASSISTANT: blue") == "red"
    assert judge.cut("red") == "red"


def test_unknown_tasks_are_told_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean vqav2_val"):
        chosen(["vqa2_val"])


def test_judges_do_not_touch_the_hub(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GQA's own loading goes to the hub for its pictures, whatever files are given."""
    import datasets

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked for {args}")

    documents = asked(questions, "gqa").documents
    monkeypatch.setattr(datasets, "load_dataset", refused)
    assert judge_of(documents).prompt(documents.text(0)).startswith("What color")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"answer": "yes"}, "yes"),
        ({"answer": 1, "choices": ["ring", "star"]}, "B. star"),
        ({"answer": "C", "A": "a", "B": "b", "C": "cross", "D": "nan"}, "C. cross"),
        ({"answers": ["red", "blue", "red"]}, "red"),
        ({"answers": [{"answer": "2"}, {"answer": "3"}, {"answer": "3"}], "answer": "2"}, "3"),
        ({"answers": []}, ""),
        ({"answer": "question", "question": "What is this?"}, "question"),
    ],
    ids=str,
)
def test_the_right_answer_in_words(document: dict[str, Any], said: str) -> None:
    assert truth_in_words(document) == said
