"""CLIP's text tower and projections: a second checkpoint beside a model that holds only the tower
for images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError, WeightsError


@dataclass(frozen=True)
class TextSide:
    """What a text-conditioned method needs of a CLIP checkpoint.

    Attributes:
        model: `CLIPModel`. tokenizer: its own.
    """

    model: Any
    tokenizer: Any

    @property
    def context(self) -> int:
        """Tokens of one segment."""
        return int(self.model.config.text_config.max_position_embeddings)

    def segments(self, text: str) -> Tensor:
        """``[M, context]`` ids: the text in as many segments as it fills, 0 behind the last."""
        ids = torch.tensor(self.tokenizer(text, truncation=False).input_ids)
        ids = F.pad(ids, (0, -len(ids) % self.context))
        return ids.view(-1, self.context)

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """``[M, E]`` a text's segments, each read at its highest id (the end token where it has
        one)."""
        ids = self.segments(text).to(self.model.device)
        states = self.model.text_model(input_ids=ids).last_hidden_state
        place = torch.arange(len(ids), device=ids.device)
        out: Tensor = self.model.text_projection(states[place, ids.argmax(1)])
        return out

    def macs(self, segments: int) -> int:
        """MACs of embedding so many segments."""
        config, n = self.model.config.text_config, self.context
        linears = [
            m.weight.numel()
            for m in self.model.text_model.encoder.modules()
            if isinstance(m, torch.nn.Linear)
        ]
        pairs = config.num_hidden_layers * 2 * n * n * config.hidden_size
        projection = self.model.text_projection.weight.numel()
        return segments * (n * sum(linears) + pairs + projection)

    @torch.no_grad()
    def embed_patches(self, features: Tensor) -> Tensor:
        """``[..., E]`` patches ``[..., C]`` through CLIP's last norm and its visual projection."""
        side = self.model.vision_model
        x = features.to(self.model.visual_projection.weight.dtype)
        out: Tensor = self.model.visual_projection(side.post_layernorm(x))
        return out


@lru_cache(maxsize=2)
def text_side(clip: str, device: torch.device) -> TextSide:
    """The checkpoint in a folder, or of that name on the hub.

    Raises:
        WeightsError: there is none, or it is not CLIP's.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(clip).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(clip)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"method.clip={clip}: no CLIP checkpoint with a text tower there ({reason[:200]}). "
            "Give a folder with config, weights and tokenizer, or a name on the hub, such as "
            "openai/clip-vit-large-patch14-336."
        ) from error
    return TextSide(model, tokenizer)


def given(method: str, clip: str | None, device: torch.device) -> TextSide:
    """The text side that an option names; errors as of `named` and `text_side`."""
    return text_side(named(method, clip), device)


def named(method: str, clip: str | None) -> str:
    """What the option names.

    Raises:
        BadValueError: nothing.
    """
    if clip is None:
        raise BadValueError(
            f"{method} reads the question with CLIP's text tower, which this model does not hold: "
            "give method.clip=<folder or hub name of the CLIP its tower is from>, such as "
            "openai/clip-vit-large-patch14-336."
        )
    return clip
