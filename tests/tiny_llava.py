"""The small LLaVA models of `asap_eval.testing`, under a short name."""

from __future__ import annotations

import pytest

from asap_eval.testing.llava import (
    NAMES,
    QUESTIONS,
    SIZES,
    generate,
    inputs,
    logits,
    logits_and_ids,
    pictures,
    reduced,
    vlm,
)

__all__ = [
    "NAMES",
    "QUESTIONS",
    "SIZES",
    "generate",
    "inputs",
    "logits",
    "logits_and_ids",
    "on_both",
    "pictures",
    "reduced",
    "vlm",
]

on_both = pytest.mark.parametrize("name", NAMES)
