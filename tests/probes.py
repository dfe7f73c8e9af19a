"""Methods that tests make up, as a registered one has it: with a name."""

from __future__ import annotations

from typing import Any

from asap_eval.method import Reducer
from asap_eval.testing.operators import like


def named(reducer: Reducer, **members: Any) -> Any:
    """The same method, called ``probe``, with some members of its class replaced."""
    return like(reducer, **{"name": "probe", **members})
