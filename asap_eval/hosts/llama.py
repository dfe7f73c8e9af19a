"""Llama inside a LLaVA model: methods that remove image tokens while the prompt is read.

Layers are overridden on their instances. Behind a reduction every layer gets positions, mask and
rotary embeddings of the tokens that are left, so that caches differ in length from layer to layer,
in decoding too. Prompts stand behind their padding here; a method sees padding at the end.
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
from asap_eval.hosts.overriding import Function, override
from asap_eval.hosts.probe import Reader
from asap_eval.hosts.prompts import Prompts
from asap_eval.hosts.replacing import replaced
from asap_eval.method import Batch, Need, Prompt, Reducer, View
from asap_eval.tokens import DROPPED, Reduction, Tokens
from asap_eval.trace import PassTrace, Trace

READABLE = frozenset({Need.FEATURES, Need.ROWS, Need.LOGITS})
"""What a method can read in the language model."""


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


class Reading:
    """The tokens of a batch of prompts on their way through the layers, and what caches hold.

    Attributes:
        valid: ``[S, N]`` bool. position: ``[S, N]`` position ids. image: ``[S, N]`` bool, tokens
            that hold image tokens. source: ``[S, P]`` slot of each image token, padding left out.
        rotary, mask: of the tokens now; ``None`` = the model's own still hold.
        cached: by layer behind a reduction, or whose method keeps something else in the cache, the
            valid tokens its cache got from the prompt.
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
        self.changed = False
        self.cached: dict[int, Tensor] = {}
        self.state: Any = None

    @property
    def lengths(self) -> Tensor:
        return self.valid.sum(1)

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

    def next_token(self, layer: int, cached: int, count: int) -> tuple[Tensor | None, Tensor]:
        """Mask ``[S, 1, count, keys]`` and renumbered positions ``[S, count]`` of new tokens.

        Args:
            cached: tokens in the layer's cache. count: new tokens; they come one by one.
        """
        valid = self.cached[layer]
        new = torch.ones(len(valid), cached + count - valid.shape[1], dtype=torch.bool)
        keys = torch.cat([valid, new.to(valid.device)], 1)
        first = keys[:, : keys.shape[1] - count].sum(1)
        position = first[:, None] + torch.arange(count, device=keys.device)
        return (None if bool(keys.all()) else keys[:, None, None]), position


class _Here(threading.local):
    """What one thread reads."""

    reading: Reading | None = None


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
        unreadable = reducer.needs - READABLE
        if unreadable or reducer.site not in ("before", "after"):
            listed = ", ".join(sorted(need.value for need in unreadable)) or reducer.site
            raise UnsupportedModelError(
                f"Method '{reducer.name}' declares {listed}; in the language model a method acts "
                f"before or after a layer and reads {', '.join(n.value for n in READABLE)}."
            )

    def __enter__(self) -> None:
        with ExitStack() as stack:
            if self.reducer is not None:
                before = self.text.config._attn_implementation
                if before != "sdpa":  # caches of different lengths fail in eager attention
                    self.text.set_attn_implementation("sdpa")
                    stack.callback(self.text.set_attn_implementation, before)
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
            prompt=Prompt(prompts.lengths, prompts.start, prompts.count, right),
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
            if index == 0:
                reading.position = kwargs["position_ids"].expand(len(hidden_states), -1)
                batch = self._batch(hidden_states, reading)
                reducer.check(batch)
                reading.state = reducer.begin(batch)
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
        mask, position = reading.next_token(index, cached, x.shape[1])
        kwargs["attention_mask"] = mask
        if reducer.positions == "renumbered":
            kwargs["position_ids"] = position
            kwargs["position_embeddings"] = self.text.rotary_emb(x, position_ids=position)

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
        block, counts = index + 1, reading.seen.values
        asked = reducer.watch(block, reading.state)
        everyone = range(len(x))
        watched = sorted(asked.tolist()) if isinstance(asked, Tensor) else list(everyone) * asked
        reads: dict[Need, Tensor] = {}
        if reducer.site == "before" and watched:
            x = self._reduce(block, x, watched, reads, reading, reducer)
        counts["attention_tokens"][index] = counts["mlp_tokens"][index] = reading.lengths
        if reading.changed:
            if reading.rotary is None:
                reading.rotary = self.text.rotary_emb(x, position_ids=reading.position)
            kwargs["position_embeddings"] = reading.rotary
            kwargs["position_ids"] = reading.position
            kwargs["attention_mask"] = reading.mask
            reading.cached[index] = reading.valid
        with ExitStack() as stack:
            if reducer.attends(block, reading.state):
                attention, cache = self.text.layers[index].self_attn, _cache(kwargs)
                stack.enter_context(replaced(index, attention, cache, reading, reducer))
            reader = None
            if watched and reducer.needs & {Need.ROWS, Need.LOGITS}:
                # The innermost: it sees the layer's own call, not those of what replaces it.
                reader = stack.enter_context(Reader())
            x = forward(x, **kwargs)
        if reader is not None:
            reads |= self._rows(block, reader, watched, reading, reducer)
        if index in reading.cached:
            counts["cached_tokens"][index] = reading.cached[index].sum(1)
        if reducer.site == "after" and watched:
            x = self._reduce(block, x, watched, reads, reading, reducer)
        counts["lengths"][index] = reading.lengths
        reading.seen.done = block
        return x

    def _rows(
        self, block: int, reader: Reader, watched: list[int], reading: Reading, reducer: Reducer
    ) -> dict[Need, Tensor]:
        """``[b, H, R, N]`` attention or scores, as needed, of the queries the method names; padding
        at the end."""
        lengths = reading.lengths[watched]
        queries = reducer.rows(block, lengths, reading.state)
        q, k = (reading.right(t.transpose(1, 2))[watched] for t in reader.queries_and_keys(block))
        longest = int(lengths.max())
        q, k = q[:, :longest].float(), k[:, :longest].float()
        k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
        chosen = q[torch.arange(len(q), device=q.device)[:, None], queries.clamp(min=0)]
        logits = torch.einsum("brhd,bnhd->bhrn", chosen, k) * q.shape[-1] ** -0.5
        place = torch.arange(longest, device=q.device)
        later = place > queries[..., None]  # also padding: it stands behind every token
        none = (queries < 0)[:, None, :, None]
        found = {}
        if Need.LOGITS in reducer.needs:
            padding = (place >= lengths[:, None])[:, None, None]
            found[Need.LOGITS] = logits.masked_fill(none | padding, 0)
        if Need.ROWS in reducer.needs:
            rows = logits.masked_fill(later[:, None] & ~none, -torch.inf).softmax(-1)
            found[Need.ROWS] = rows.masked_fill(none, 0)
        return found

    def _reduce(
        self,
        block: int,
        x: Tensor,
        watched: list[int],
        reads: dict[Need, Tensor],
        reading: Reading,
        reducer: Reducer,
    ) -> Tensor:
        seen = reading.seen
        samples = torch.tensor(watched, device=x.device)
        longest = int(reading.lengths[samples].max())
        size = reading.right(reading.valid.float())
        if Need.FEATURES in reducer.needs:
            reads[Need.FEATURES] = reading.right(x)[samples, :longest]
        image = reading.right(reading.image.long()).bool()[samples, :longest]
        view = View(
            block, samples, size[samples, :longest], 0, self.trace.language.note, reads, image
        )
        seen.method_macs[samples] += reducer.macs(view, reading.state)
        decided = reducer.decide(view, reading.state)
        if decided is None:
            return x
        whole = decided.within(samples, size)
        moved = whole.moved(size)
        acted = moved[samples] if decided.acted is None else decided.acted
        fired = samples[acted]
        seen.fired[fired] = torch.where(seen.fired[fired] == 0, block, seen.fired[fired])
        if whole.weight is None and not bool(moved.any()):
            return x
        out = reading.apply(x, whole, reducer.positions)
        seen.values["source"] = reading.source
        return out
