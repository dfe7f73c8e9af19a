"""The contract between a method file and the hosts, and the registry of methods.

A method is a dataclass of options that decides, at the blocks it watches, where tokens go. It
declares what it must read from the model (`needs`); the host computes that and nothing else, and
reading more is an error. State of one forward pass lives in the object that `begin` returns, never
on the method: two installs of one method, or two batches, cannot see each other.

Letters: B images of the batch, b images watched, N tokens, P patches, H heads, d head width,
D width. Blocks count from 1.

At the site ``inside`` a method reads HEAD_ATTENTION and FEATURES, the block's input; all images are
watched and have one length. Its block then counts as one on the fused tokens: `Reducer.macs` counts
the queries, keys and products of the tokens that were fused away.

Two places of a vision-language model have a form of their own. What a tower hands on is reduced at
the site ``output``: the method reads the last block that is used (keys, attention rows, output) and
its `Reduction` is of that block's output, class token at 0; `hands_cls` keeps the class token and
`pack` orders the tokens of several crops. A method with ``tower = "language"`` acts in the language
model while it reads the prompt: images are then samples, ``batch.prompt`` says where their image
tokens are, ``view.image`` which tokens still hold some, and `positions` what becomes of their
position ids. docs/contract.md says on one page what can be read and done where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from asap_eval.errors import AsapEvalError, BadValueError, unknown
from asap_eval.options import checked, options
from asap_eval.packing import Crops
from asap_eval.registry import METHODS
from asap_eval.tokens import Reduction

Site = Literal["input", "before", "inside", "between", "after", "output"]
"""Where a method acts: on the images before the model sees them (`Reducer.grid`); at the blocks it
watches, before a block, inside its attention (between softmax and V), between its attention and its
MLP, or after it; or on what the tower hands
on, the output of the last block that is used. There every image is watched once and `Reducer.watch`
is not asked."""

Tower = Literal["vision", "language"]

Positions = Literal["kept", "renumbered"]
"""Position ids in a language model after a reduction: a token keeps its own (a slot of several: its
first token's), or each block counts its tokens from 0 again, in decoding too."""


class Need(str, Enum):
    """What a method may read at a block it watches."""

    FEATURES = "features"
    """``[b, N, D]`` the tokens at the site."""
    KEYS = "keys"
    """``[b, H, N, d]`` keys of the block's attention."""
    VALUES = "values"
    """``[b, H, N, d]`` values of the block's attention."""
    CLS_ROW = "cls_row"
    """``[b, H, N]`` attention of the class token's query."""
    ATTENTION = "attention"
    """``[b, N, N]`` fp32 attention, mean over the heads; queries in rows."""
    HEAD_ATTENTION = "head_attention"
    """``[b, H, N, N]`` fp32 attention of every head."""
    ROWS = "rows"
    """``[b, H, R, N]`` fp32 attention of the queries that `Reducer.rows` names."""
    HEAD_NORMS = "head_norms"
    """``[b, H, N]`` fp32 norm of each head's output at every token, before the projection."""
    LOGITS = "logits"
    """``[b, H, R, N]`` fp32 scores of those queries before softmax, of later tokens too; padding
    and the rows of no query are 0."""
    INPUT = "input"
    """``[b, N, D]`` what enters the block. Language model, after a block."""
    MLP_INPUT = "mlp_input"
    """``[b, N, D]`` what the block's MLP gets: the output of the norm between attention and MLP.
    Language model, after a block."""
    NORMED = "normed"
    """``[b, N, D]`` the tokens at the site through the model's last norm. Language model."""
    OUT_PROJECTION = "out_projection"
    """``[D, H d]`` weight of the linear layer behind the block's heads. Language model."""
    NEXT_QUERIES = "next_queries"
    NEXT_KEYS = "next_keys"
    """``[b, H, N, d]`` what the block after the last used one would make of the tokens, biases
    included, queries unscaled. Site ``output`` of a vision-language model."""
    PROJECTED = "projected"
    """``[b, P, D']`` all patches through the projector. Site ``output`` of a vision-language model;
    the method then acts behind the projector: its `Reduction` is of these tokens."""


@dataclass(frozen=True)
class Prompt:
    """What a method in the language model knows of the prompts of a batch.

    Attributes:
        lengths: ``[B]`` tokens of each prompt, image tokens included.
        start: ``[B]`` position of the first image token. count: ``[B]`` image tokens, one span.
        embeds: ``[B, N, D]`` input of the first block, zeros as padding at the end.
        crop: ``[B, N]`` crop of the patch that each image token is, 0 = the base crop; -1 = none:
            text, newlines and padding.
        place: ``[B, N, 2]`` row and column of that patch, in the base crop or in the stitched grid
            of the tiles, the padding around which does not count; a newline stands behind the last
            column of its row. 0 for text and padding.
        cls_row: ``[B, H, N]`` attention that the tower's class token pays to that patch in the last
            used block, 0 where there is none; where the method declares `Need.CLS_ROW`.
    """

    lengths: Tensor
    start: Tensor
    count: Tensor
    embeds: Tensor
    crop: Tensor
    place: Tensor
    cls_row: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What is known of a batch before the first block.

    Attributes:
        count: B. tokens: N of every image. prefix: class, distillation and register tokens.
        depth: L. has_cls: whether token 0 is a class token. grid: patches down and across.
        seed: the run's seed. id_of: the id of an image by its position in the batch.
        dtype: of the model's tokens. width: D of a vision tower.
        prompt: in a language model, where B counts samples, N is the longest prompt, the prefix 0
            and the grid (0, 0); ``None`` in a vision tower.
        sample: ``[B]`` on the CPU, the sample whose crop each image of a vision-language model's
            tower is; crops of one sample are neighbours, the base crop first. ``None`` = there are
            no samples, every image is its own.
        questions: what the samples are asked, as `Trace.name_questions` was told; see `question`.
    """

    count: int
    tokens: int
    prefix: int
    depth: int
    has_cls: bool
    grid: tuple[int, int]
    seed: int
    device: torch.device
    id_of: Callable[[int], str]
    prompt: Prompt | None = None
    dtype: torch.dtype = torch.float32
    width: int = 0
    sample: Tensor | None = None
    questions: tuple[str, ...] | None = None

    @property
    def patches(self) -> int:
        return self.tokens - self.prefix

    def question(self, sample: int) -> str:
        """What a sample is asked.

        Raises:
            BadValueError: nobody said it.
        """
        if self.questions is None:
            raise BadValueError(
                "The method reads the questions, and this pass has none: call "
                "trace.name_questions(texts) before the model, one text a sample."
            )
        return self.questions[sample]

    def generator(self, image: int, salt: str = "") -> torch.Generator:
        """A CPU generator that depends on the seed and the image's id alone, not on the batch."""
        text = f"{self.seed}|{salt}|{self.id_of(image)}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass
class View:
    """What a method sees at one block: the images it watches and the needs it declared.

    Attributes:
        block: from 1. images: ``[b]`` positions in the batch. size: ``[b, N]``, 0 = padding.
        prefix: number of prefix tokens.
        note: ``note(name, images [b], values [b] or [b, P])`` keeps them in the trace.
        image: ``[b, N]`` bool, tokens that hold image tokens; all patches in a vision tower.
    """

    block: int
    images: Tensor
    size: Tensor
    prefix: int
    note: Callable[[str, Tensor, Tensor], None]
    _reads: dict[Need, Tensor] = field(repr=False)
    _image: Tensor | None = field(default=None, repr=False)

    @property
    def image(self) -> Tensor:
        if self._image is not None:
            return self._image
        place = torch.arange(self.size.shape[1], device=self.size.device)
        return (self.size > 0) & (place >= self.prefix)

    def read(self, need: Need) -> Tensor:
        if need not in self._reads:
            declared = ", ".join(sorted(n.value for n in self._reads)) or "nothing"
            raise AsapEvalError(
                f"The method reads '{need.value}' but declares needs: {declared}. "
                f"Add Need.{need.name} to its `needs`."
            )
        return self._reads[need]

    @property
    def lengths(self) -> Tensor:
        """``[b]`` valid tokens of each image."""
        return (self.size > 0).sum(1)

    @property
    def features(self) -> Tensor:
        return self.read(Need.FEATURES)

    @property
    def keys(self) -> Tensor:
        return self.read(Need.KEYS)

    @property
    def values(self) -> Tensor:
        return self.read(Need.VALUES)

    @property
    def cls_row(self) -> Tensor:
        return self.read(Need.CLS_ROW)

    @property
    def attention(self) -> Tensor:
        return self.read(Need.ATTENTION)

    @property
    def head_attention(self) -> Tensor:
        return self.read(Need.HEAD_ATTENTION)

    @property
    def head_norms(self) -> Tensor:
        return self.read(Need.HEAD_NORMS)

    @property
    def rows(self) -> Tensor:
        return self.read(Need.ROWS)

    @property
    def logits(self) -> Tensor:
        return self.read(Need.LOGITS)

    @property
    def input(self) -> Tensor:
        return self.read(Need.INPUT)

    @property
    def mlp_input(self) -> Tensor:
        return self.read(Need.MLP_INPUT)

    @property
    def normed(self) -> Tensor:
        return self.read(Need.NORMED)

    @property
    def out_projection(self) -> Tensor:
        return self.read(Need.OUT_PROJECTION)

    @property
    def next_queries(self) -> Tensor:
        return self.read(Need.NEXT_QUERIES)

    @property
    def next_keys(self) -> Tensor:
        return self.read(Need.NEXT_KEYS)

    @property
    def projected(self) -> Tensor:
        return self.read(Need.PROJECTED)


@dataclass(frozen=True)
class Card:
    """What a person should know of a method before trusting a row of it.

    Attributes:
        paper: title and identifier. licence: of the authors' code ("none public" where none is).
        training: "training-free" or what has to be trained. knob: name of the option that ``k``
            sets. knob_meaning: its meaning and range. fixed_count: whether every image keeps the
            same number of tokens. deviations: every known difference from the authors' code.
        widens: another option, and values of it to try in turn where the knob does not reach a
            budget. ours: how ``option=value`` begins where it is no part of the published method;
            tables say so. counts_more: what `Reducer.macs` counts beside the products that the
            method's own functions run (a convention, work of the host for it). counts_less: what of
            them it leaves out (masked ones that a sparse kernel would not run). Empty = nothing.
    """

    paper: str
    licence: str
    training: str
    knob: str | None
    knob_meaning: str
    fixed_count: bool
    deviations: str = "none known"
    widens: tuple[str, tuple[Any, ...]] | None = None
    ours: tuple[str, ...] = ()
    counts_more: str = ""
    counts_less: str = ""


class Reducer:
    """Base of every method: a dataclass holds the options.

    Override `watch` and `decide`; a method whose site is the input overrides `grid` instead.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    site: ClassVar[Site] = "after"
    tower: ClassVar[Tower] = "vision"
    proportional: ClassVar[bool] = False
    """Whether attention adds ``log(size)`` of each key (proportional attention)."""
    idle: ClassVar[bool] = False
    """Whether the model's own code runs throughout, bit for bit, without any kernel of ours."""
    fuses: ClassVar[bool] = True
    """At the site ``inside``: whether the block's maps are fused as the tokens are (columns summed,
    rows averaged with the tokens' weights), or attention is computed anew from the fused tokens."""
    hands_cls: ClassVar[bool] = False
    """Whether a tower hands its class token to the language model, before the other tokens."""
    positions: ClassVar[Positions] = "kept"
    """Position ids after a reduction in the language model."""
    tallies: ClassVar[Mapping[str, str]] = {}
    """Notes (`View.note`) that count something of an image, and what, in words behind a number:
    a record has their sums over the samples, and tables say below those that are not 0."""

    @property
    def needs(self) -> frozenset[Need]:
        """What `decide` reads; options may change it."""
        return frozenset()

    @classmethod
    def admits(cls) -> bool:
        """Whether the method decides which tokens enter the language model (`admit`)."""
        return cls.admit is not Reducer.admit

    @property
    def requires_cls(self) -> bool:
        """Whether the model must have a class token at position 0."""
        return Need.CLS_ROW in self.needs

    def look(self) -> None:
        """Raise where a file that an option names is missing; asked before anything is loaded."""

    def check(self, batch: Batch) -> None:
        """Raise `BadValueError` where the options do not fit the model; called at every pass."""

    def grid(self, own: tuple[int, int]) -> tuple[int, int]:
        """Patches down and across that images are resized to, at most the model's ``own``.

        Asked where the site is the input, once per install and before `check`.
        """
        return own

    def begin(self, batch: Batch) -> Any:
        """Fresh state of one forward pass."""
        return None

    def watch(self, block: int, state: Any) -> bool | Tensor:
        """Images to look at in this block: all, none, or ``[b]`` positions in the batch, in the
        order in which the view then has them."""
        raise NotImplementedError

    def observe(self, view: View, state: Any) -> None:
        """At the site ``after`` of a vision tower: asked as soon as the block's attention has run,
        before its MLP; features cannot be read yet. What a method does here finds the maps in a
        CPU's cache, and runs on a GPU while the CPU goes on. At the site ``output``: asked in the
        blocks that `observes` names."""

    def observes(self, block: int, state: Any) -> bool:
        """At the site ``output``: whether `observe` looks at this block too, where what attention
        gives can be read."""
        return False

    def admit(self, view: View, state: Any) -> Reduction | None:
        """In a language model, at any site: which tokens enter the first block, ``None`` = all.

        Features can be read, if they are declared; ``view.block`` is 0, in `macs` too. Position ids
        then count from 0, as in a shorter prompt.
        """
        return None

    def decide(self, view: View, state: Any) -> Reduction | None:
        """Where the watched images' tokens go; ``None`` = nowhere yet."""
        raise NotImplementedError

    def rows(self, block: int, lengths: Tensor, state: Any) -> Tensor:
        """``[b, R]`` queries of `Need.ROWS` and `Need.LOGITS`: positions in the sequences of the
        watched images, whose valid lengths are ``[b]``; -1 = none, and that row reads 0."""
        raise NotImplementedError

    def pack(self, crops: Crops) -> Tensor | None:
        """Order in which a sample's tokens are handed to the language model, as `Crops` says;
        ``None`` = `packing.spatial`. Asked only where a sample has several crops."""
        return None

    def macs(self, view: View, state: Any) -> int | Tensor:
        """The method's own products at this block for each watched image (a number or ``[b]``)."""
        return 0

    def origin(self) -> dict[str, Any]:
        """What a record must say of files the method runs from (hash, training); {} = none."""
        return {}

    def runs(self, block: int, state: Any) -> Tensor | None:
        """Which tokens run this block of a vision tower: ``[B, K]`` their places, ascending, the
        prefix among them. The others skip it whole, attention and MLP, and come back behind it, at
        their places and unchanged; ``None`` = all run. Such a block cannot be watched."""
        return None

    def attends(self, block: int, state: Any) -> bool:
        """Whether the method replaces this block's attention product (`attend`)."""
        return False

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        """``[B, H, N, d]`` from q, k, v of that shape; ``bias`` is added to the logits.

        In a language model this is asked while the prompts are read. N is the longest prompt, with
        padding at the end, and ``bias [1, 1, N, N]`` masks later tokens, padding among them.
        """
        raise NotImplementedError

    def cached(self, block: int, state: Any) -> tuple[Tensor, Tensor, Tensor] | None:
        """In a language model: what the cache of a block whose attention was replaced keeps of the
        prompts. Decoding is exact attention over it and the new tokens.

        Returns:
            Keys and values ``[B, H, M, d]``, padding at the end, and how many of them are valid,
            ``[B]``; ``None`` = the prompts' own keys and values.
        """
        return None

    def feeds(self, block: int, state: Any) -> bool:
        """Whether the method replaces this block's MLP for image tokens (`feed`), in a language
        model while it reads the prompts."""
        return False

    def feed(self, block: int, x: Tensor, state: Any) -> Tensor:
        """``[T, D]`` in place of the MLP's output for the image tokens of all samples, from its
        input ``[T, D]``. Text keeps its MLP; what runs here is counted in `macs`."""
        raise NotImplementedError

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        """The interval in which a budget searches the knob."""
        raise BadValueError(f"Method '{self.name}' has no knob for a budget to turn.")

    def knob_values(self, batch: Batch) -> Sequence[float] | None:
        """The only values the knob takes, ascending; None = the whole of `knob_range`."""
        return None


M = TypeVar("M", bound=type[Reducer])


def register(name: str, card: Card) -> Callable[[M], M]:
    """Class decorator: the method becomes ``method=<name>`` everywhere."""

    def add(cls: M) -> M:
        METHODS.add(name, cls)
        cls.name, cls.card = name, card
        return cls

    return add


def methods() -> dict[str, type[Reducer]]:
    """All methods by name."""
    return METHODS.all()


def method_class(name: str) -> type[Reducer]:
    """The class of a method; near names are suggested where there is none."""
    return METHODS.get(name)


def build(name: str, *, k: float | str | None = None, **params: Any) -> Reducer:
    """A method from its name, its knob ``k`` and its own options, each checked against its type."""
    cls = method_class(name)
    known = {option: hint for option, hint, _ in options(cls)}
    if k is not None:
        knob = cls.card.knob
        if knob is None:
            raise BadValueError(f"Method '{name}' has no knob: leave k out.")
        if knob in params and params[knob] is not None and params[knob] != k:
            raise BadValueError(f"k={k} and {knob}={params[knob]} both set the knob of '{name}'.")
        params[knob] = k
    for option, value in params.items():
        if option not in known:
            raise unknown(f"option of method '{name}'", option, known)
        params[option] = checked(f"{name}.{option}", value, known[option])
    return cls(**params)


def build_from(name: str, params: Mapping[str, Any], k: float | None = None) -> Reducer:
    """`build` from options that somebody wrote down, ``k`` perhaps among them.

    Raises:
        BadValueError: two values for ``k``, or what `build` refuses.
    """
    others = dict(params)
    given = others.pop("k", None)
    if given is not None and k is not None and given != k:
        raise BadValueError(f"k={k:g} and method.k={given} both set the knob: drop one.")
    return build(name, k=k if given is None else given, **others)
