"""In 16 bits, too, an image's result is its own: whatever else is in the batch.

A model's own products may depend on the batch's size in 16 bits, as the processor likes; then no
method can do better. Here is what the methods and their host owe beside that.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from cases import Case, batch, pairs, run, subject, trial
from torch import Tensor, nn

from asap_eval.hosts.attention_rows import attention_rows
from asap_eval.hosts.layout import Layout
from asap_eval.method import Need, Reducer, View, build
from asap_eval.testing import contract
from asap_eval.testing.demands import ContractError, DoesNotApplyError
from asap_eval.testing.operators import like
from asap_eval.testing.questions import Questions
from asap_eval.testing.subject import Subject, Trial
from asap_eval.tokens import Reduction, combine

HALF = [torch.bfloat16, torch.float16]
WIDE = ["plain", "avg_without_cls", "map"]
"""Hosts that differ in what enters the first block and in what reads the last one."""

reducing = pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(n, c, id=f"{n}-{c}") for n, c in pairs("tokens", "attention") if n in WIDE],
)


@functools.cache
def host(name: str, dtype: torch.dtype) -> nn.Module:
    return tiny.HOSTS[name]().to(dtype)


@functools.cache
def products_are_of_rows_alone(dtype: torch.dtype) -> bool:
    """Whether a linear layer gives a row the same bits in every batch of the tiny models."""
    g = torch.Generator().manual_seed(0)
    for inner, outer in ((32, 96), (32, 32), (32, 64), (64, 32)):
        x, weight = (torch.randn(n, inner, generator=g).to(dtype) for n in (200, outer))
        whole = F.linear(x, weight)
        if any(not torch.equal(F.linear(x[:rows], weight), whole[:rows]) for rows in range(5, 200)):
            return False
    return True


@torch.inference_mode()
def difference(name: str, dtype: torch.dtype) -> float:
    """Between the unpruned model's logits in a batch and alone, at most."""
    model, x = host(name, dtype), batch().to(dtype)
    whole = tiny.output(model, x)
    alone = torch.cat([tiny.output(model, image[None]) for image in x])
    return float((alone - whole).abs().max())


@reducing
def test_a_batch_equals_its_images(name: str, case: Case) -> None:
    dtype = torch.bfloat16
    if not products_are_of_rows_alone(dtype):
        pytest.skip(f"products in {dtype} depend on the size of the batch on this machine")
    model, x, unpruned = host(name, dtype), batch().to(dtype), difference(name, dtype)
    with torch.inference_mode():
        whole, trace = run(model, case, x)
        # Where a head or a pool differs between batches, so do the roundings behind it.
        rounding = 2 * torch.finfo(dtype).eps * float(whole.abs().max()) if unpruned else 0
        for i in range(len(x)):
            got, alone = run(model, case, x[i : i + 1])
            assert torch.equal(alone.source[0], trace.source[i])
            assert torch.equal(alone.lengths[:, 0], trace.lengths[:, i])
            assert torch.equal(alone.fired[0], trace.fired[i])
            torch.testing.assert_close(got[0], whole[i], rtol=0, atol=unpruned + rounding)


@reducing
def test_decisions_are_made_in_fp32(name: str, case: Case) -> None:
    """What is read in 16 bits is promoted before anything is computed of it."""
    if case.chooses:
        contract.decides_in_fp32(trial(name, case))
        return
    with pytest.raises(DoesNotApplyError, match="no reduction"):
        contract.decides_in_fp32(trial(name, case))


def test_a_choice_made_in_16_bits_is_found() -> None:
    """Where tokens go, which run the next block, and what enters a language model; beside 8 less of
    a mean is left in 16 bits."""

    def score(self: Reducer, view: View, state: Any) -> Tensor:
        return view.features[:, view.prefix :].mean(-1) + 8

    def decide(self: Reducer, view: View, state: Any) -> None:
        mean = view.features[:, view.prefix :].mean(-1) + 8
        chosen = view.prefix + mean.argsort(dim=1, stable=True)[:, :9].sort(dim=1).values
        front = torch.arange(view.prefix).expand(len(mean), -1)
        state.chosen[view.block + 1] = torch.cat([front, chosen], 1)

    def admit(self: Reducer, view: View, state: Any) -> Reduction:
        mean = (view.features.mean(-1) + 8).masked_fill(~view.image, -torch.inf)
        rank = mean.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return Reduction.keep((view.size > 0) & (~view.image | (rank < 20)))

    def told(self: Reducer, view: View, state: Any) -> Reduction:
        mean = (state.prompt.embeds.mean(-1) + 8).masked_fill(~view.image, -torch.inf)
        rank = mean.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return Reduction.keep((view.size > 0) & (~view.image | (rank < 20)))

    reads = {"needs": frozenset({Need.FEATURES})}
    images, questions = subject("plain"), Questions("llava_tiny", tokens=1)
    narrow: list[tuple[Subject, Reducer, dict[str, Any]]] = [
        (images, build("stride", k=0.5), reads | {"score": score}),
        (images, build("tosa_reading", k=0.5), reads | {"decide": decide}),
        (questions, build("divprune", k=20), {"admit": admit}),
        (questions, build("holov", k=20), {"admit": told}),
    ]
    for one, method, members in narrow:
        with pytest.raises(ContractError, match="promote what is read"):
            contract.decides_in_fp32(Trial(one, functools.partial(like, method, **members)))


@reducing
def test_outputs_are_finite(name: str, case: Case) -> None:
    contract.runs_in_16_bits(trial(name, case))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_class_row_is_of_its_image_alone(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, 3, 197, 64, generator=g).to(dtype)
    _, rows = attention_rows(q, k, None, Layout((197,) * 8), list(range(8)), None)
    assert rows.dtype == torch.float32
    for i in range(8):
        _, alone = attention_rows(q[i : i + 1], k[i : i + 1], None, Layout((197,)), [0], None)
        assert torch.equal(alone[0], rows[i])


def test_sums_do_not_depend_on_the_layout_in_memory() -> None:
    """A batch of one image may come transposed out of the patch embedding."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 32, generator=g).bfloat16()
    slot, weight = torch.arange(60) // 3, torch.full((60,), 1 / 3)
    transposed: Tensor = x.T.contiguous().T
    assert torch.equal(combine(transposed, slot, weight, 20), combine(x, slot, weight, 20))
