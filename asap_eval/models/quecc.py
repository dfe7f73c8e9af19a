"""QueCC, the projector of "Inference Optimal VLMs Need Fewer Visual Tokens and More Parameters" (Li
et al., arXiv 2411.03312): what it computes and what it costs. It is trained, and the language model
with it; no checkpoint is public, so that it has no accuracy here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint
from asap_eval.errors import WeightsError
from asap_eval.hosts import LlavaGeometry

HEADS = 8
SOURCES = 4
"""Hidden states of the tower that keys and values are made from: 12, 16, 22 and 23."""


class QueCC(nn.Module):
    """Compresses patches to one token for each cell of ``kernel x kernel`` of them.

    Names are the authors' (a state dict of theirs loads): the projector's index 0.

    Args:
        width: C of the tower. sources: width of all hidden states together. text: E, of the
            language model. kernel: patches of a cell, down and across.
    """

    def __init__(self, width: int, sources: int, text: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.text_projection = nn.Sequential(nn.Linear(text, width), _norm(width))
        self.q_proj = _projected(width, width)
        self.k_proj, self.v_proj = (_projected(sources, width) for _ in range(2))
        self.q_downsample = nn.Conv2d(width, width, kernel, stride=kernel, groups=width)
        self.clip_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def forward(self, x: Tensor, multi: Tensor, text: Tensor) -> Tensor:
        """``[B, n, C]`` cells in raster order.

        Args:
            x: ``[B, N, C]`` patches. multi: ``[B, N, 4 C]`` several hidden states of each.
            text: ``[B, 1, E]`` the language model's last state of the question alone.

        Raises:
            ValueError: the patches are no square that cells fill.
        """
        batch, count, width = x.shape
        side, kernel = round(count**0.5), self.kernel
        if side * side != count or side % kernel:
            raise ValueError(f"{count} patches are no square of cells of {kernel} x {kernel}.")
        queries = self.q_proj(x + self.text_projection(text))
        image = queries.mT.unflatten(2, (side, side))
        queries = self.q_downsample(image).flatten(2).mT
        cells = queries.shape[1]
        keys, values = (self._cells(p(multi), side) for p in (self.k_proj, self.v_proj))
        out, _ = self.clip_attn(
            queries.reshape(batch * cells, 1, width), keys, values, need_weights=False
        )
        found: Tensor = out.reshape(batch, cells, width)
        return found

    def _cells(self, x: Tensor, side: int) -> Tensor:
        """``[B n, k k, C]`` the patches of each cell, from ``[B, N, C]``."""
        cells = x.unflatten(1, (side // self.kernel, self.kernel, side // self.kernel, self.kernel))
        return cells.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def _projected(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width), _norm(width))


class Projector(nn.ModuleList):
    """QueCC and LLaVA's two linear layers behind it, under the authors' names."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        width, sources = state["0.k_proj.0.weight"].shape
        compress = QueCC(
            width,
            sources,
            text=state["0.text_projection.0.weight"].shape[1],
            kernel=state["0.q_downsample.weight"].shape[2],
        )
        first = nn.Linear(width, len(state["1.weight"]))
        last = nn.Linear(*state["3.weight"].shape[::-1])
        super().__init__([compress, first, nn.GELU(), last])
        self.load_state_dict(dict(state))

    def forward(self, x: Tensor, multi: Tensor, text: Tensor) -> Tensor:
        """``[B, n, D]``; see `QueCC`."""
        compress, *rest = self
        out: Tensor = compress(x, multi, text)
        for layer in rest:
            out = layer(out)
        return out


def load_projector(checkpoint: str | Path | None) -> Projector:
    """A trained projector.

    Raises:
        WeightsError: none is given, or the file holds none.
    """
    if checkpoint is None:
        raise WeightsError(
            "QueCC is a projector that is trained together with the language model, and no "
            "checkpoint of it is public: without one it has a cost and no accuracy."
        )
    state, _ = read_checkpoint(Path(checkpoint), "quecc")
    try:
        return Projector(state).eval().requires_grad_(False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"quecc={checkpoint} is no QueCC projector: {error}.") from error


@dataclass(frozen=True)
class Cost:
    """MACs of one picture and question with QueCC in the projector's place.

    Attributes:
        tokens: image tokens handed on. projector: QueCC and the linear layers behind it.
        question: the language model over the question alone. prefill: over the prompt.
    """

    tokens: int
    projector: int
    question: int
    prefill: int


def cost_of(geometry: LlavaGeometry, kernel: int, question: int, text: int) -> Cost:
    """What QueCC would cost in a model.

    Args:
        question: tokens of the question, which the language model reads once more for it.
        text: tokens of the whole prompt that are not of the image.
    """
    language, patches, width = geometry.language, geometry.tower.patches, geometry.tower.width
    cells = patches // kernel**2
    linear = 2 * patches + 2 * (SOURCES + 1) * patches  # q, and k and v of all states
    attention = 2 * cells + 2 * patches  # projections of q and out, of k and v
    products = 3 * patches * width  # the convolution, and both products of each cell
    behind = cells * (width * language.width + language.width**2)
    own = (linear + attention) * width**2 + products + width * language.width + behind

    def read(tokens: int) -> int:
        return sum(block.macs(tokens, tokens) for block in language.blocks)

    return Cost(cells, own, read(question), read(cells + text) + language.head_token)


@torch.no_grad()
def last_state(text: nn.Module, embeds: Tensor) -> Tensor:
    """``[1, 1, E]`` the language model's last state, behind its last norm, of one question.

    Args:
        text: a `LlamaModel`. embeds: ``[1, Q, E]``.
    """
    out: Tensor = text(inputs_embeds=embeds).last_hidden_state
    return out[:, -1:]
