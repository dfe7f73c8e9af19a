"""Prompts on their way through a language model: which tokens are left, and where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asap_eval.hosts.moving import brought
from asap_eval.hosts.prompts import Prompts
from asap_eval.tokens import DROPPED, Reduction, Tokens
from asap_eval.trace import PassTrace


class Reading:
    """The tokens of a batch of prompts on their way through the layers, and what caches hold.

    Attributes:
        valid: ``[S, N]`` bool. position: ``[S, N]`` position ids. image: ``[S, N]`` bool, tokens
            that hold image tokens. source: ``[S, P]`` slot of each image token, padding left out.
        rotary, mask: of the tokens now; ``None`` = the model's own still hold.
        cached: by layer behind a reduction, or whose method keeps something else in the cache, the
            valid tokens its cache got from the prompt.
        admitted: whether tokens went before the first layer, so that the model's own counting of
            positions is another prompt's.
        seen: what the trace of the language model is to hold.
    """

    seen: PassTrace

    def __init__(self, prompts: Prompts, layers: int) -> None:
        self.prompts, self.layers = prompts, layers
        self.valid = prompts.mask.bool()
        self.position = (self.valid.long().cumsum(1) - 1).clamp(min=0)
        start, stop = prompts.start[:, None], (prompts.start + prompts.count)[:, None]
        self.image = self.valid & (self.position >= start) & (self.position < stop)
        place = torch.arange(int(prompts.count.max()), device=start.device)
        self.source = torch.where(place < prompts.count[:, None], start + place, DROPPED)
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.mask: Tensor | None = None
        self.changed = self.admitted = False
        self.cached: dict[int, Tensor] = {}
        self.state: Any = None

    def follow(self, device: torch.device) -> None:
        """Go to the device of the layer that comes next, with what the method keeps; caches stay
        with their layers."""
        if self.valid.device == device:
            return
        for name in ("valid", "position", "image", "source", "rotary", "mask", "state"):
            setattr(self, name, brought(getattr(self, name), device))
        self.prompts = brought(self.prompts, device)

    @property
    def lengths(self) -> Tensor:
        return self.valid.sum(1)

    def rotary_of(self, text: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the tokens now, ``[S, N, d]``; ``None`` = the model's own hold."""
        if self.changed and self.rotary is None:
            self.rotary = rotary_at(text, x, self.position)
        return self.rotary

    def right(self, values: Tensor) -> Tensor:
        """``[S, longest, ...]`` with padding at the end, zeros there, from padding at the front."""
        longest = int(self.lengths.max())
        place = torch.arange(longest, device=values.device)
        front = values.shape[1] - self.lengths
        index = (front[:, None] + place).clamp(max=values.shape[1] - 1)
        out = values[torch.arange(len(values), device=values.device)[:, None], index]
        kept = place < self.lengths[:, None]
        return out * kept.view(*kept.shape, *(1,) * (out.dim() - 2))

    def left(self, values: Tensor, lengths: Tensor) -> Tensor:
        """``[S, longest, ...]`` with padding at the front, from padding at the end."""
        place = torch.arange(values.shape[1], device=values.device)
        index = (place - (values.shape[1] - lengths)[:, None]).clamp(min=0)
        return values[torch.arange(len(values), device=values.device)[:, None], index]

    def apply(self, x: Tensor, reduction: Reduction, positions: str) -> Tensor:
        """``[S, N', D]`` after a reduction (padding at the end) of ``[S, N, D]``."""
        size = self.right(self.valid.float())
        tokens = Tokens(self.right(x), size, self.source, 0).apply(reduction)
        lengths = tokens.lengths
        group, slots = reduction.group, tokens.x.shape[1]
        into = torch.where(group >= 0, group, slots)
        image = torch.zeros(len(x), slots + 1, dtype=torch.long, device=x.device)
        image.scatter_reduce_(1, into, self.right(self.image.long()), "amax")
        first = torch.full_like(image, torch.iinfo(torch.long).max)
        first.scatter_reduce_(1, into, self.right(self.position), "amin")
        place = torch.arange(slots, device=x.device)
        padding = place >= lengths[:, None]
        position = first[:, :-1] if positions == "kept" else place.expand(len(x), -1)
        self.source = tokens.source
        self.image = self.left(image[:, :-1].bool() & ~padding, lengths)
        self.position = self.left(position.masked_fill(padding, 0), lengths)
        self.valid = (place >= (slots - lengths)[:, None]).expand(len(x), -1)
        self.changed, self.rotary, self.mask = True, None, self._causal()
        return self.left(tokens.x, lengths).masked_fill(~self.valid[..., None], 0)

    def _causal(self) -> Tensor | None:
        """``[S, 1, N, N]`` bool, or ``None`` where there is no padding and attention is causal."""
        if bool(self.valid.all()):
            return None
        count = self.valid.shape[1]
        ahead = torch.ones(count, count, dtype=torch.bool, device=self.valid.device).tril()
        seen = ahead & self.valid[:, None]
        # A padding query sees itself: a row without any key has no softmax.
        own = torch.eye(count, dtype=torch.bool, device=self.valid.device)
        return (seen | own)[:, None]

    def next_token(
        self, layer: int, cached: int, count: int, positions: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """Mask ``[S, 1, count, keys]`` and positions ``[S, count]`` of new tokens; ``None`` = no
        mask, and the model's own positions.

        Args:
            cached: tokens in the layer's cache. count: new tokens; they come one by one.
            positions: of a reduction, as `Reducer.positions`.
        """
        valid = self.cached[layer]
        before = cached - valid.shape[1]  # new tokens so far
        new = torch.ones(len(valid), before + count, dtype=torch.bool)
        keys = torch.cat([valid, new.to(valid.device)], 1)
        position = None
        if positions == "renumbered":
            position = keys[:, : keys.shape[1] - count].sum(1)
        elif self.admitted:
            position = self.position[:, -1].to(keys.device) + 1 + before
        if position is not None:
            position = position[:, None] + torch.arange(count, device=keys.device)
        return (None if bool(keys.all()) else keys[:, None, None]), position


def rotary_at(text: Any, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions ``[S, N]``, on the device of ``x``: the module that makes them
    may lie on another."""
    cos, sin = text.rotary_emb(x, position_ids=position)
    return cos.to(x.device), sin.to(x.device)
