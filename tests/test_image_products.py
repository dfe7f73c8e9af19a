"""A method's own products are what torch's counter finds beside the model's own work."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from cases import CASES, Case, run
from flops import counting
from torch import Tensor

from asap_eval.hosts import geometry_of
from asap_eval.method import Need, Reducer
from asap_eval.work.macs import model_macs

METHODS = ("diffrate", "mctf", "pitome", "tofu", "atc", "atm_reading", "ailurus_reading")
FREE = ("asvit", "tosa_reading")
"""They look at attention alone."""


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.method in METHODS + FREE and c.effect != "nothing"], ids=str
)
def test_own_products_are_counted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image. A fused kernel does not hand out the class token's row: it is made a second time,
    and counted once, as a part of the model's attention."""
    model = tiny.vit(1)
    x = tiny.images(1, seed=2)
    geometry = geometry_of(model)
    reducer, looks = case.build(), []
    watch = type(reducer).watch

    def watched(self: Reducer, block: int, state: Any) -> bool | Tensor:
        found = watch(self, block, state)
        looks.extend([block] if found is True else [])
        return found

    monkeypatch.setattr(type(reducer), "watch", watched)
    with counting() as counter:
        _, trace = run(model, case, x)
    found = counter.get_total_flops() / 2
    again = 0
    if Need.CLS_ROW in reducer.needs:
        seen = trace.attention_tokens[torch.tensor(looks) - 1]
        again = int(seen.sum()) * geometry.width
    own = float(trace.method_macs)
    assert (own > 0) == (case.method in METHODS)
    assert found - again == float(model_macs(geometry, trace)) + own
    assert torch.equal(trace.method_macs, trace.method_macs.round())
