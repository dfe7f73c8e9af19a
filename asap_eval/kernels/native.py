"""The compiled kernels: whether they are there, and attention over packed ragged sequences."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from asap_eval.errors import BadValueError, KernelError
from asap_eval.kernels.build import library

SWITCH = "ASAP_EVAL_KERNELS"
"""Environment variable: ``auto`` (or unset), ``torch`` (off) or ``native`` (an error without)."""

TILE = 6
"""Rows that a kernel computes at a time: TILE in tiles.h."""

SHARES = 4
"""An image of more than 1 / SHARES of a thread's work is cut: threads then end together."""


class _Task(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("start", "length", "first", "end", "slot")]


class _Call(ctypes.Structure):
    """``struct call`` of packed_attention.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v")),
        *((f"{name}_{of}", ctypes.c_int64) for name in "qkv" for of in ("token", "head")),
        *((name, ctypes.c_void_p) for name in ("bias", "out", "maps", "workspace", "tasks")),
        *((name, ctypes.c_int64) for name in ("tasks_count", "longest", "most_tokens", "H", "d")),
        *((name, ctypes.c_int32) for name in ("every_head", "threads")),
        ("scale", ctypes.c_float),
    ]


class Walk(ctypes.Structure):
    """``struct walk`` of walk.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("rows", "maps", "workspace")),
        *((name, ctypes.c_int64) for name in ("count", "M", "N", "parts")),
        ("threads", ctypes.c_int32),
        ("alpha", ctypes.c_float),
    ]


class Nearest(ctypes.Structure):
    """``struct nearest`` of nearest.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((f"x_{of}", ctypes.c_int64) for of in ("image", "head", "token")),
        *((name, ctypes.c_void_p) for name in ("sources", "targets")),
        *((f"{name}_image", ctypes.c_int64) for name in ("sources", "targets")),
        *((name, ctypes.c_void_p) for name in ("best", "partner", "workspace")),
        *((name, ctypes.c_int64) for name in ("count", "H", "d", "S", "T")),
        ("threads", ctypes.c_int32),
    ]


class Pairs(ctypes.Structure):
    """``struct pairs`` of nearest.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("best", "partner", "group", "workspace")),
        *((name, ctypes.c_int64) for name in ("count", "S", "N", "prefix", "merged")),
        *((name, ctypes.c_int32) for name in ("source_first", "by_order", "threads")),
    ]


class Survey(ctypes.Structure):
    """``struct survey`` of reduction.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("group", "size", "share", "found")),
        *((name, ctypes.c_int64) for name in ("count", "N")),
    ]


class Moves(ctypes.Structure):
    """``struct reduction`` of reduction.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "out", "starts", "lengths")),
        *((name, ctypes.c_void_p) for name in ("new_starts", "new_rows", "group", "size")),
        *((name, ctypes.c_void_p) for name in ("weight", "share", "source")),
        *((name, ctypes.c_void_p) for name in ("new_size", "new_source", "workspace")),
        *((name, ctypes.c_int64) for name in ("count", "N", "D", "x_token", "P", "longest")),
        ("least", ctypes.c_float),
        ("threads", ctypes.c_int32),
    ]


@functools.cache
def load() -> ctypes.CDLL | str:
    """The library, or the reason why there is none."""
    try:
        found = library()
    except KernelError as error:
        return str(error)
    calls = {"packed_attention": _Call, "walk": Walk, "nearest": Nearest, "pairs": Pairs}
    for name, struct in {**calls, "survey": Survey, "reduction": Moves}.items():
        getattr(found, name).argtypes = [ctypes.POINTER(struct)]
        getattr(found, name).restype = None
    for name, sizes in {"packed_attention": 2, "walk": 1, "nearest": 2}.items():
        rooms = getattr(found, f"{name}_workspace")
        rooms.argtypes, rooms.restype = [ctypes.c_int64] * sizes, ctypes.c_int64
    found.packed_attention_build.argtypes = []
    found.packed_attention_build.restype = ctypes.c_char_p
    return found


def loaded() -> ctypes.CDLL:
    """The library, where `takes` says that it is used."""
    found = load()
    assert not isinstance(found, str)
    return found


def available() -> tuple[bool, str]:
    """Whether the native kernel is used on a CPU, and what it is or why not.

    The first call compiles the kernel unless the user's cache holds it (some seconds).

    Raises:
        BadValueError: ``ASAP_EVAL_KERNELS`` is none of auto, torch, native.
        KernelError: it is ``native`` and there is no native kernel.
    """
    wish = os.environ.get(SWITCH) or "auto"
    if wish == "torch":
        return False, f"{SWITCH}=torch"
    if wish not in ("auto", "native"):
        raise BadValueError(f"{SWITCH}={wish}: give auto, torch or native.")
    found = load()
    if not isinstance(found, str):
        return True, found.packed_attention_build().decode()
    if wish == "native":
        raise KernelError(
            f"{SWITCH}=native, but there is no native kernel: {found}. Install GCC, or unset "
            f"{SWITCH} to run attention in torch."
        )
    return False, found


def takes(*tensors: Tensor) -> bool:
    """Whether compiled kernels run on these: fp32 on a CPU, and nobody wants gradients."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    followed = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return plain and not followed and available()[0]


def workspace(floats: int) -> Tensor:
    """Memory for a kernel; it starts at a multiple of 64 bytes."""
    memory = torch.empty(floats + 16, dtype=torch.float32)
    return memory[-memory.data_ptr() % 64 // memory.element_size() :]


def attention_kernel(device: torch.device | str, dtype: torch.dtype) -> str:
    """What computes attention, as records name it.

    ``native C (gcc 12.2, AVX2)``, ``torch (no C compiler found)``; ``torch`` where there is no
    native kernel to miss: on a GPU, or in another precision than fp32.
    """
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return "torch"
    there, which = available()
    return f"native C ({which})" if there else f"torch ({which})"


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Sequence[int],
    lengths: Sequence[int],
    bias: Tensor | None = None,
    map_of: Sequence[int] | None = None,
    longest: int | None = None,
    heads: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of every image over its own tokens, and the maps of those images that want one.

    An image's result depends on its own tokens alone, bit for bit: neither on the other images nor
    on the number of threads (``torch.get_num_threads()``).

    Args:
        q, k, v: ``[T, H, d]`` fp32 on a CPU; views are fine while the last dimension is contiguous.
        starts: each image's first token.
        lengths: tokens of each image; together the images cover all T tokens once.
        bias: ``[T]`` fp32 added to the logits of each key, or ``None``; -inf masks a key (an
            image needs at least one key that is not masked).
        map_of: each image's place among the maps, or -1; the places are 0, 1, ... in any order.
            ``None`` for no maps.
        longest: rows and columns of a map; by default the tokens of the longest image with a map.
        heads: maps of every head rather than their mean.
        scale: factor of the logits; by default ``d ** -0.5``.

    Returns:
        The output ``[T, H, d]``, contiguous, and the maps, fp32: ``[b, longest, longest]``, or
        ``[b, H, longest, longest]`` with ``heads``; 0 in rows and columns beyond an image's own.
        ``None`` in their place where no image wants a map.

    Raises:
        ValueError: tensors, images or maps as above they are not; or autograd would have to follow.
        KernelError: there is no native kernel here (see `available`).
    """
    found = load()
    if isinstance(found, str):
        raise KernelError(f"No native attention kernel: {found}.")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check(name, tensor, q.shape)
    tokens, head_count, width = q.shape
    if bias is not None:
        if bias.shape != (tokens,) or bias.dtype != torch.float32 or bias.device.type != "cpu":
            raise ValueError(f"bias must be [{tokens}] fp32 on the CPU, not {_said(bias)}.")
        bias = bias.contiguous()
    threads = torch.get_num_threads()
    slots = None if map_of is None else tuple(map_of)
    tasks, count, wanted, need, most = _plan(tokens, tuple(starts), tuple(lengths), slots, threads)

    out = torch.empty((tokens, head_count, width), dtype=torch.float32)
    maps = None
    longest = need if longest is None else longest
    if wanted:
        if longest < need:
            raise ValueError(f"longest is {longest}, but an image with a map has {need} tokens.")
        kept = (head_count,) if heads else ()
        maps = torch.empty((wanted, *kept, longest, longest), dtype=torch.float32)
    memory = workspace(threads * found.packed_attention_workspace(most, width))
    call = _Call(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        q_token=q.stride(0),
        q_head=q.stride(1),
        k_token=k.stride(0),
        k_head=k.stride(1),
        v_token=v.stride(0),
        v_head=v.stride(1),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
        maps=None if maps is None else maps.data_ptr(),
        workspace=memory.data_ptr(),
        tasks=ctypes.addressof(tasks),
        tasks_count=count,
        longest=longest,
        most_tokens=most,
        H=head_count,
        d=width,
        every_head=heads,
        threads=threads,
        scale=width**-0.5 if scale is None else scale,
    )
    # Without the GIL; the locals keep all memory alive until it returns.
    found.packed_attention(call)
    return out, maps


def _said(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"


def _check(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if len(shape) != 3 or 0 in shape or tensor.shape != shape:
        raise ValueError(f"q, k, v must be [T, H, d] of one shape; {name} is {_said(tensor)}.")
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(f"The native kernel takes fp32 on the CPU; {name} is {_said(tensor)}.")
    if tensor.stride(2) != 1 and shape[2] > 1:
        raise ValueError(f"{name} must be contiguous in its last dimension.")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad; the native kernel has no backward pass.")


@functools.lru_cache(maxsize=64)
def _plan(
    tokens: int,
    starts: tuple[int, ...],
    lengths: tuple[int, ...],
    slots: tuple[int, ...] | None,
    threads: int,
) -> tuple[ctypes.Array[_Task], int, int, int, int]:
    """Tasks, how many they are, how many maps, the longest image with one, and of all.

    A task is one image while there are many; its keys are then packed once. A large share of the
    work is cut into rows. The largest tasks come first.
    """
    slots = (-1,) * len(lengths) if slots is None else slots
    if not len(starts) == len(lengths) == len(slots):
        raise ValueError(
            f"{len(starts)} starts, {len(lengths)} lengths, {len(slots)} maps: not of one batch."
        )
    row = 0
    for start, length in sorted(zip(starts, lengths, strict=True)):
        if start != row or length < 1:
            raise ValueError(f"The images must cover the {tokens} tokens once, without gaps.")
        row += length
    if row != tokens:
        raise ValueError(f"The images hold {row} tokens, q, k and v {tokens}.")
    used = [slot for slot in slots if slot >= 0]
    if sorted(used) != list(range(len(used))):
        raise ValueError(f"The maps' places must be 0, 1, ... without gaps, not {used}.")

    share = sum(length**2 for length in lengths) / (threads * SHARES)
    cut: list[tuple[int, int, int, int, int]] = []
    for start, length, slot in zip(starts, lengths, slots, strict=True):
        parts = 1 if threads == 1 else max(1, round(length**2 / share))
        rows = -(-length // (parts * TILE)) * TILE
        for first in range(0, length, rows):
            cut.append((start, length, first, min(first + rows, length), slot))
    cut.sort(key=lambda task: task[1] * (task[2] - task[3]))
    need = max(
        (length for length, slot in zip(lengths, slots, strict=True) if slot >= 0), default=0
    )
    tasks = (_Task * len(cut))(*(_Task(*task) for task in cut))
    return tasks, len(cut), len(used), need, max(lengths)
