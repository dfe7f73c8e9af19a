"""The random walk over attention as ASAP defines it (arXiv 2605.22372): its steps, its figures.

Nothing here knows a model, a file or a method. Every image stands for itself.

Letters: B images, N tokens, p prefix tokens, P = N - p patches, ``A [B, N, N]`` attention with
queries in rows (each row sums to 1), ``C [B, N, N]`` the walk so far, ``m [B, N]`` column masses.
Patches count from 0, without the prefix.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Order = Literal["walk", "rollout"]


def start(count: int, tokens: int, device: torch.device | None = None) -> Tensor:
    """``C_0 [B, N, N]``: every token stands where it is."""
    return torch.eye(tokens, device=device).repeat(count, 1, 1)


def step(chain: Tensor, attention: Tensor, alpha: float, order: Order) -> Tensor:
    """One block further: ``C T`` (walk) or ``T C`` (rollout), ``T = alpha A + (1 - alpha) I``."""
    left, right = (chain, attention) if order == "walk" else (attention, chain)
    return torch.baddbmm(chain, left, right, beta=1 - alpha, alpha=alpha)


def among_patches(attention: Tensor, prefix: int) -> Tensor:
    """``[B, P, P]`` attention without prefix rows and columns, rows brought back to sum 1."""
    inner = attention[:, prefix:, prefix:]
    return inner / inner.sum(2, keepdim=True)


def column_mass(chain: Tensor) -> Tensor:
    """``[B, N]`` how much of the walk has arrived in each column: ``m[j] = sum_i C[i, j]``."""
    return chain.sum(1)


def at(values: Tensor, column: Tensor) -> Tensor:
    """``[B]`` the entry of each image's row ``values [B, N]`` at its ``column [B]``."""
    return values.gather(1, column[:, None])[:, 0]


def flows(mass: Tensor, attention: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """What one step moves into a column from the others, and out of it to the others.

    With ``m' = m T`` and rows of A that sum to 1,

        m'[j] - m[j] = alpha (sum_i m[i] A[i, j] - m[j])
                     = alpha (sum_{i != j} m[i] A[i, j]  -  m[j] (1 - A[j, j])),

    so a column grows if and only if its inflow, the first sum, exceeds its outflow, the second
    term; alpha decides how fast, never whether. This is the update of Appendix B and holds for
    ``order="walk"`` alone: a rollout multiplies from the left and moves no masses along columns.

    Args:
        mass: ``[B, N]`` before the step. column: ``[B]`` j, counted in the columns of ``mass``.

    Returns:
        Inflow and outflow, both ``[B]``, before alpha.
    """
    into = attention.gather(2, column[:, None, None].expand(-1, attention.shape[1], 1))[:, :, 0]
    own = at(into, column)
    here = at(mass, column)
    return (mass * into).sum(1) - here * own, here * (1 - own)


def distances(chain: Tensor, sink: Tensor, prefix: int, *, weighted: bool = False) -> Tensor:
    """``[B, P]`` L2 distance of each patch's row of C to the sink's, over all N columns.

    Args:
        sink: ``[B]`` patches. weighted: each column divided by the square root of its mean mass
            (Appendix A); a column nobody ever reaches is 0 in all rows and adds nothing.
    """
    if weighted:
        mean = chain.mean(1, keepdim=True)
        chain = chain / torch.where(mean > 0, mean, 1).sqrt()
    patches = chain[:, prefix:]
    anchor = patches[torch.arange(len(sink), device=sink.device), sink]
    return (patches - anchor[:, None]).norm(dim=2)


def without(values: Tensor, column: Tensor) -> Tensor:
    """``[B, P - 1]`` each row of ``[B, P]`` less its own ``column [B]``."""
    stays = torch.ones_like(values, dtype=torch.bool).scatter(1, column[:, None], False)
    return values[stays].view(len(values), -1)


def ranks(values: Tensor) -> Tensor:
    """``[B, n]`` fp64 ranks from 1 in each row; equal values share the mean of their ranks."""
    ordered = values.contiguous().sort(1).values
    below = torch.searchsorted(ordered, values.contiguous(), side="left")
    upto = torch.searchsorted(ordered, values.contiguous(), side="right")
    return (below + upto + 1).double() / 2


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """``[B]`` Spearman's rho of two ``[B, n]``; NaN where all values of a row are equal."""
    a, b = (r - r.mean(1, keepdim=True) for r in (ranks(first), ranks(second)))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def spread(chain: Tensor) -> Tensor:
    """``[B]`` root mean square distance of the rows of C from their mean row.

    ``sqrt(1 - 1/N)`` at the start, 0 where all rows are equal: how much of where it began the walk
    still knows.
    """
    return _centred(chain).square().sum((1, 2)).div(chain.shape[1]).sqrt()


def effective_rank(chain: Tensor) -> Tensor:
    """``[B]`` participation ratio of the centred rows: ``(sum s^2)^2 / sum s^4``, s its singular
    values.

    ``N - 1`` at the start, 1 where the rows differ along one direction only, 0 where all are equal.
    """
    rows = _centred(chain)
    gram = rows @ rows.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    square = gram.square().sum((1, 2))
    return torch.where(square > 0, trace.square() / torch.where(square > 0, square, 1), 0)


def _centred(chain: Tensor) -> Tensor:
    return chain - chain.mean(1, keepdim=True)


def ring(grid: tuple[int, int]) -> Tensor:
    """``[P]`` bool: patches at the border of the image."""
    down, across = grid
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[1 : down - 1, 1 : across - 1] = True
    return ~inside.flatten()
