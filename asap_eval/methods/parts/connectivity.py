"""Sparsifiner's low-rank predictors of which keys a query will look at, and their files."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint, read_metadata, stamped
from asap_eval.errors import WeightsError


class MaskPredictor(nn.Module):
    """Guesses attention from queries and keys; its parameters are shared by the heads.

    Args:
        tokens: N. width: d of a head. inner: c. rank: K.
    """

    def __init__(self, tokens: int, width: int, inner: int, rank: int) -> None:
        super().__init__()
        self.tokens, self.rank = tokens, rank
        self.proj_c_q = nn.Linear(width, inner)
        self.proj_c_k = nn.Linear(width, inner)
        self.proj_n = nn.Parameter(torch.empty(tokens, rank))
        self.proj_back_n = nn.Parameter(torch.empty(tokens, rank))

    def coefficients(self, q: Tensor, k: Tensor, active: Tensor, prefix: int) -> Tensor:
        """``[B, H, P, K]`` of every patch's query.

        Args:
            q, k: ``[B, H, N, d]`` of the block, unscaled. active: ``[B, N]`` bool.
        """
        seen = active[:, None, :, None]
        # Masked tokens are 0 again behind the projections, whose biases are not.
        q_, k_ = self.proj_c_q(q) * seen, self.proj_c_k(k) * seen
        summary = k_.mT @ self.proj_n
        # Scaled by the number of heads, as the authors do.
        return ((q_[:, :, prefix:] @ summary) * q.shape[1] ** -0.5).softmax(-1)

    def forward(
        self, q: Tensor, k: Tensor, active: Tensor, prefix: int, top: int, least: float
    ) -> Tensor:
        """``[B, H, P, N]`` guessed attention of the patches' queries."""
        kept = largest(self.coefficients(q, k, active, prefix), top)
        basis = self.proj_back_n.abs()
        return kept @ torch.where(basis > least, basis, 0).mT

    def macs(self, heads: int, prefix: int) -> int:
        """Projections, both low-rank products and the way back, dense as it runs here."""
        inner, width = self.proj_c_q.weight.shape
        project = 2 * self.tokens * width * inner + self.tokens * inner * self.rank
        queries = (self.tokens - prefix) * (inner + self.tokens) * self.rank
        return heads * (project + queries)


def largest(values: Tensor, count: int) -> Tensor:
    """The largest values of each row, of equal ones the first; 0 for the others."""
    best = values.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(values).scatter(-1, best, values.gather(-1, best))


def strongest(guess: Tensor, count: int) -> Tensor:
    """Bool: the ``count`` largest entries of each row, of those greater than 0."""
    order = guess.argsort(dim=-1, descending=True, stable=True)[..., :count]
    chosen = torch.zeros_like(guess, dtype=torch.bool).scatter(-1, order, True)
    return chosen & (guess > 0)


def load_masks(checkpoint: str, device: torch.device | str) -> tuple[MaskPredictor, ...]:
    """The predictors of a file by block, fp32, in eval mode; a file is read once.

    Raises:
        WeightsError: no such file, not a checkpoint, or predictors missing or of another shape.
    """
    return _loaded(*stamped(checkpoint, "checkpoint"), str(device))


@lru_cache(maxsize=4)
def _loaded(file: Path, written: int, device: str) -> tuple[MaskPredictor, ...]:
    tensors, _ = read_checkpoint(file, "checkpoint")
    grouped: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := re.search(r"blocks\.(\d+)\.attn\.mask_predictor\.(.+)$", key):
            grouped.setdefault(int(match[1]), {})[match[2]] = value
    made_for = read_metadata(file).get("method", "sparsifiner")
    if made_for != "sparsifiner":
        raise WeightsError(
            f"checkpoint={file} holds what was trained for method={made_for}, not for sparsifiner."
        )
    if not grouped or sorted(grouped) != list(range(len(grouped))):
        raise WeightsError(
            f"checkpoint={file} holds mask predictors of blocks {sorted(grouped) or '(none)'}; "
            "wanted is blocks.<i>.attn.mask_predictor.* of every block."
        )
    loaded = []
    for block in sorted(grouped):
        try:
            inner, width = grouped[block]["proj_c_q.weight"].shape
            tokens, rank = grouped[block]["proj_n"].shape
            predictor = MaskPredictor(tokens, width, inner, rank)
            predictor.load_state_dict(grouped[block], strict=True)
        except (KeyError, RuntimeError, ValueError) as error:
            raise WeightsError(
                f"The mask predictor of block {block} in checkpoint={file} does not fit: {error}."
            ) from error
        loaded.append(predictor.float().eval().requires_grad_(False).to(device))
    return tuple(loaded)
