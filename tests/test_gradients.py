"""Gradients through every method: those of the output, with the choice of tokens as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import tiny_llava as small
import torch
from cases import CASES, VISION, Case, batch
from torch import Tensor, nn

import asap_eval
from asap_eval.errors import BadValueError
from asap_eval.method import methods

STEP, TOLERANCE = 1e-7, 1e-5
WALKING = ("asap",)
"""Methods whose walk over attention is fp32 in every model, and decides how tokens are weighted:
differences of near values keep few of its digits."""
WALKING_STEP, WALKING_TOLERANCE = 1e-5, 3e-3


def slopes(output: Callable[[Tensor], Tensor], x: Tensor, step: float) -> tuple[float, float]:
    """Of a random combination of outputs along a random direction: by autograd, by differences."""
    g = torch.Generator().manual_seed(0)
    along = torch.randn(x.shape, generator=g, dtype=x.dtype)
    leaf = x.clone().requires_grad_(True)
    out = output(leaf)
    weight = torch.randn(out.shape, generator=g, dtype=x.dtype)
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    with torch.no_grad():
        ends = [(output(x + by * along) * weight).sum() for by in (step, -step)]
    return float((gradient * along).sum()), float((ends[0] - ends[1]) / (2 * step))


def check(output: Callable[[Tensor], Tensor], x: Tensor, method: str) -> None:
    walks = method in WALKING
    by_autograd, by_differences = slopes(output, x, WALKING_STEP if walks else STEP)
    tolerance = WALKING_TOLERANCE if walks else TOLERANCE
    assert by_autograd == pytest.approx(by_differences, rel=tolerance, abs=tolerance)


def test_every_method_is_here() -> None:
    assert {case.method for case in CASES} == set(methods())


@pytest.mark.parametrize("case", VISION, ids=str)
def test_gradients_are_the_slopes_of_the_output(case: Case) -> None:
    model = tiny.vit(1).double().requires_grad_(True)
    with asap_eval.reduce(model, case.method, **case.params) as trace:

        def output(x: Tensor) -> Tensor:
            trace.name_images(list("abcde"))
            out: Tensor = model(x)
            return out

        check(output, batch().double(), case.method)
        # As users have it: fp32, gradients on, parameters that are to learn.
        model.float()
        model(batch()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", [n for n in tiny.HOSTS if n != "plain"])
@pytest.mark.parametrize(
    "case",
    [  # of each kind that reads attention, one that leaves images with different lengths
        Case("asap", {"k": 2.0, "tau": 2.2, "never": "block:4"}),
        Case("ats", {"k": 24, "blocks": [1, 2, 4]}),
        Case("tome", {"r": 5}),
    ],
    ids=str,
)
def test_gradients_flow_on_every_host(name: str, case: Case) -> None:
    if name in tiny.WITHOUT_CLS and case.build().requires_cls:
        return
    model = tiny.HOSTS[name]().double().requires_grad_(True)
    with asap_eval.reduce(model, case.method, **case.params):

        def output(x: Tensor) -> Tensor:
            out = model(x)
            found: Tensor = out if isinstance(out, Tensor) else out.pooler_output
            return found

        check(output, batch().double(), case.method)


def test_gradients_flow_through_features_by_patch() -> None:
    model = tiny.vit(1).double()
    with asap_eval.reduce(model, "ats", k=24, blocks=[1, 2, 4]):

        def output(x: Tensor) -> Tensor:
            found: list[Tensor] = model.forward_intermediates(x, [1, 4], intermediates_only=True)
            return torch.cat(found)

        check(output, batch().double(), "ats")


LLAVA = [
    next(case for case in CASES if case.method == method and case.effect != "nothing")
    for method in (
        *("asap", "tome", "visionzip", "average_pool"),
        *(name for name, cls in methods().items() if cls.tower == "language"),
    )
]


@pytest.mark.parametrize("case", LLAVA, ids=str)
def test_gradients_flow_through_llava(case: Case) -> None:
    name = "llava_tiny"
    model, given = small.vlm(name, "float64").model, small.inputs(name, 0, dtype="float64")
    with asap_eval.reduce(model, case.method, **case.params_for(64, 4)):

        def output(pixels: Tensor) -> Tensor:
            logits: Tensor = model(**{**given, "pixel_values": pixels}).logits
            return logits[:, -1].double()

        check(output, given["pixel_values"].double(), case.method)


def test_gradient_checkpointing_is_refused() -> None:
    model = tiny.vit(1)
    model.set_grad_checkpointing(True)
    with asap_eval.reduce(model, "random", k=0.5, layer=2):
        with pytest.raises(BadValueError, match="set_grad_checkpointing"):
            model(batch())
        assert tiny.output(model, batch()).shape == (5, 11)  # without gradients it does nothing


def test_a_probe_may_learn_from_reduced_features() -> None:
    """Gradients belong to the caller: nothing is switched off for code inside the ``with``."""
    model, probe = tiny.vit(1), nn.Linear(32, 2)
    with asap_eval.reduce(model, "asap", k=2.0, tau=2.2) as trace:
        features: Any = trace.unmerge(model.forward_features(batch()))
        probe(features.mean((1, 2))).sum().backward()
    assert probe.weight.grad is not None
    assert not features.requires_grad
