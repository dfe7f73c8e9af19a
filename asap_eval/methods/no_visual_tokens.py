"""Control for a vision-language model: what it answers without seeing the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asap_eval.method import Card, Reducer, View, register
from asap_eval.tokens import Reduction


@register(
    "no_visual_tokens",
    Card(
        paper="control",
        licence="ours",
        training="training-free",
        knob=None,
        knob_meaning="no knob",
        fixed_count=True,
    ),
)
@dataclass
class NoVisualTokens(Reducer):
    """Hand on no image token at all: what the benchmark gives away without its images."""

    site = "output"

    @property
    def requires_cls(self) -> bool:
        """Something has to be left for what the tower itself does with its output."""
        return True

    def decide(self, view: View, state: None) -> Reduction | None:
        kept = torch.arange(view.size.shape[1], device=view.size.device) < view.prefix
        return Reduction.keep(kept.repeat(len(view.images), 1))
