"""Sums that are exact: fixed-point numbers, whose sum is the same in any order and grouping.

A sum of floating-point numbers depends on the order and on where it was cut: pieces that several
processes add up would end in other bits than one process. Whole numbers have no such order. A value
is stored as two of them, ``high * 2**-32 + low * 2**-94`` with ``0 <= low < 2**62``; what lies
below is cut off each value by itself, before anything is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asap_eval.errors import AsapEvalError

_HIGH, _LOW = 32, 62
"""Binary places of the two numbers; a sum has to stay below ``2**31`` (images, for shares)."""


def fixed(values: Tensor) -> Tensor:
    """``[2, ...]`` int64 of values ``[...]``, which are taken as fp64.

    Raises:
        AsapEvalError: one is no number, or its sum would not fit.
    """
    values = values.detach().double().cpu()
    if not bool((values.abs() < 2.0 ** (_HIGH - 1)).all()):  # not a number compares false, too
        raise AsapEvalError("A sum over samples holds values that are not finite numbers.")
    shifted = values * 2.0**_HIGH
    high = shifted.floor()
    low = ((shifted - high) * 2.0**_LOW).long()
    return _carried(high.long(), low)


def added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two fixed-point tensors, exactly."""
    return _carried(one[0] + other[0], one[1] + other[1])


def floating(total: Tensor) -> Tensor:
    """``[...]`` fp64 of a fixed-point tensor ``[2, ...]``."""
    return total[0].double() * 2.0**-_HIGH + total[1].double() * 2.0 ** -(_HIGH + _LOW)


def _carried(high: Tensor, low: Tensor) -> Tensor:
    """With the low number in its bounds again; two of them fit into int64."""
    return torch.stack([high + (low >> _LOW), low & (2**_LOW - 1)])
