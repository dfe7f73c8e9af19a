"""A method's own products in the ledger against those that torch counts while it decides."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import tiny_llava as small
import torch
from cases import small_clip

from asap_eval.method import build
from asap_eval.testing import contract
from asap_eval.testing.questions import Questions
from asap_eval.testing.subject import Trial

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


@small.on_both
@pytest.mark.parametrize("method", OPTIONS)
def test_the_ledger_has_what_torch_counts(name: str, method: str) -> None:
    options = OPTIONS[method] | ({"clip": small_clip()} if method == "cdpruner" else {})
    trial = Trial(Questions(name, torch.float32, (0,)), partial(build, method, **options))
    assert trial.whole.trace.method_macs.sum() + trial.whole.trace.language.method_macs.sum() > 0
    contract.counts_macs(trial)
