"""A method's own products are what torch's counter finds beside the model's own work."""

from __future__ import annotations

import pytest
import tiny
import torch
from cases import CASES, Case, run
from flops import counting

from asap_eval.hosts import geometry_of
from asap_eval.method import Need
from asap_eval.work.macs import model_macs

METHODS = ("diffrate", "mctf", "pitome", "tofu", "atc", "atm_reading", "ailurus_reading")


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.method in METHODS and c.effect != "nothing"], ids=str
)
def test_own_products_are_counted(case: Case) -> None:
    """One image. A fused kernel does not hand out the class token's row: it is made a second time,
    and counted once, as a part of the model's attention."""
    model = tiny.vit(1)
    x = tiny.images(1, seed=2)
    geometry = geometry_of(model)
    with counting() as counter:
        _, trace = run(model, case, x)
    found = counter.get_total_flops() / 2
    reducer = case.build()
    again = 0
    if Need.CLS_ROW in reducer.needs:
        again = int(trace.attention_tokens.sum()) * geometry.width
    own = float(trace.method_macs)
    assert own > 0
    assert found - again == float(model_macs(geometry, trace)) + own
    assert torch.equal(trace.method_macs, trace.method_macs.round())
