"""A method's own products in the ledger against those that torch counts while it decides."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import tiny_llava as small
import torch

from asap_eval.method import build
from asap_eval.testing import contract
from asap_eval.testing.questions import Questions
from asap_eval.testing.subject import Trial

OPTIONS: dict[str, dict[str, Any]] = {
    "divprune": {"k": 20},
    "scope": {"k": 20},
    "vispruner": {"k": 20},
    "visionzip": {"k": 20},
}
"""Methods whose products are all in what `Reducer.decide` calls."""


@small.on_both
@pytest.mark.parametrize("method", OPTIONS)
def test_the_ledger_has_what_torch_counts(name: str, method: str) -> None:
    trial = Trial(Questions(name, torch.float32, (0,)), partial(build, method, **OPTIONS[method]))
    assert trial.whole.trace.method_macs.sum() + trial.whole.trace.language.method_macs.sum() > 0
    contract.counts_macs(trial)
