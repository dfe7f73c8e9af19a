"""What a method keeps of a pass, moved to another device: layers may lie on several GPUs."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor


def brought(value: Any, device: torch.device) -> Any:
    """A value whose tensors, at any depth, are on a device; where all are, it is the value itself.

    Dataclasses, lists, tuples and dicts are copied where something in them moves, with their
    fields of devices; whatever else a state holds stays as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, torch.device):
        return device
    if isinstance(value, dict):
        made: Any = {key: brought(one, device) for key, one in value.items()}
        return value if all(made[key] is one for key, one in value.items()) else made
    if isinstance(value, (list, tuple)):
        parts = [brought(one, device) for one in value]
        if all(made is one for made, one in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_brought(value, device)
    return value


def _fields_brought(value: Any, device: torch.device) -> Any:
    """A dataclass, frozen or not, that its constructor may know nothing of: fields are put in."""
    before = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    after = {name: brought(one, device) for name, one in before.items()}
    if all(after[name] is one for name, one in before.items()):
        return value
    made = copy.copy(value)
    for name, one in after.items():
        object.__setattr__(made, name, one)
    return made
