"""Who looks into a model while it runs: forward and backward hooks on its modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules import module as everywhere

from asap_eval.hosts.overriding import Override

OWN = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL = tuple(f"_global{name}" for name in OWN)
RECORDING = "transformers.utils.output_capturing"
"""Hooks that transformers leaves on layers and their attention when hidden states were asked for
once; those on attention record nothing where it is fused."""


def hooked(module: nn.Module) -> bool:
    """Whether a hook, or a wrapper around its forward, may see a module's input or output."""
    wrapped = not isinstance(module.__dict__.get("forward"), Override)
    if wrapped or any(getattr(module, name) for name in OWN):
        return True
    return any(getattr(everywhere, name) for name in GLOBAL)


def inner_hook(modules: Sequence[tuple[str, nn.Module]]) -> str | None:
    """Name of the first of these modules that somebody put a hook on."""
    for name, module in modules:
        hooks = [hook for kind in OWN for hook in getattr(module, kind).values()]
        if any(getattr(hook, "__module__", None) != RECORDING for hook in hooks):
            return name
    return None
