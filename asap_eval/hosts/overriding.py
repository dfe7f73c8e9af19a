"""Another function on one instance of a module, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def override(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """``module.<name>`` is ``function`` on this instance; its class's own comes back on exit."""
    module.__dict__[name] = function
    try:
        yield
    finally:
        del module.__dict__[name]
