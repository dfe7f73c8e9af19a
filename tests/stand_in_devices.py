"""Devices that stand for GPUs on a machine without any: tensors know where they lie, and mixing
them is an error, as it is on GPUs. What is computed is computed on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FIRST, SECOND = torch.device("meta", 0), torch.device("meta", 1)

aten = torch.ops.aten
MOVING = {aten._to_copy.default, aten.copy_.default, aten.to.dtype_layout}
"""What may read one device and write another."""
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
"""Indices may lie on the CPU."""


class Placed(torch.Tensor):
    """A tensor whose numbers are on the CPU and that says it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Placed:
        made: Placed = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=device
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor of a GPU has to be brought to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class Made(TorchDispatchMode):
    """Tensors that an operator makes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """Tensors that are made of Python's numbers, which no operator sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            own, index, *rest = args
            parts = index if isinstance(index, tuple) else (index,)
            index = tuple(torch.tensor(one) if isinstance(one, list) else one for one in parts)
            args = (own, index, *rest)
        return func(*args, **kwargs)


@contextmanager
def devices() -> Iterator[None]:
    """Inside the ``with`` tensors can be made on the stand-in devices."""
    with Made(), FromNumbers():
        yield


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    placed = [one for one in given if isinstance(one, Placed)]
    where = {one.device for one in placed}
    if placed and func not in MOVING:
        # As on a GPU: a CPU tensor may only be a number, or an index.
        free = func in INDEXING
        plain = [one for one in given if not isinstance(one, Placed)]
        others = [one for one in plain if one.is_meta or (one.dim() and not free)]
        if len(where) > 1 or others:
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} was given "
                f"{[(str(one.device), [*one.shape]) for one in given]}"
            )
    to = args[0].device if placed and func is aten.copy_.default else None
    to = to or (placed[0].device if placed else None)
    if kwargs.get("device") is not None:
        to = torch.device(kwargs["device"])
        # Without a number it is the real one, where shapes are counted.
        kwargs = {**kwargs, "device": "cpu" if to in (FIRST, SECOND) else to}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}

    def opened(one: Any) -> Any:
        return one.held if isinstance(one, Placed) else one

    out = func(*tree_map(opened, args), **tree_map(opened, kwargs))
    if to not in (FIRST, SECOND):
        return out
    known = {id(one.held): one for one in placed}

    def closed(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return known[id(one)] if id(one) in known else Placed(one, to)

    return tree_map(closed, out)


class Moving(ModelHook):
    """What accelerate's hooks do between GPUs: inputs go to the module's device."""

    def __init__(self, device: torch.device, back: bool) -> None:
        self.device, self.back = device, back
        self.before = device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        if found:
            self.before = found[0].device
        return send_to_device(args, self.device), send_to_device(kwargs, self.device)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return send_to_device(output, self.before) if self.back else output


def place(model: nn.Module, device_map: Mapping[str, torch.device], rest: torch.device) -> None:
    """Put parts of a model, by their names, and the rest of it onto devices, with such hooks."""
    of = {
        id(module): device
        for name, device in device_map.items()
        for module in model.get_submodule(name).modules()
    }
    for name, module in list(model.named_modules()):
        device = of.get(id(module), rest)
        for own, p in list(module._parameters.items()):
            if p is not None:
                held = Placed(p.detach(), device)
                module._parameters[own] = nn.Parameter(held, requires_grad=False)
        for own, b in list(module._buffers.items()):
            if b is not None:
                module._buffers[own] = Placed(b, device)
        if name in device_map or not name:
            add_hook_to_module(module, Moving(device, back=not name))
