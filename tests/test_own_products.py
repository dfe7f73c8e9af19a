"""A method's own products in the ledger against those that torch counts while it decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_llava as small
from flops import counting

from asap_eval.hosts import install
from asap_eval.method import Reducer, View, build
from asap_eval.tokens import Reduction

OPTIONS: dict[str, dict[str, Any]] = {
    "divprune": {"k": 20},
    "scope": {"k": 20},
    "vispruner": {"k": 20},
    "visionzip": {"k": 20},
}
"""Methods whose products are all in what `Reducer.decide` calls."""


@contextmanager
def counted(reducer: Reducer) -> Iterator[list[float]]:
    """MACs of every decision, as torch counts them."""
    found: list[float] = []
    decide = reducer.decide

    def counting_decide(view: View, state: Any) -> Reduction | None:
        with counting() as counter:
            decided = decide(view, state)
        found.append(counter.get_total_flops() / 2)
        return decided

    reducer.decide = counting_decide  # type: ignore[method-assign]
    yield found


@small.on_both
@pytest.mark.parametrize("method", OPTIONS)
def test_the_ledger_has_what_torch_counts(name: str, method: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 0)
    reducer = build(method, **OPTIONS[method])
    with counted(reducer) as found, install(loaded.model, reducer) as trace:
        small.logits(loaded, given)
    own = float(trace.method_macs.sum() + trace.language.method_macs.sum())
    assert own == sum(found) > 0
