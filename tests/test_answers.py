"""Answers with a method in the model: texts, counts, work, and a budget of tokens."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import test_llava
import tiny_llava as small
import torch

from asap_eval.bench.language.answers import Answer, answers
from asap_eval.hosts import install, llava_geometry
from asap_eval.method import Reducer, build
from asap_eval.runner.knob_search import search

METHODS: dict[str, Reducer] = {
    "random": build("random", k=0.4, layer=5, rest="drop"),
    "asap": build("asap", k=2.0, tau=3.0, never="block:12"),
    "language": test_llava.named(test_llava.LastRow(block=4, keep=9)),
}


def answered(name: str, reducer: Reducer, *samples: int, tokens: int = 4) -> list[Answer]:
    loaded = small.vlm(name, "float64")
    with install(loaded.model, reducer) as trace:
        return answers(
            loaded,
            trace,
            llava_geometry(loaded.model),
            [small.pictures()[i] for i in samples],
            [small.QUESTIONS[i] for i in samples],
            [f"sample{i}" for i in samples],
            max_new_tokens=tokens,
        )


@small.on_both
@pytest.mark.parametrize("kind", METHODS)
def test_a_batch_answers_as_its_samples(name: str, kind: str) -> None:
    """Text, counts, firing blocks and work, random choices included."""
    together = answered(name, METHODS[kind], 2, 0, 1)
    alone = [answered(name, METHODS[kind], i)[0] for i in (2, 0, 1)]
    assert [asdict(answer) for answer in together] == [asdict(answer) for answer in alone]
    for answer in together:
        assert answer.new_tokens == 4
        assert answer.prompt_tokens > answer.handed_to_llm
        if kind == "language":
            assert answer.language_fired == 4
            full = answer.handed_to_llm
            assert answer.llm_layer_mean == pytest.approx((4 * full + 14 * 9) / 18)
            removed = 14 * (full - 9)
            assert answer.cached_entries == answer.unpruned_entries - removed
            assert set(answer.kept) == {144}
        else:
            assert all(block > 0 for block in answer.fired)
            assert max(answer.kept) < 144
            assert answer.llm_layer_mean == answer.handed_to_llm
            assert answer.cached_entries == 18 * answer.prompt_tokens < answer.unpruned_entries


def test_an_answer_ends_with_its_end_token() -> None:
    """Another sample of the batch may go on; what pads the shorter one is not counted."""
    loaded = small.vlm("llava_tiny", "float64")
    config, none = loaded.model.generation_config, build("none")
    plain = answered("llava_tiny", none, 0, 1, tokens=6)
    given = small.inputs("llava_tiny", 0, 1, dtype="float64")
    new = small.generate(loaded, given)[:, given["input_ids"].shape[1] :]
    end = next(t for t in new[0].tolist() if t not in new[1])
    before, config.eos_token_id = config.eos_token_id, end
    try:
        ended = answered("llava_tiny", none, 0, 1, tokens=6)
    finally:
        config.eos_token_id = before
    place = new[0].tolist().index(end) + 1
    assert [answer.new_tokens for answer in plain] == [6, 6]
    assert [answer.new_tokens for answer in ended] == [place, 6]
    assert ended[0].decode_macs < plain[0].decode_macs or place == 6
    assert ended[1] == plain[1]


@pytest.mark.parametrize("target", [64, 20])
def test_a_budget_of_tokens_is_found(target: int) -> None:
    """``budget=tokens`` counts what is handed to the language model."""

    def handed(knob: float) -> float:
        reducer = build("random", k=knob, layer=12, rest="drop")
        both = answered("llava_tiny", reducer, 0, 1, tokens=1)
        return sum(answer.handed_to_llm for answer in both) / 2

    found = search(handed, (1 / 144, 1.0), target, name="k", unit="tokens")
    assert found.reached == target
    assert found.note is None


def test_work_is_split_into_its_parts() -> None:
    (full,), (less,) = (answered("llava_tiny", m, 1) for m in (build("none"), METHODS["random"]))
    assert less.tower_macs < full.tower_macs
    assert less.projector_macs == full.projector_macs * less.handed_to_llm / 144
    assert less.prefill_macs < full.prefill_macs
    assert less.decode_macs < full.decode_macs
    assert torch.tensor([full.method_macs, less.method_macs]).eq(0).all()
