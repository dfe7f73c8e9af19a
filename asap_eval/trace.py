"""What happened to the tokens of the latest forward pass, and the work it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asap_eval.errors import AsapEvalError

COUNTS = ("lengths", "attention_tokens", "mlp_tokens")
"""Token counts of every block, ``[L, B]``; a host may fill them at the end of the pass."""


@dataclass
class Trace:
    """Filled by the host while the model runs; every forward pass starts it afresh.

    Attributes:
        patches: ``[B]`` patches that the stem made of each image: fewer than the model was built
            for where the image was resized at the input.
        lengths: ``[L, B]`` tokens of each image after each block, prefix included, padding not.
        attention_tokens: ``[L, B]`` tokens that entered the attention of each block.
        mlp_tokens: ``[L, B]`` tokens that entered the MLP of each block.
        method_macs: ``[B]`` fp64, the method's own products for each image.
        fired: ``[B]`` first block (from 1) that reduced the image, 0 = never. An image resized at
            the input has fired at 1, the first block that ran on fewer tokens.
        source: ``[B, P]`` slot of each original patch in its image's sequence, -1 = dropped.
        notes: what a method wants to show of each image, by name: a number (``sink``: ``[B]``), or
            one of each original patch (``distance``: ``[B, P]``).

    In a vision-language model the images are crops, and there are also:
        sample: ``[B]`` sample that each crop belongs to.
        projected: ``[B]`` tokens of each crop that go through the projector.
        handed_to_llm: ``[S]`` image tokens each sample hands to the language model, newlines
            included.
        prompt_tokens: ``[S]`` tokens of each prompt as the language model gets it.
        language: a trace of the language model while it read the prompts: its images are samples,
            its blocks the language model's layers, its patches the image tokens handed over. It
            alone has `cached_tokens`, ``[L, S]``: keys that each layer's cache holds of the prompt.
    """

    _values: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    _ids: tuple[str, ...] | None = None
    _language: Trace | None = None

    def name_images(self, ids: Sequence[str]) -> None:
        """Give the ids of the next forward's images; seeds of random choices derive from them.

        Without names, an image's seed derives from its pixel values.
        """
        self._ids = tuple(ids)

    def start(self, blocks: int, source: Tensor, patches: int | None = None) -> None:
        """Begin a forward pass of ``B`` images (host only).

        Args:
            blocks: L. source: ``[B, P]`` slots of the original patches.
            patches: of each image as the stem saw it; ``None`` = the original ones.
        """
        batch, device = source.shape[0], source.device
        counts = torch.zeros(blocks, batch, dtype=torch.long, device=device)
        made = source.shape[1] if patches is None else patches
        self._values = {
            "patches": torch.full((batch,), made, dtype=torch.long, device=device),
            "lengths": counts,
            "attention_tokens": counts.clone(),
            "mlp_tokens": counts.clone(),
            "method_macs": torch.zeros(batch, dtype=torch.float64, device=device),
            "fired": torch.zeros(batch, dtype=torch.long, device=device),
            "source": source,
        }
        self.notes = {}

    def hand_over(self, sample: Tensor, projected: Tensor, handed: Tensor) -> None:
        """Whose crops these were and what went through the projector, both ``[B]``, and what each
        sample hands on, ``[S]`` (host only)."""
        self._values |= {"sample": sample, "projected": projected, "handed_to_llm": handed}
        self._language = Trace()

    def begin_language(self, layers: int, source: Tensor, prompt_tokens: Tensor) -> None:
        """Prompts of so many tokens ``[S]`` are about to be read (host only); ``source`` as in
        `start`. Until a method shortens them every layer sees them whole."""
        self._values["prompt_tokens"] = prompt_tokens
        self.language.start(layers, source)
        self.language._values["cached_tokens"] = self.language.lengths.clone()
        for counts in (
            self.language.lengths,
            self.language.attention_tokens,
            self.language.mlp_tokens,
            self.language.cached_tokens,
        ):
            counts[:] = prompt_tokens

    def take_ids(self, batch: int) -> tuple[str, ...] | None:
        """The names given for this pass, used once (host only)."""
        ids, self._ids = self._ids, None
        if ids is not None and len(ids) != batch:
            raise AsapEvalError(f"{len(ids)} image ids were given for a batch of {batch} images.")
        return ids

    def note(self, name: str, images: Tensor, values: Tensor) -> None:
        """Keep a number of each image, ``values [b]``, or of each of its patches, ``[b, P]``.

        ``images`` is ``[b]``; absent ones read -1.
        """
        if name not in self.notes:
            kind = values.dtype if values.is_floating_point() else self.fired.dtype
            shape = (len(self.fired), *values.shape[1:])
            self.notes[name] = torch.full(shape, -1, dtype=kind, device=self.fired.device)
        self.notes[name][images] = values.to(self.notes[name])

    def _get(self, name: str) -> Tensor:
        if name not in self._values:
            raise AsapEvalError(f"trace.{name} is empty: run the model inside the `with` first.")
        return self._values[name]

    @property
    def patches(self) -> Tensor:
        return self._get("patches")

    @property
    def lengths(self) -> Tensor:
        return self._get("lengths")

    @property
    def attention_tokens(self) -> Tensor:
        return self._get("attention_tokens")

    @property
    def mlp_tokens(self) -> Tensor:
        return self._get("mlp_tokens")

    @property
    def cached_tokens(self) -> Tensor:
        return self._get("cached_tokens")

    @property
    def method_macs(self) -> Tensor:
        return self._get("method_macs")

    @property
    def fired(self) -> Tensor:
        return self._get("fired")

    @property
    def source(self) -> Tensor:
        return self._get("source")

    @source.setter
    def source(self, value: Tensor) -> None:
        self._values["source"] = value

    @property
    def sample(self) -> Tensor:
        return self._get("sample")

    @property
    def projected(self) -> Tensor:
        return self._get("projected")

    @property
    def handed_to_llm(self) -> Tensor:
        return self._get("handed_to_llm")

    @property
    def prompt_tokens(self) -> Tensor:
        return self._get("prompt_tokens")

    @property
    def language(self) -> Trace:
        if self._language is None:
            raise AsapEvalError("trace.language is empty: no language model has run.")
        return self._language
