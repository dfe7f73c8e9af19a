"""Work counted from torch's operators, by which every closed form is checked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from inspect import isfunction
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts.backbone import Backbone

Shape = tuple[int, ...]
Ready = Callable[[nn.Module], AbstractContextManager[None]]

_counted: WeakKeyDictionary[nn.Module, dict[tuple[Shape, ...], int]] = WeakKeyDictionary()
"""MACs of a module by the shapes of its input and its weights, for as long as it lives."""


MORE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mv: lambda a, b: a.numel(),
    torch.ops.aten.addmv: lambda out, a, b, **_: a.numel(),
    torch.ops.aten.dot: lambda a, b: a.numel(),
    torch.ops.aten.vdot: lambda a, b: a.numel(),
}
"""MACs of products with a vector, of which torch has no formula."""


class AttentionProducts(TorchFunctionMode):
    """Fused attention as its two products: kernels differ by device and release of torch, and it
    has no formula for some. Masked and causal ones count in full."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        run = _products if func is F.scaled_dot_product_attention else func
        return run(*args, **(kwargs or {}))


def _products(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """``[B, H, N, d]`` of the right shape; several heads may share their keys and values."""
    shared = query.shape[-3] // key.shape[-3]
    key, value = (t.repeat_interleave(shared, -3) for t in (key, value))
    return query @ key.mT @ value


class Operations(TorchDispatchMode):
    """Sums what torch's own formulas say of the operators inside the ``with``, on this thread."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func.overloadpacket
        formula = flop_registry.get(kind)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        elif kind in MORE:
            self.total += 2 * MORE[kind](*args, **(kwargs or {}))
        return out


def operator_macs(
    module: nn.Module,
    shape: Shape,
    dtype: torch.dtype | None = None,
    ready: Ready = lambda _: nullcontext(),
) -> int:
    """MACs of the operators of one forward pass over one tensor.

    It runs on the meta device in the classes' own code: hooks and methods that were replaced on
    instances are left out, no weight is read and nothing of the module changes.

    Args:
        shape: of the tensor. dtype: of it; ``None`` = the weights'.
        ready: context in which the module's twin on the meta device runs.

    Raises:
        UnsupportedModelError: it does not run there, so that its work is unknown.
    """
    key = (shape, *(tuple(weight.shape) for weight in module.parameters()))
    known = _counted.setdefault(module, {})
    if key not in known:
        try:
            # In a thread of its own, where the caller's modes (counters, inference, a default
            # device, autocast) neither see this pass nor change it.
            with ThreadPoolExecutor(1) as thread:
                known[key] = thread.submit(_run, module, shape, dtype, ready).result()
        except Exception as error:  # whatever a model's own code raises where it has no data
            first = str(error).strip().split("\n")[0]
            raise UnsupportedModelError(
                f"The work of {type(module).__name__} cannot be counted: on the meta device it "
                f"stops with {type(error).__name__}: {first}"
            ) from error
    return known[key]


def _run(module: nn.Module, shape: Shape, dtype: torch.dtype | None, ready: Ready) -> int:
    twin = _twin(module, {})
    weight = next(module.parameters())
    given = torch.empty(shape, dtype=dtype or weight.dtype, device="meta")
    with torch.no_grad(), ready(twin), AttentionProducts(), Operations() as operations:
        twin(given)
    return operations.total // 2


def _twin(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module in eval mode with weights that have a shape alone; attributes are shared."""
    if module in made:
        return made[module]
    twin = made[module] = type(module).__new__(type(module))
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            twin.__dict__[name] = type(value)()
        elif not isfunction(getattr(type(module), name, None)):
            twin.__dict__[name] = value
    for kind in ("_parameters", "_buffers"):
        own: dict[str, Tensor | None] = getattr(module, kind)
        twin.__dict__[kind] = {name: None if t is None else _shape_of(t) for name, t in own.items()}
    children = module._modules.items()
    twin.__dict__["_modules"] = {name: child and _twin(child, made) for name, child in children}
    twin.__dict__["training"] = False
    return twin


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def check(what: str, ledger: int, operators: int) -> None:
    """Refuse what does other work than its closed form says; ``what`` begins the sentence."""
    if ledger != operators:
        raise UnsupportedModelError(
            f"{what} does {operators:,} MACs where the ledger's closed form has {ledger:,}: it has "
            "work that is not known here, and its MACs and budgets would be wrong."
        )


def check_work(backbone: Backbone, describe: Callable[[nn.Module], Backbone]) -> None:
    """Refuse a model whose closed form is not what its operators do for one image.

    Args:
        describe: the host's `Backbone` of a model; of the twin on the meta device here.

    Raises:
        UnsupportedModelError: the two differ, or the operators cannot be counted.
    """
    shape = (1, _channels(backbone.embed), *backbone.image_size)
    macs = operator_macs(backbone.model, shape, ready=lambda twin: describe(twin).fused())
    check(f"For an image this {backbone.geometry.family}", backbone.geometry.whole_macs, macs)


def stem_patch_macs(embed: nn.Module, image_size: tuple[int, int], grid: tuple[int, int]) -> int:
    """MACs of an embedding of many layers for a single patch.

    `check_work` refuses the model if it does not do as much for every other.
    """
    patch = [side // count for side, count in zip(image_size, grid, strict=True)]
    return operator_macs(embed, (1, _channels(embed), *patch))


def _channels(embed: nn.Module) -> int:
    """Channels of the images that an embedding takes."""
    return next(layer.in_channels for layer in embed.modules() if isinstance(layer, nn.Conv2d))
