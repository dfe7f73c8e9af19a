"""Llama inside a LLaVA model: methods that remove image tokens while the prompt is read.

Layers are overridden on their instances. Behind a reduction every layer gets positions, mask and
rotary embeddings of the tokens that are left, so that caches differ in length from layer to layer,
in decoding too. The model pads prompts at the front; a method sees padding at the end.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asap_eval.errors import BadValueError, UnsupportedModelError
from asap_eval.hosts.geometry import BlockGeometry, linear_macs
from asap_eval.hosts.hf_clip import fused
from asap_eval.hosts.image_tokens import Packed, prompt_of
from asap_eval.hosts.language_reads import BEFORE, READABLE, FromLayer, ahead
from asap_eval.hosts.moving import brought
from asap_eval.hosts.overriding import Function, override
from asap_eval.hosts.prompts import Prompts
from asap_eval.hosts.reading import Reading, rotary_at
from asap_eval.hosts.replacing import fed, replaced
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.trace import Trace


def _cache(kwargs: dict[str, Any]) -> Any:
    """The cache a layer is given, or ``None``; releases of transformers 5 differ in its name."""
    return kwargs["cache"] if "cache" in kwargs else kwargs.get("past_key_values")


def language_blocks(text: Any) -> Sequence[BlockGeometry]:
    """MACs of each layer."""
    config = text.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [
        BlockGeometry(
            attention_token=linear_macs(layer.self_attn),
            attention_pair=2 * heads * width,
            mlp_token=linear_macs(layer.mlp),
        )
        for layer in text.layers
    ]


class _Here(threading.local):
    """What one thread reads."""

    reading: Reading | None = None
    packed: list[Packed] | None = None


class LanguageSeam(AbstractContextManager[None]):
    """Installs a method on a language model's layers; without one only the trace is kept."""

    def __init__(self, text: Any, reducer: Reducer | None, trace: Trace, seed: int) -> None:
        self.text, self.reducer, self.trace, self.seed = text, reducer, trace, seed
        self._here = _Here()
        self._stack = ExitStack()
        if reducer is not None:
            self._check(reducer)

    def _check(self, reducer: Reducer) -> None:
        for number, layer in enumerate(self.text.layers, 1):
            if type(layer).__name__ != "LlamaDecoderLayer":
                raise UnsupportedModelError(
                    f"Layer {number} of the language model is a {type(layer).__name__}; methods "
                    "that act there run in Llama's."
                )
        readable = BEFORE if reducer.site == "before" else READABLE
        unreadable = reducer.needs - readable - {Need.CLS_ROW}  # of the tower, in `Prompt`
        if unreadable or reducer.site not in ("before", "after"):
            listed = ", ".join(sorted(need.value for need in unreadable)) or reducer.site
            raise UnsupportedModelError(
                f"Method '{reducer.name}' declares {listed}; in the language model a method acts "
                "before a layer, where it reads "
                f"{', '.join(sorted(n.value for n in BEFORE))}, or after one, where it reads "
                f"{', '.join(sorted(n.value for n in READABLE - BEFORE))} too."
            )

    def __enter__(self) -> None:
        with ExitStack() as stack:
            if self.reducer is not None:
                # Caches of different lengths fail in eager attention.
                stack.enter_context(fused(self.text))
                for index, layer in enumerate(self.text.layers):
                    make = partial(self._layer, index, self.reducer)
                    stack.enter_context(override(layer, "forward", make))
            self._stack = stack.pop_all()

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._here = _Here()

    @property
    def reading(self) -> Reading | None:
        """The prompts that this thread reads or has read; ``None`` = they had no images."""
        return self._here.reading

    def check_generate(self, kwargs: dict[str, Any]) -> None:
        """Refuse what a method in the language model cannot decode faithfully."""
        if self.reducer is None:
            return
        single = kwargs.get("num_beams", 1) == 1 and kwargs.get("num_return_sequences", 1) == 1
        if not single or kwargs.get("use_cache") is False:
            raise BadValueError(
                f"Method '{self.reducer.name}' acts in the language model: generate with the cache "
                "and one sequence a prompt (no beams)."
            )

    def expect(self, packed: list[Packed]) -> None:
        """Which patches the image tokens of this thread's next prompts are."""
        self._here.packed = packed

    def begin(self, prompts: Prompts) -> None:
        """Prompts are about to be read."""
        layers = len(self.text.layers)
        reading = Reading(prompts, layers)
        reading.seen = self.trace.begin_language(layers, reading.source, prompts.lengths)
        if self.reducer is not None:
            reading.seen.done = 0  # known layer by layer, see `_read`
        self._here.reading = reading

    def forget(self, kwargs: dict[str, Any]) -> None:
        """A prompt without images follows, unless these keywords continue what a cache holds."""
        cache = _cache(kwargs)
        if cache is None or cache.get_seq_length() == 0:
            self._here.reading = None

    def _batch(self, x: Tensor, reading: Reading) -> Batch:
        prompts, right = reading.prompts, reading.right(x)
        packed, self._here.packed = self._here.packed, None
        assert packed is not None  # said by the host of the tower, before the prompts begin
        embeds = [right[s, : int(n)] for s, n in enumerate(prompts.lengths)]

        def id_of(sample: int) -> str:
            values = embeds[sample].float().cpu().numpy().tobytes()
            return hashlib.blake2b(values, digest_size=16).hexdigest()

        return Batch(
            count=len(x),
            tokens=int(prompts.lengths.max()),
            prefix=0,
            depth=reading.layers,
            has_cls=False,
            grid=(0, 0),
            seed=self.seed,
            device=x.device,
            id_of=id_of,
            prompt=prompt_of(prompts, right, packed),
        )

    def _layer(self, index: int, reducer: Reducer, forward: Function) -> Function:
        def run(hidden_states: Tensor, **kwargs: Any) -> Tensor:
            reading, cache = self.reading, _cache(kwargs)
            if reading is None:  # no image: a plain prompt
                return forward(hidden_states, **kwargs)
            cached = 0 if cache is None else cache.get_seq_length(index)
            if cached:
                self._decoding(index, hidden_states, cached, kwargs, reading, reducer)
                return forward(hidden_states, **kwargs)
            reading.follow(hidden_states.device)
            if index == 0:
                reading.position = kwargs["position_ids"].expand(len(hidden_states), -1)
                batch = self._batch(hidden_states, reading)
                reducer.check(batch)
                reading.state = reducer.begin(batch)
                if reducer.admits():
                    hidden_states = self._admit(hidden_states, reading, reducer)
            return self._read(index, hidden_states, forward, kwargs, reading, reducer)

        return run

    def _decoding(
        self,
        index: int,
        x: Tensor,
        cached: int,
        kwargs: dict[str, Any],
        reading: Reading,
        reducer: Reducer,
    ) -> None:
        """What a layer whose cache is shorter than the prompt gets instead of the model's mask."""
        if index not in reading.cached:
            return
        mask, position = reading.next_token(index, cached, x.shape[1], reducer.positions)
        kwargs["attention_mask"] = mask
        if position is not None:
            kwargs["position_ids"] = position
            kwargs["position_embeddings"] = rotary_at(self.text, x, position)

    def _read(
        self,
        index: int,
        x: Tensor,
        forward: Function,
        kwargs: dict[str, Any],
        reading: Reading,
        reducer: Reducer,
    ) -> Tensor:
        """One layer over the prompts, with whatever the method does there."""
        block, counts, layer = index + 1, reading.seen.values, self.text.layers[index]
        asked = reducer.watch(block, reading.state)
        everyone = range(len(x))
        watched = sorted(asked.tolist()) if isinstance(asked, Tensor) else list(everyone) * asked
        if reducer.site == "before" and watched:
            rotary = reading.rotary_of(self.text, x) or kwargs["position_embeddings"]
            reads, macs = ahead(layer, block, x, rotary, watched, reading, reducer)
            reading.seen.method_macs[watched] += macs.to(reading.seen.fired.device)
            x = self._reduce(block, x, watched, reads, reading, reducer)
        counts["attention_tokens"][index] = counts["mlp_tokens"][index] = reading.lengths
        if reading.changed:
            kwargs["position_embeddings"] = reading.rotary_of(self.text, x)
            kwargs["position_ids"] = reading.position
            kwargs["attention_mask"] = reading.mask
            reading.cached[index] = reading.valid
        with ExitStack() as stack:
            if reducer.feeds(block, reading.state):
                counts["mlp_tokens"][index] = reading.lengths - reading.image.sum(1)
                stack.enter_context(fed(block, layer.mlp, reading, reducer))
            if reducer.attends(block, reading.state):
                cache = _cache(kwargs)
                stack.enter_context(replaced(index, layer.self_attn, cache, reading, reducer))
            taken = None
            if watched and reducer.site == "after":
                # The innermost: it sees the layer's own calls, not those of what replaces them.
                taken = stack.enter_context(FromLayer(layer, block, x, watched, reading, reducer))
            x = forward(x, **kwargs)
        if index in reading.cached:
            counts["cached_tokens"][index] = reading.cached[index].sum(1)
        if taken is not None:
            x = self._reduce(block, x, watched, taken.reads(), reading, reducer)
        counts["lengths"][index] = reading.lengths
        reading.seen.done = block
        return x

    def _admit(self, x: Tensor, reading: Reading, reducer: Reducer) -> Tensor:
        """What enters the first layer."""
        watched = list(range(len(x)))
        x = self._reduce(0, x, watched, {}, reading, reducer)
        reading.admitted = reading.changed
        return x

    def _reduce(
        self,
        block: int,
        x: Tensor,
        watched: list[int],
        reads: dict[Need, Tensor],
        reading: Reading,
        reducer: Reducer,
    ) -> Tensor:
        """Ask the method where tokens go, and send them there; block 0 = what is admitted."""
        seen = reading.seen
        samples = torch.tensor(watched, device=x.device)
        longest = int(reading.lengths[samples].max())
        size = reading.right(reading.valid.float())
        if reducer.needs & {Need.FEATURES, Need.NORMED}:
            features = reading.right(x)[samples, :longest]
            for need in reducer.needs & {Need.FEATURES, Need.NORMED}:
                reads[need] = features
                if need is Need.NORMED:
                    reads[need] = self.text.norm(features).to(x.device)
        image = reading.right(reading.image.long()).bool()[samples, :longest]
        view = View(
            block, samples, size[samples, :longest], 0, self.trace.language.note, reads, image
        )
        at = samples.to(seen.fired.device)  # the trace stays where the prompts came in
        seen.method_macs[at] += brought(reducer.macs(view, reading.state), at.device)
        decide = reducer.decide if block else reducer.admit
        decided = decide(view, reading.state)
        if decided is None:
            return x
        whole = decided.within(samples, size)
        moved = whole.moved(size)
        acted = moved[samples] if decided.acted is None else decided.acted
        fired = at[acted.to(at.device)]
        first = max(block, 1)
        seen.fired[fired] = torch.where(seen.fired[fired] == 0, first, seen.fired[fired])
        if whole.copies and not bool(moved.any()):
            return x
        out = reading.apply(x, whole, reducer.positions if block else "renumbered")
        seen.values["source"] = reading.source.to(at.device)
        return out
