"""What happened to the tokens of the latest forward pass, and the work it cost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.token_map import TokenMap
from asap_eval.transfer import Arriving, to_device

COUNTS = ("lengths", "attention_tokens", "mlp_tokens")
"""Token counts of every block, ``[L, B]``."""


@dataclass
class PassTrace:
    """What one forward pass leaves behind; the host fills it.

    Attributes:
        blocks: L that the pass is to run. done: blocks that ran.
        values: by name, as in `Trace`. notes: as in `Trace`.
        counts: by name of `COUNTS`, the B numbers of each block that ran.
        maps: tokens and patches after each block that ran.
        language: the trace of the language model behind the tower.
    """

    blocks: int
    values: dict[str, Tensor]
    done: int = 0
    notes: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, list[tuple[int, ...]]] = field(
        default_factory=lambda: {name: [] for name in COUNTS}
    )
    maps: list[TokenMap] = field(default_factory=list)
    language: Trace | None = None

    @property
    def fired(self) -> Tensor:
        return self.values["fired"]

    @property
    def method_macs(self) -> Tensor:
        return self.values["method_macs"]

    @property
    def source(self) -> Tensor:
        return self.values["source"]

    def stop(self) -> None:
        """No more blocks were wanted of this pass."""
        self.blocks = self.done

    def unreduced(self, tokens: Tensor) -> None:
        """Every block ran on so many tokens, ``[B]``."""
        counts = tokens.expand(self.blocks, -1)
        self.values |= {name: counts.clone() for name in COUNTS}
        self.done = self.blocks

    def check_ended(self, name: str) -> None:
        """Raise `AsapEvalError` where blocks were still to run; ``name`` is what was asked for."""
        if self.done < self.blocks:
            raise AsapEvalError(
                f"The latest forward pass ended after block {self.done} of {self.blocks}, so "
                f"trace.{name} is not known: run the model to its end (an error, a hook or a loop "
                "over some of the blocks stopped it)."
            )

    def read(self, name: str) -> Tensor:
        """A value that the pass has left."""
        self.check_ended(name)
        if name in COUNTS and name not in self.values:
            self.values[name] = to_device(self.counts[name], self.source.device)
        return self.values[name]


class Trace:
    """Filled by the host while the model runs; every forward pass starts it afresh.

    Each thread reads the trace of its own latest pass. A thread that ran none reads that of the
    only one that did.

    Attributes:
        patches: ``[B]`` patches that the stem made of each image: fewer than the model was built
            for where the image was resized at the input.
        lengths: ``[L, B]`` tokens of each image after each block, prefix included, padding not. L
            is the number of blocks that were to run: fewer with timm's ``stop_early``.
        attention_tokens: ``[L, B]`` tokens that entered the attention of each block.
        mlp_tokens: ``[L, B]`` tokens that entered the MLP of each block.
        method_macs: ``[B]`` fp64, the method's own products for each image.
        fired: ``[B]`` first block (from 1) that reduced the image, 0 = never. An image resized at
            the input has fired at 1, the first block that ran on fewer tokens.
        source: ``[B, P]`` slot of each original patch in its image's sequence, -1 = dropped.
        notes: what a method wants to show of each image, by name: a number (``sink``: ``[B]``), or
            one of each original patch (``distance``: ``[B, P]``).
        tallies: names of those that the method counts with (`Reducer.tallies`).

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

    def __init__(self, tallies: Collection[str] = ()) -> None:
        self.tallies = tallies
        self._own = threading.local()  # .latest: the thread's PassTrace
        self._latest: PassTrace | None = None
        self._threads = 0
        self._ids: dict[int, tuple[str, ...]] = {}
        self._questions: dict[int, tuple[str, ...]] = {}
        self._maps: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    # --- features -------------------------------------------------------------------------------

    def mask(self, block: int | None = None) -> Tensor:
        """``[B, N]`` bool: which of the padded tokens ``[B, N, D]`` after a block are tokens.

        Args:
            block: from 1; ``None`` = the last. Inside a hook, any block that has run.
        """
        return self._map(block, "mask").mask

    def unmerge(self, tokens: Tensor, block: int | None = None, fill: float = 0.0) -> Tensor:
        """Features of every patch, in the image's own grid, from those of the tokens that are left.

        Merged and pooled patches repeat their token. In an image that was resized at the input each
        patch reads the token that covers its centre.

        Args:
            tokens: ``[B, N, D]`` as any block or the model's features give them, with the prefix
                tokens in front or without, padding at the end.
            block: after which block they stand, from 1. ``None`` = what the tensor itself is known
                to be (a block's output or the model's features), otherwise the last block. Of an
                earlier block's tokens that you changed, say it.
            fill: what dropped patches read.

        Returns:
            ``[B, gh, gw, D]``; gradients flow through it.

        Raises:
            BadValueError: the tensor does not have the images and tokens of that block.
        """
        known = self.known(tokens)
        if known is not None and block not in (None, known.block):
            raise BadValueError(
                f"These are the tokens after block {known.block}, not after block {block}."
            )
        return (known or self._map(block, "unmerge")).unmerge(tokens, fill)

    def _map(self, block: int | None, name: str) -> TokenMap:
        seen = self._current(name)
        if not seen.maps:
            raise BadValueError(f"trace.{name} needs images; a language model has no grid.")
        if block is None:
            seen.check_ended(name)
            return seen.maps[-1]
        if not 1 <= block <= len(seen.maps):
            raise BadValueError(
                f"block={block}: blocks 1 to {len(seen.maps)} have run in the latest forward pass."
            )
        return seen.maps[block - 1]

    def know(self, tokens: Tensor, of: TokenMap) -> None:
        """Remember what the tokens of a tensor are, for as long as it lives (host only)."""
        self._maps[tokens] = of

    def known(self, tokens: Tensor) -> TokenMap | None:
        """What a host said of this very tensor (host only)."""
        found: TokenMap | None = self._maps.get(tokens)  # type: ignore[no-untyped-call]
        return found

    @property
    def maps(self) -> list[TokenMap]:
        """Tokens and patches after each block of this thread's pass that has run (host only)."""
        return self._current("maps").maps

    def stop(self) -> None:
        """No more blocks are wanted of this thread's pass (host only)."""
        self._current("lengths").stop()

    # --- a pass ---------------------------------------------------------------------------------

    def name_images(self, ids: Sequence[str]) -> None:
        """Give the ids of the images of this thread's next forward pass; seeds of random choices
        derive from them.

        Without names, an image's seed derives from its pixel values.
        """
        self._ids[threading.get_ident()] = tuple(ids)

    def take_ids(self, batch: int) -> tuple[str, ...] | None:
        """The names given for this pass, used once (host only)."""
        ids = self._ids.pop(threading.get_ident(), None)
        if ids is None and self._ids:
            raise AsapEvalError(
                "The images were named in another thread: call trace.name_images(ids) in the "
                "thread that runs the model."
            )
        if ids is not None and len(ids) != batch:
            raise AsapEvalError(f"{len(ids)} image ids were given for a batch of {batch} images.")
        return ids

    def name_questions(self, questions: Sequence[str]) -> None:
        """Say what the samples of this thread's next pass are asked, for methods that read it."""
        self._questions[threading.get_ident()] = tuple(questions)

    def take_questions(self, samples: int) -> tuple[str, ...] | None:
        """The questions of this pass, used once (host only)."""
        questions = self._questions.pop(threading.get_ident(), None)
        if questions is not None and len(questions) != samples:
            raise AsapEvalError(f"{len(questions)} questions were named for {samples} samples.")
        return questions

    def start(self, blocks: int, source: Tensor, patches: int | None = None) -> PassTrace:
        """Begin a forward pass of ``B`` images in this thread (host only).

        Args:
            blocks: L. source: ``[B, P]`` slots of the original patches.
            patches: of each image as the stem saw it; ``None`` = the original ones.
        """
        batch, device = source.shape[0], source.device
        made = source.shape[1] if patches is None else patches
        seen = PassTrace(
            blocks,
            {
                "patches": torch.full((batch,), made, dtype=torch.long, device=device),
                "method_macs": torch.zeros(batch, dtype=torch.float64, device=device),
                "fired": torch.zeros(batch, dtype=torch.long, device=device),
                "source": source,
            },
        )
        if not hasattr(self._own, "latest"):
            self._threads += 1
        self._own.latest = self._latest = seen
        return seen

    def hand_over(self, sample: Tensor, projected: Tensor, handed: Tensor) -> None:
        """Whose crops these were and what went through the projector, both ``[B]``, and what each
        sample hands on, ``[S]`` (host only)."""
        seen = self._current("lengths")
        seen.values |= {"sample": sample, "projected": projected, "handed_to_llm": handed}
        seen.language = Trace()

    def begin_language(self, layers: int, source: Tensor, prompt_tokens: Tensor) -> PassTrace:
        """Prompts of so many tokens ``[S]`` are about to be read (host only); ``source`` as in
        `start`. Until a method shortens them every layer sees them whole."""
        self._current("lengths").values["prompt_tokens"] = prompt_tokens
        seen = self.language.start(layers, source)
        seen.unreduced(prompt_tokens)
        seen.values["cached_tokens"] = seen.values["lengths"].clone()
        return seen

    def note(self, name: str, images: Tensor, values: Tensor) -> None:
        """Keep a number of each image, ``values [b]``, or of each of its patches, ``[b, P]``.

        ``images`` is ``[b]``; absent ones read -1.
        """
        seen = self._current("notes")
        if name not in seen.notes:
            kind = values.dtype if values.is_floating_point() else seen.fired.dtype
            shape = (len(seen.fired), *values.shape[1:])
            seen.notes[name] = torch.full(shape, -1, dtype=kind, device=seen.fired.device)
        kept = seen.notes[name]
        kept[images.to(kept.device)] = values.detach().to(kept)

    # --- what it left ---------------------------------------------------------------------------

    def arriving(self) -> Callable[[], Trace]:
        """Send what this thread's latest pass left to the CPU; later passes do not change it.

        Returns:
            Waits until all of it is there; gives a trace of that pass alone.
        """
        seen = self._current("lengths")
        values, notes = (
            {name: Arriving(value) for name, value in found.items()}
            for found in (seen.values, seen.notes)
        )

        def arrived() -> Trace:
            trace = Trace(self.tallies)
            trace._maps = self._maps
            trace._latest = replace(
                seen,
                values={name: value.tensor() for name, value in values.items()},
                notes={name: value.tensor() for name, value in notes.items()},
            )
            return trace

        return arrived

    def _current(self, name: str) -> PassTrace:
        latest: PassTrace | None = getattr(self._own, "latest", None)
        if latest is None and self._threads > 1:
            raise AsapEvalError(
                f"The model ran in {self._threads} threads: read trace.{name} in one of them."
            )
        latest = latest or self._latest
        if latest is None:
            raise AsapEvalError(f"trace.{name} is empty: run the model inside the `with` first.")
        return latest

    def _get(self, name: str) -> Tensor:
        seen = self._current(name)
        if name not in COUNTS and name not in seen.values:
            raise AsapEvalError(f"trace.{name} is empty: run the model inside the `with` first.")
        return seen.read(name)

    @property
    def notes(self) -> dict[str, Tensor]:
        seen = self._current("notes")
        seen.check_ended("notes")
        return seen.notes

    @property
    def counted(self) -> dict[str, Tensor]:
        """By name of `tallies` what was counted of each image, ``[B]``; in a vision-language model
        of each sample, ``[S]``, its crops and prompt together. What was not noted counts 0."""
        return {name: self._counted(name) for name in self.tallies}

    def _counted(self, name: str) -> Tensor:
        seen, own = self._current("notes"), self.notes.get(name)
        none = torch.zeros_like(seen.fired)
        each = none if own is None else own.clamp(min=0).long()
        if seen.language is None:
            return each
        found = torch.zeros_like(self.handed_to_llm).index_add(0, self.sample, each)
        prompt = seen.language.notes.get(name)
        return found if prompt is None else found + prompt.clamp(min=0).long().to(found.device)

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
        seen = self._current("language")
        if seen.language is None:
            raise AsapEvalError("trace.language is empty: no language model has run.")
        return seen.language
