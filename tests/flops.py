"""Work as torch counts it, to compare our closed forms with."""

from __future__ import annotations

from asap_eval.testing.operators import (
    counting,
)

__all__ = [
    "counting",
]
