"""The contract of a method as checks that any method can be held to; `check` runs them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asap_eval.testing.demands import DEMANDS, ContractError, Finding

if TYPE_CHECKING:  # `asap-eval ls checks` needs no torch
    from asap_eval.testing.run import check

__all__ = ["DEMANDS", "ContractError", "Finding", "check"]


def __getattr__(name: str) -> Any:
    if name != "check":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from asap_eval.testing.run import check

    return check
