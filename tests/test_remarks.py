"""What is said below a table of a method that acts: never that it does nothing."""

from __future__ import annotations

import pytest
from cases import CASES, VISION, Case, subject, trial
from records import make

from asap_eval.bench.language.answers import answers
from asap_eval.bench.language.rows import measured, work_summary
from asap_eval.cli.output import remarks
from asap_eval.hosts import install, llava_geometry
from asap_eval.testing import llava
from asap_eval.work.rows import MACS, SLOTS, columns, fired_block, macs_block, work_of

NOTHING = "these options never fire"
LANGUAGE = [case for case in CASES if case.declared.tower == "language"]
ACTING = ("tokens", "attention")


@pytest.mark.parametrize("case", VISION, ids=str)
def test_a_method_in_a_classifier(case: Case) -> None:
    geometry = subject("plain").geometry
    trace = trial("plain", case).whole.trace
    rows = [row | {"error": None} for row in work_of(trace, geometry)]
    work = columns(rows, {**MACS, **SLOTS})
    fired, macs = fired_block(work["fired"], geometry.depth), macs_block(work, geometry, "full")
    said = " ".join(remarks(make(case.method, fired=fired, macs=macs)))
    if case.effect in ACTING:
        assert NOTHING not in said
    elif case.method in ("stride", "evit", "asap", "fna"):
        assert NOTHING in said  # the sentence is still there


@pytest.mark.parametrize("case", [c for c in LANGUAGE if c.effect in ACTING], ids=str)
def test_a_method_in_a_language_model(case: Case) -> None:
    loaded = llava.vlm("llava_tiny")
    geometry = llava_geometry(loaded.model)
    picture, question = llava.pictures()[:1], llava.QUESTIONS[:1]
    with install(loaded.model, case.build()) as trace:
        got = answers(loaded, trace, geometry, picture, question, ["a"], max_new_tokens=1)
    work = work_summary([{**measured(one), "error": None} for one in got], geometry, "full")
    said = " ".join(remarks(make(case.method, fired=work.fired, macs=work.macs)))
    assert NOTHING not in said
