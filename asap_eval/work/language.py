"""Work of a vision-language model in MACs: a closed form over the token counts a run really had.

Counted as in `asap_eval.work.macs`. Products of causal attention count in full, as the published
figures do; the head scores one token per step. The tower's last block, which nobody reads, is run
by no method and counted for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from asap_eval.hosts import LlavaGeometry
from asap_eval.trace import Trace
from asap_eval.work.macs import model_macs


@dataclass(frozen=True)
class VlmMacs:
    """MACs of each sample, ``[S]`` fp64.

    Attributes:
        tower: all crops up to the block that is read. projector: every token it is given.
        prefill: the language model over the prompt, to the first logits.
        method: the method's own products, in tower and language model.
    """

    tower: Tensor
    projector: Tensor
    prefill: Tensor
    method: Tensor

    @property
    def total(self) -> Tensor:
        """Everything up to the first logits, the method's own products included."""
        return self.tower + self.projector + self.prefill + self.method


def prefill_ledger(geometry: LlavaGeometry, trace: Trace) -> VlmMacs:
    """What the latest traced pass cost up to its first logits."""
    samples = len(trace.handed_to_llm)

    def per_sample(crops: Tensor) -> Tensor:
        """``[S]`` sums over the crops ``[B]`` of each sample."""
        sums = torch.zeros(samples, dtype=torch.float64, device=crops.device)
        return sums.index_add_(0, trace.sample, crops.double())

    language, own = geometry.language, trace.language
    prefill = torch.full_like(own.method_macs, language.head_token)
    attention, mlp = own.attention_tokens.double(), own.mlp_tokens.double()
    for block, seen, kept in zip(language.blocks, attention, mlp, strict=True):
        prefill += block.macs(seen, kept)
    return VlmMacs(
        tower=per_sample(model_macs(geometry.tower, trace)),
        projector=per_sample(geometry.projector_token * trace.projected),
        prefill=prefill,
        method=per_sample(trace.method_macs) + own.method_macs,
    )


def decode_macs(geometry: LlavaGeometry, trace: Trace, steps: int) -> Tensor:
    """``[S]`` fp64 MACs of decoding ``steps`` tokens after the first logits, with the cache.

    A new token sees what every layer's cache holds of the prompt, the new ones before it, and
    itself.
    """
    language, own = geometry.language, trace.language
    work = torch.full_like(own.method_macs, steps * language.head_token)
    for block, cached in zip(language.blocks, own.cached_tokens.double(), strict=True):
        work += steps * (block.attention_token + block.mlp_token)
        work += block.attention_pair * (steps * cached + steps * (steps + 1) / 2)
    return work


@lru_cache(maxsize=4096)  # questions about one picture differ little in length
def unpruned_prefill(geometry: LlavaGeometry, image_tokens: int, text: int, crops: int) -> VlmMacs:
    """The ledger of one unpruned sample, ``[1]`` each, from its counts alone.

    Args:
        image_tokens: handed to the language model, newlines included. text: other tokens of the
            prompt. crops: of the image.
    """
    tower, language = geometry.tower, geometry.language
    trace = Trace()
    source = torch.zeros(crops, tower.patches, dtype=torch.long)
    seen = trace.start(tower.depth, source, tower.patches)
    seen.unreduced(torch.full((crops,), tower.tokens))
    trace.hand_over(
        sample=torch.zeros(crops, dtype=torch.long),
        projected=torch.full((crops,), tower.patches),
        handed=torch.tensor([image_tokens]),
    )
    trace.begin_language(
        len(language.blocks),
        source=torch.zeros(1, image_tokens, dtype=torch.long),
        prompt_tokens=torch.tensor([image_tokens + text]),
    )
    return prefill_ledger(geometry, trace)
