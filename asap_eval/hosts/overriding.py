"""Other functions and attributes on one instance of a module, for as long as a context lasts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from torch import nn

from asap_eval.errors import AsapEvalError, UnsupportedModelError

Function = Callable[..., Any]

UNDER_HOOK = "_old_forward"
"""Where accelerate's hooks keep the forward around which they stand."""


class Override:
    """Stands in for one function of a module.

    A wrapper that somebody puts around it (a hook of accelerate, a compiled function) may outlive
    the ``with``: it then reaches what stood here before.

    `torch.compile` leaves it alone: tokens are counted on the CPU and each batch is another shape,
    so that what it reaches runs as it would without being compiled.
    """

    def __init__(self, before: Function, function: Function) -> None:
        # The signature and name of what was there: Hugging Face's `generate` reads them.
        functools.update_wrapper(self, before)
        self.before, self.function = before, function
        self.active = True

    @torch.compiler.disable(reason="a token reduction method is installed (asap_eval.reduce)")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.function if self.active else self.before)(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise AsapEvalError(
            "A model with a method installed cannot be copied or pickled: its copy would run the "
            "original's blocks. Leave the `with` first, and enter it with the copy."
        )


@contextmanager
def override(module: nn.Module, name: str, make: Callable[[Function], Function]) -> Iterator[None]:
    """``module.<name>`` is ``make(what it was)`` on this instance; what it was comes back on exit.

    A ``forward`` with accelerate's hook around it is replaced under the hook.
    """
    if name == "forward" and UNDER_HOOK in module.__dict__:
        name = UNDER_HOOK
    own, before = name in module.__dict__, getattr(module, name)
    put = Override(before, make(before))
    module.__dict__[name] = put
    try:
        yield
    finally:
        put.active = False
        # Hooks that came or went inside the `with` have moved it.
        for key in [key for key, value in module.__dict__.items() if value is put]:
            if key == name and not own:
                del module.__dict__[key]
            else:
                module.__dict__[key] = before


@contextmanager
def attributes(values: Iterable[tuple[object, str, object]]) -> Iterator[None]:
    """Each ``(owner, name, value)`` is set; what was there comes back on exit."""
    with ExitStack() as stack:
        for owner, name, value in values:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def check_free(module: nn.Module, what: str) -> None:
    """Refuse a module that has a method installed, or a forward that overriding would hide.

    Args:
        what: the module in words.
    """
    values = list(module.__dict__.values())
    if any(isinstance(value, Override) and value.active for value in values):
        raise AsapEvalError("This model already has a method installed: leave that `with` first.")
    forward = module.__dict__.get(UNDER_HOOK, module.__dict__.get("forward"))
    if isinstance(forward, Override) or forward is None:
        return
    # Hooks that were taken off leave the class's own forward on the instance.
    if getattr(forward, "__func__", None) is not type(module).forward:
        raise UnsupportedModelError(
            f"{what} has a `forward` of its own on the instance, which token reduction would "
            "bypass. Take it off first."
        )
