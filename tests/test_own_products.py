"""A method's own products in the ledger against those that torch counts while it decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_llava as small
from cases import small_clip
from flops import counting

from asap_eval.hosts import install
from asap_eval.method import Reducer, build

OPTIONS: dict[str, dict[str, Any]] = {
    "divprune": {"k": 20},
    "dart": {"k": 40},
    "scope": {"k": 20},
    "vispruner": {"k": 20},
    "visionzip": {"k": 20},
    "prumerge": {"plus": True},
    "cdpruner": {"k": 20},
    "todre_reading": {"k": 20},
    "topv_reading": {"k": 20},
    "capa_reading": {"k": 20},
}
"""Methods that have products of their own, all in what a host asks of them. Distances, and sums of
few tokens, are counted nowhere."""

READ = {"prumerge": 145 * 2 * 64 * 64}
"""Products of a crop that a host makes for a method to read."""


@contextmanager
def counted(reducer: Reducer) -> Iterator[list[float]]:
    """MACs of whatever a host asks, as torch counts them."""
    found: list[float] = []

    def counting_one(asked: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with counting() as counter:
                answered = asked(*args)
            found.append(counter.get_total_flops() / 2)
            return answered

        return run

    for name in ("begin", "admit", "decide"):
        if getattr(type(reducer), name) is not getattr(Reducer, name):
            setattr(reducer, name, counting_one(getattr(reducer, name)))
    yield found


@small.on_both
@pytest.mark.parametrize("method", OPTIONS)
def test_the_ledger_has_what_torch_counts(name: str, method: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 0)
    options = {"clip": small_clip()} if method == "cdpruner" else {}
    reducer = build(method, **OPTIONS[method], **options)
    with counted(reducer) as found, install(loaded.model, reducer) as trace:
        trace.name_questions(small.QUESTIONS[:1])
        small.logits(loaded, given)
    own = float(trace.method_macs.sum() + trace.language.method_macs.sum())
    read = READ.get(method, 0) * len(trace.sample)
    assert own == sum(found) + read > 0
