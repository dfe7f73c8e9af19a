"""Sections around everything that an unpruned model does not do, and what a round of them costs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from cost_rows import ONCE, OWN, Contender
from cost_sections import Sections
from torch import Tensor
from torch.nn import functional as F

from asap_eval.hosts import attention, forward, language_reads, llama, replacing, seam
from asap_eval.hosts.forward import Pass
from asap_eval.hosts.language_reads import FromLayer
from asap_eval.hosts.layout import Layout
from asap_eval.hosts.llama import LanguageSeam
from asap_eval.hosts.overriding import override
from asap_eval.hosts.probe import Probe
from asap_eval.hosts.reading import Reading
from asap_eval.method import Reducer
from asap_eval.timing.speed import spread

MAPS, REPLACED = "attention maps", "attention in its place"
FUSED, NOT_RUN = "fused attention", "fused attention not run"

WARM = {"cpu": 1, "cuda": 3}
"""Rounds before those that count: a GPU's libraries choose their kernels in the first."""

TOWER: list[tuple[Any, str, str]] = [
    (forward, "attention_rows", "attention rows"),
    (seam, "resize", "image resized"),
    (Pass, "_view", "host"),
    (Pass, "_reduce", "host"),
    (Pass, "_read_behind", "read behind the tower"),
    (Pass, "_apply", "new sequence"),
]
LANGUAGE: list[tuple[Any, str, str]] = [
    (LanguageSeam, "begin", "prompt laid out"),
    (LanguageSeam, "_batch", "prompt laid out"),
    (FromLayer, "reads", "reading"),
    (language_reads, "rows_of", "attention rows"),
    (llama, "ahead", "reading"),
    (LanguageSeam, "_reduce", "host"),
    (Reading, "apply", "new sequence"),
    (replacing, "shorten", "shorter cache"),
]
"""Where the hosts work for a method: owner, function, name of the part."""


@contextmanager
def watched(sections: Sections, reducer: Reducer) -> Iterator[None]:
    """Sections around the host's work for a method, and around the method's own."""
    host = LANGUAGE if reducer.tower == "language" else TOWER
    with ExitStack() as stack:
        stack.enter_context(_maps_beside_fused(sections))
        stack.enter_context(_replaced_beside_fused(sections, reducer))
        for owner, function, name in [*host, *OWN.get(reducer.name, [])]:
            stack.enter_context(sections.around(owner, function, name))
        stack.enter_context(sections.around(reducer, "begin", "decision"))
        stack.enter_context(sections.around(reducer, "observe", "decision"))
        stack.enter_context(sections.around(reducer, "admit", "decision"))
        stack.enter_context(sections.around(reducer, "decide", "decision"))
        yield


@contextmanager
def counted(reducer: Reducer, counts: Counter[str]) -> Iterator[None]:
    """How often the method decides: once at every place where it acts; letting tokens into the
    language model is one."""
    names = ["decide"] + ["admit"] * (type(reducer).admit is not Reducer.admit)

    def counting(plain: Callable[..., Any]) -> Callable[..., Any]:
        def decide(*args: Any) -> Any:
            counts["acts"] += 1
            return plain(*args)

        return decide

    vars(reducer).update({name: counting(getattr(reducer, name)) for name in names})
    try:
        yield
    finally:
        for name in names:
            del vars(reducer)[name]


@contextmanager
def new_positions(sections: Sections, text: Any, seam: LanguageSeam) -> Iterator[None]:
    """Rotary embeddings behind a reduction; the model's own, in front, are not the method's."""

    def make(plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if seam.reading is None or not seam.reading.changed:
                return plain(*args, **kwargs)
            with sections.section("new positions"):
                return plain(*args, **kwargs)

        return forward

    with override(text.rotary_emb, "forward", make):
        yield


def _beside(
    sections: Sections, name: str, plain: Callable[..., Any], causal: bool = False
) -> Callable[..., Any]:
    """Times attention as a section, and on the same tensors at that moment, before it and behind it
    in turn, that of the fastest unpruned model: the kernel that the tower's blocks run with (see
    `asap_eval.timing.speed.Unpruned`); in the language model (causal) PyTorch's fused attention."""

    def unpruned(q: Tensor, k: Tensor, v: Tensor, *args: Any) -> None:
        given = [value for value in args if isinstance(value, Layout)]
        layout = given[0] if given else Layout((q.shape[2],) * len(q))
        with sections.section(FUSED):
            if causal:
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                out = attention.attend(q, k, v, layout, None)
            _joined(out)

    def both(q: Tensor, k: Tensor, v: Tensor, *args: Any) -> Any:
        first = sections.calls[name] % 2 == 0
        if first:
            unpruned(q, k, v, *args)
        with sections.section(name):
            found = plain(q, k, v, *args)
            if isinstance(found, Tensor):
                _joined(found)
        if not first:
            unpruned(q, k, v, *args)
        return found

    return both


def _joined(out: Tensor) -> Tensor:
    """``[B, N, H, d]``, one block of memory, as the model's own attention needs it next: free or a
    copy, as the kernel left it."""
    return out.transpose(1, 2).contiguous()


@contextmanager
def _maps_beside_fused(sections: Sections) -> Iterator[None]:
    """Attention that gives its maps (tower)."""
    plain = forward.attend_with_maps
    forward.attend_with_maps = _beside(sections, MAPS, plain)
    try:
        yield
    finally:
        forward.attend_with_maps = plain


@contextmanager
def _replaced_beside_fused(sections: Sections, reducer: Reducer) -> Iterator[None]:
    """Attention that a method replaces: in the language model with what the host does around it
    (padding, mask), and beside causal attention."""
    if reducer.tower == "language":

        def probe(attend: Callable[..., Tensor], masked: bool = False) -> Probe:
            return Probe(_beside(sections, REPLACED, attend, causal=True), masked)

        plain = replacing.Probe
        replacing.Probe = probe  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            replacing.Probe = plain  # type: ignore[misc]
        return
    vars(reducer)["attend"] = _beside(sections, REPLACED, reducer.attend)
    try:
        yield
    finally:
        del vars(reducer)["attend"]


def rounds_of(
    contender: Contender,
    reducer: Reducer,
    device: torch.device,
    rounds: int,
    sections: Sections,
    step: Callable[[], object],
) -> dict[str, Any]:
    """The row of a method: milliseconds of each part and of all, over the rounds.

    Args:
        step: one pass of the model with the method in it.
    """
    taken: list[dict[str, float]] = []
    counts: Counter[str] = Counter()
    warm = WARM.get(device.type, 1)
    with counted(reducer, counts), watched(sections, reducer):
        for number in range(-warm, rounds):
            counts.clear()
            step()
            one = sections.take()
            if number >= 0:
                taken.append(_less_fused(one))
    return _row(contender, taken, timed=counts["acts"])


def _less_fused(taken: dict[str, float]) -> dict[str, float]:
    """What is left is what reading maps costs: the fused attention would have run, too. Attention
    that is replaced stands beside what does not run, so that a saving is seen as one."""
    fused = taken.pop(FUSED, 0.0)
    if MAPS in taken:
        return taken | {MAPS: taken[MAPS] - fused}
    return taken | ({NOT_RUN: -fused} if fused else {})


def _row(contender: Contender, rounds: Sequence[dict[str, float]], timed: int) -> dict[str, Any]:
    """A row from the sections of its rounds.

    Args:
        timed: places at which the method acted; its cost at the authors' number of places is the
            cost of each times that number, but for parts that a pass has once.
    """
    acts = contender.acts or timed
    scale = acts / timed if timed else 1.0
    whole = [
        {part: ms if part in ONCE else ms * scale for part, ms in taken.items()} for taken in rounds
    ]
    each = [
        sum(ms for part, ms in taken.items() if part not in ONCE) / max(1, timed)
        for taken in rounds
    ]
    parts = sorted({name for taken in whole for name in taken})
    return {
        "label": contender.label,
        "method": contender.method,
        "k": contender.k,
        "params": contender.params,
        "where": "language model" if contender.in_language else "tower",
        "acts": acts,
        "acts_timed": timed,
        "each_ms": statistics.median(each),
        "total_ms": spread([sum(taken.values()) for taken in whole]),
        "parts_ms": {p: statistics.median(taken.get(p, 0.0) for taken in whole) for p in parts},
        "rounds": len(rounds),
    }
