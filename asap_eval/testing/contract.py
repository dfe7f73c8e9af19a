"""What every method keeps, each demand a function of a `Trial`; `ContractError` says what broke.

The project's own tests call these functions for its methods, ``asap-eval check`` for any method.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asap_eval.errors import AsapEvalError, first_line
from asap_eval.hosts import llava_geometry
from asap_eval.hosts.geometry import BlockGeometry
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.testing.demands import ContractError, DoesNotApplyError
from asap_eval.testing.operators import counted, in_torch, like
from asap_eval.testing.subject import Images, Seen, Subject, Trial
from asap_eval.timing.speed import Unpruned
from asap_eval.tokens import Reduction
from asap_eval.trace import Trace
from asap_eval.work.rows import work_of

EXACT = 1e-12
"""Between the model's own output and one with every token kept, in fp64: a map that is read also
makes the output, and is not the fused kernel's."""


def demand(holds: bool | Tensor, why: str) -> None:
    """Raise `ContractError` where something does not hold."""
    if not bool(holds):
        raise ContractError(why)


def close(got: Tensor, expected: Tensor, tolerance: float, why: str) -> None:
    """Raise `ContractError` where two tensors differ in shape or dtype, or in values by more than
    allowed, or one is not finite."""
    for what in ("shape", "dtype"):
        one, other = getattr(got, what), getattr(expected, what)
        demand(one == other, f"{why}: outputs have the {what} {one} instead of {other}.")
    far = float((got.double() - expected.double()).abs().max()) if got.numel() else 0.0
    demand(got.isfinite().all(), f"{why}: the output is not finite.")
    demand(far <= tolerance, f"{why}: outputs differ by {far:.2g}, allowed is {tolerance:.0e}.")


# --- doing nothing ------------------------------------------------------------------------------


def keeps_all(trial: Trial) -> None:
    """With every token kept: the model's own output, nothing fired, every token in its place."""
    subject, said = trial.subject, f"Where every token is kept ({trial.options})"
    seen, reducer = trial.whole, trial.build()
    trace = seen.trace
    close(seen.outputs, subject.plain(), subject.near, f"{said} the model's own output is due")
    if isinstance(subject, Images) and not reducer.needs:
        # The kernel that methods run with, where the model's own code does not run throughout.
        bits = subject.plain() if reducer.idle else subject.seen(Unpruned()).outputs
        demand(torch.equal(seen.outputs, bits), f"{said} nothing is read, yet bits differ.")
    elif isinstance(subject, Images) and subject.images.dtype != torch.float64:
        exact = subject.in_dtype(torch.float64)
        got = exact.seen(trial.build()).outputs
        close(got, exact.plain(), EXACT, f"{said} the model's own output is due in fp64, too")
    demand(not trace.fired.any(), f"{said} the trace says that images were reduced.")
    whole = subject.prefix + trace.source.shape[1]
    if type(reducer).tower == "language":
        demand(not trace.language.fired.any(), f"{said} the trace says that prompts were reduced.")
    demand((trace.lengths == whole).all(), f"{said} blocks ran on fewer than all {whole} tokens.")
    places = torch.arange(subject.prefix, whole).expand(len(trace.source), -1)
    demand(torch.equal(trace.source, places), f"{said} tokens changed places.")


# --- what is left -------------------------------------------------------------------------------


def accounts_for_tokens(trial: Trial) -> None:
    """Lengths never grow, slots have no gaps, every slot holds a patch, firing is told truly."""
    if not isinstance(trial.subject, Images) and type(trial.build()).tower == "language":
        _accounts_in_language(trial, trial.whole)
    elif not isinstance(trial.subject, Images):
        _accounts_crops(trial, trial.whole)
    else:
        _accounts_images(trial, trial.whole)


def _accounts_images(trial: Trial, seen: Seen) -> None:
    trace, prefix = seen.trace, trial.subject.prefix
    lengths, full = trace.lengths, prefix + trace.source.shape[1]
    demand(seen.outputs.isfinite().all(), "The model's output is not finite.")
    if trial.effect == "attention":
        demand((lengths == full).all() and not trace.fired.any(), "Tokens went; none should.")
        return
    fewer = bool((lengths[-1] < full).any())
    demand(fewer == (trial.effect == "tokens"), "No image has fewer tokens in the end.")
    made = (trace.patches + prefix)[None]
    entered = torch.cat([made, lengths[:-1]])
    steps = [("input", torch.full_like(made, full), made)]
    steps += [("before", entered, trace.attention_tokens)]
    steps += [("between", trace.attention_tokens, trace.mlp_tokens)]
    steps += [("after", trace.mlp_tokens, lengths)]
    site = trial.build().site
    acts = {"output": "after", "inside": "before"}.get(site, site)
    for name, before, after in steps:
        demand((after <= before).all(), f"Tokens became more at the site '{name}'.")
        changed = not torch.equal(after, before)
        demand(
            changed == (name == acts),
            f"The method's site is '{site}', and tokens changed {'' if changed else 'not '}at "
            f"'{name}'.",
        )
    _accounts_crops(trial, seen)


def _accounts_crops(trial: Trial, seen: Seen) -> None:
    trace, prefix = seen.trace, trial.subject.prefix
    lengths, full = trace.lengths, prefix + trace.source.shape[1]
    for i, source in enumerate(trace.source):
        length = int(lengths[-1, i])
        held = source[source >= 0]
        # Prefix tokens keep their places, so patches live behind them; every other slot holds one.
        demand(
            held.unique().tolist() == list(range(prefix, length)),
            f"Image {i} has {length} tokens, {prefix} of them prefix, and its patches are in "
            f"{len(held.unique())} of the other slots: every other slot has to hold a patch.",
        )
        demand((source[source < 0] == -1).all(), f"Image {i}: dropped patches are not at -1.")
        if trial.conserves:
            demand(len(held) == len(source), f"Image {i} lost {len(source) - len(held)} patches.")
        block = int(trace.fired[i])
        if block:
            before = lengths[: block - 1, i]
            demand((before == full).all(), f"Image {i} was reduced before block {block}.")
        else:
            demand(length == full, f"Image {i} has fewer tokens, and never fired.")


def _accounts_in_language(trial: Trial, seen: Seen) -> None:
    trace, counts, reduces = seen.trace, seen.trace.language, trial.effect == "tokens"
    demand(counts.fired.bool().eq(reduces).all(), "Not every prompt was reduced.")
    fewer = counts.lengths[-1] < trace.prompt_tokens
    demand(fewer.eq(reduces).all(), "A prompt that fired kept all its tokens, or the reverse.")
    cached = counts.cached_tokens <= trace.prompt_tokens
    demand(cached.all(), "A layer's cache holds more keys than the prompt has tokens.")
    first, prompts = counts.attention_tokens[0], trace.prompt_tokens
    if trial.build().site == "before":
        chained = torch.equal(counts.attention_tokens, counts.lengths)
        may_lose = True
    else:
        chained = torch.equal(counts.attention_tokens[1:], counts.lengths[:-1])
        may_lose = trial.build().admits()
    entered = (first <= prompts).all() if may_lose else first.eq(prompts).all()
    demand(entered, "The first layer's attention saw other tokens than entered the language model.")
    grew = (counts.lengths[1:] > counts.lengths[:-1]).any()
    demand(~grew, "Tokens became more from one layer to the next.")
    demand(chained, "A layer's attention saw other tokens than the layer before it left.")
    whole = trial.subject.prefix + trace.source.shape[1]
    demand((trace.lengths == whole).all(), "The vision tower lost tokens.")


def replaces_attention(trial: Trial) -> None:
    """Attention that is replaced changes what comes out."""
    got = trial.whole.outputs
    far = float((got - trial.subject.plain()).abs().max())
    demand(far > 1e-3, f"The output moved by {far:.2g} alone.")


def keeps_prefix(trial: Trial) -> None:
    """Class, distillation and register tokens stay in front, untouched."""
    reducer, prefix = trial.build(), trial.subject.prefix
    if type(reducer).tower == "language":
        raise DoesNotApplyError("a language model has no prefix tokens.")
    if trial.effect != "tokens":
        raise DoesNotApplyError("it sends no token anywhere.")
    if reducer.site == "input":
        raise DoesNotApplyError("it resizes images and decides nothing about tokens.")
    if not prefix:
        raise DoesNotApplyError("this model has no prefix tokens.")
    decided: list[int] = []

    def decide(self: Reducer, view: View, state: Any) -> Reduction | None:
        reduction = type(reducer).decide(self, view, state)
        if reduction is not None:
            # At once: without its first tokens a model may stop with an error of its own.
            _keeps_first(reduction, prefix, view.block)
            decided.append(view.block)
        return reduction

    trial.subject.seen(like(reducer, decide=decide))
    demand(bool(decided), "decide() gave no reduction.")


def _keeps_first(reduction: Reduction, prefix: int, block: int) -> None:
    group, weight, places = reduction.group, reduction.weight, torch.arange(prefix)
    moved = (group[:, :prefix] != places).nonzero()
    if len(moved):
        row, token = moved[0].tolist()
        slot = int(group[row, token])
        raise ContractError(
            f"In block {block} token {token} ({_prefix_name(token)}) of the {row + 1}. image "
            f"{'is dropped' if slot < 0 else f'goes to slot {slot}'}: leave the first view.prefix "
            "tokens in their places."
        )
    joined = (group[:, prefix:].unsqueeze(2) == places).any()
    demand(not joined, f"In block {block} a patch is merged into a prefix token.")
    same = weight is None or bool((weight[:, :prefix] == 1).all())
    demand(same, f"In block {block} a prefix token has a weight other than 1.")


def _prefix_name(token: int) -> str:
    return "the class token" if token == 0 else "a distillation or register token"


# --- every sample for itself --------------------------------------------------------------------


def decides_alone(trial: Trial) -> None:
    """A sample alone is treated as it is in a batch."""
    whole = trial.whole
    for at in range(trial.subject.count):
        alone = trial.subject.seen(trial.build(), [at])
        _same(trial, alone, whole, [at], f"Sample {at} alone is treated otherwise than in a batch")


def ignores_order(trial: Trial) -> None:
    """The order of a batch, and who else is in it, does not matter."""
    count = trial.subject.count
    if count < 2:
        raise DoesNotApplyError("one sample has no order.")
    # Of more than two, all but the first one.
    order = [1, 0] if count == 2 else [*range(count - 2, 0, -1), count - 1]
    whole = trial.whole
    got = trial.subject.seen(trial.build(), order)
    _same(trial, got, whole, order, f"A batch in the order {order} is treated otherwise")


def _same(trial: Trial, got: Seen, whole: Seen, places: Sequence[int], why: str) -> None:
    tolerance = trial.subject.tolerance
    advice = "a method may not look at its neighbours in the batch"
    for row, place in enumerate(places):
        for name, value in got.decided[row].items():
            other = whole.decided[place][name]
            demand(
                torch.equal(value, other),
                f"{why}: {_difference(name, value, other)}; {advice}.",
            )
        for name, value in got.noted[row].items():
            # Distances; sinks and bins are exact.
            allowed = tolerance if value.is_floating_point() else 0
            close(value, whole.noted[place][name], allowed, f"{why}: the note '{name}'")
    # fp32 kernels may sum in another order for another batch size; decisions may not differ.
    close(got.outputs, whole.outputs[list(places)], tolerance, why)


def _difference(name: str, one: Tensor, other: Tensor) -> str:
    if one.dim() == 0:
        return f"{name} is {one.item():g} instead of {other.item():g}"
    if one.shape != other.shape:
        return f"{name} has the shape {[*one.shape]} instead of {[*other.shape]}"
    return f"{name} differs in {int((one != other).sum())} of {one.numel()} places"


def resumes(trial: Trial) -> None:
    """Rows of a run are those of any cut at the end of a batch, by new processes."""
    subject, count = trial.subject, trial.subject.count
    whole, half = _rows_of(subject, trial.whole), (count + 1) // 2
    cuts: list[tuple[str, Callable[[], Reducer], list[range]]] = [
        ("by a new process", trial.build, [range(half), range(half, count)]),
        ("by one process", _once(trial.build), [range(at, at + 1) for at in range(count)]),
    ]
    for who, build, parts in cuts:
        for at, row in enumerate(_rows(subject, build, parts)):
            demand(
                not _unlike(row, whole[at]),
                f"In batches of {len(parts[0])} instead of {count}, run {who}, the row of sample "
                f"{at} is another: what one batch leaves on the method changes the next; keep it "
                "in the state that begin() returns.",
            )


def _once(build: Callable[[], Reducer]) -> Callable[[], Reducer]:
    """The same method object at every call."""
    reducer = build()
    return lambda: reducer


def _rows(
    subject: Subject, build: Callable[[], Reducer], parts: Sequence[range]
) -> list[dict[str, Any]]:
    """Rows of batches: the work's part of a record's rows, and what was decided."""
    return [row for part in parts for row in _rows_of(subject, subject.seen(build(), list(part)))]


def _rows_of(subject: Subject, seen: Seen) -> list[dict[str, Any]]:
    work = work_of(seen.trace, subject.geometry) if isinstance(subject, Images) else []
    return [decided | (work[at] if work else {}) for at, decided in enumerate(seen.decided)]


def _unlike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    return one.keys() != other.keys() or not all(same(one[key], other[key]) for key in one)


# --- seeds --------------------------------------------------------------------------------------


def is_seeded(trial: Trial) -> None:
    """One seed and one name give one answer, and no global generator is drawn from."""
    subject = trial.subject
    runs = []
    for number in (0, 1):
        with _generators_at(number) as moved:
            runs.append(subject.seen(trial.build(), seed=0, names=subject.names))
        demand(
            not moved,
            f"It draws from the global generator of {' and '.join(moved)}: draw from "
            "batch.generator(image), which depends on the seed and the image's id alone.",
        )
    for at, (one, other) in enumerate(zip(runs[0].decided, runs[1].decided, strict=True)):
        demand(
            not _unlike(one, other),
            f"With one seed, sample {at} is decided in two ways: something other than the seed and "
            "its id decides (batch.generator(image) is the only source of chance).",
        )


@contextmanager
def _generators_at(number: int) -> Iterator[list[str]]:
    """Global generators in a known state; afterwards they stand as before.

    Yields:
        Names of those that were drawn from, filled at the end.
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    moved: list[str] = []
    try:
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        at = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        yield moved
        if not torch.equal(torch.get_rng_state(), at[0]):
            moved.append("torch")
        if str(np.random.get_state()) != at[1]:
            moved.append("numpy")
        if random.getstate() != at[2]:
            moved.append("random")
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def depends_on_seed(trial: Trial) -> bool:
    """Whether another seed, and other names, give another answer; both or neither do."""
    subject = trial.subject

    def decided(names: Sequence[str], seed: int) -> list[dict[str, Tensor]]:
        return subject.seen(trial.build(), seed=seed, names=names).decided

    first = decided(subject.names, 0)
    found = [
        any(map(_unlike, first, decided(*other)))
        for other in (([f"another {name}" for name in subject.names], 0), (subject.names, 1))
    ]
    demand(found[0] == found[1], "It depends on the seed and not on the image's id, or reversely.")
    return found[0]


# --- work ---------------------------------------------------------------------------------------


def counts_macs(trial: Trial) -> None:
    """`macs` is what torch's operators do in the method's own functions.

    A block whose attention is replaced counts less than the ledger of the model has for it; samples
    are run one by one, because padding is no work of a sample's own.
    """
    subject = trial.subject
    for at in range(subject.count):
        reducer, done = counted(trial.build())
        watched, told = _telling(reducer)
        with in_torch():
            trace = subject.seen(watched, [at]).trace
        blocks = _blocks(subject, reducer, trace)
        said = told.macs
        for block in told.replaced:
            tokens = float(blocks[block - 1][1].sum())
            said += blocks[block - 1][0].attention_pair * tokens**2
        found, card = sum(done.values()), type(reducer).card
        parts = ", ".join(f"{count:,} in {name}()" for name, count in done.items() if count)
        least, most = not card.counts_less, not card.counts_more
        demand(
            (said >= found or not least) and (said <= found or not most),
            f"macs() says {said:,.0f} for sample {at}, and torch's operators do {found:,}"
            f"{f' ({parts})' if parts else ''}: count the products of matrices that the method's "
            "functions run.",
        )


@dataclasses.dataclass
class Told:
    """What a method said of its work in a pass: its MACs, all samples and blocks together, and the
    blocks whose attention it replaced."""

    macs: float = 0.0
    replaced: set[int] = dataclasses.field(default_factory=set)


def _telling(reducer: Reducer) -> tuple[Reducer, Told]:
    """The same method, and what it says of its work, filled while it runs."""
    told = Told()

    def attends(self: Reducer, block: int, state: Any) -> bool:
        does = type(reducer).attends(self, block, state)
        told.replaced.update([block] if does else [])
        return does

    def macs(self: Reducer, view: View, state: Any) -> int | Tensor:
        own = type(reducer).macs(self, view, state)
        each = torch.as_tensor(own, dtype=torch.float64).expand(len(view.images))
        told.macs += float(each.sum())
        return own

    return like(reducer, attends=attends, macs=macs), told


def _blocks(subject: Subject, reducer: Reducer, trace: Trace) -> list[tuple[BlockGeometry, Tensor]]:
    """Each block of the model that the method acts in, with the tokens at its attention."""
    if isinstance(subject, Images):
        blocks, own = subject.geometry.blocks, trace
    elif type(reducer).tower == "language":
        blocks, own = llava_geometry(subject.model).language.blocks, trace.language
    else:
        blocks, own = llava_geometry(subject.model).tower.blocks, trace
    return list(zip(blocks, own.attention_tokens, strict=True))


# --- what is read -------------------------------------------------------------------------------


def reads_its_needs(trials: Sequence[Trial]) -> None:
    """Without any one of its needs a method stops in at least one of these trials, or, where that
    is the tower's class row, which a prompt holds, decides otherwise."""
    unread: set[Need] = {need for trial in trials for need in trial.build().needs}
    if not unread:
        raise DoesNotApplyError("it declares to read nothing.")
    for trial in trials:
        reducer = trial.build()
        for need in reducer.needs:
            without = like(reducer, needs=reducer.needs - {need})
            if need is Need.CLS_ROW and type(reducer).tower == "language":
                read = _misses_row(trial, without)
            else:
                read = need.value in _missed(trial.subject, without)
            if read:
                unread.discard(need)
    names = ", ".join(sorted(need.value for need in unread))
    demand(not unread, f"needs holds {names}, which the host computes and nothing reads: drop it.")


def _misses_row(trial: Trial, reducer: Reducer) -> bool:
    """Whether a method stops, or decides otherwise, where its prompts hold no class row."""
    try:
        seen = trial.subject.seen(reducer)
    except Exception:  # with the row it does not stop: this is what its author's code raises
        return True
    return any(map(_unlike, seen.decided, trial.whole.decided))


def _missed(subject: Subject, reducer: Reducer) -> str:
    """What a method stops at because it is not declared."""
    try:
        subject.seen(reducer)
    except AsapEvalError as error:
        _, found, rest = str(error).partition("reads '")
        return rest.partition("'")[0] if found else ""
    return ""


def decides_in_fp32(trial: Trial) -> None:
    """What is read in 16 bits is promoted before anything is computed of it.

    Compared are reductions, of what enters a language model too, and the tokens that run the next
    block. Attention that a method replaces may be a product in 16 bits, as the model's own is.
    """
    reducer = trial.build()
    cls = type(reducer)
    compared: list[bool] = []
    told: list[Batch] = []

    def begin(self: Reducer, batch: Batch) -> Any:
        told.append(batch)
        return cls.begin(self, batch)

    def decide(self: Reducer, view: View, state: Any) -> Reduction | None:
        copied = copy.deepcopy(state)
        wide = cls.decide(self, _promoted(view), copied)
        found = cls.decide(self, view, state)
        compared.append(_decided_alike(found, wide))
        running, other = (cls.runs(self, view.block + 1, each) for each in (state, copied))
        compared.append(_run_alike(running, other))
        return found

    def admit(self: Reducer, view: View, state: Any) -> Reduction | None:
        wide = cls.admit(self, _promoted(view), cls.begin(self, _promoted_prompt(told[-1])))
        found = cls.admit(self, view, state)
        compared.append(_decided_alike(found, wide))
        return found

    own: dict[str, Any] = {"begin": begin, "decide": decide}
    if cls.admits():  # a host asks `admit` of methods that have their own
        own["admit"] = admit
    with torch.inference_mode():
        trial.subject.in_dtype(torch.bfloat16).seen(like(reducer, **own))
    if not any(compared):
        raise DoesNotApplyError("it makes no reduction here.")


def _promoted(view: View) -> View:
    """The same values in fp32."""
    reads = {need: t.float() for need, t in view._reads.items()}
    return dataclasses.replace(view, _reads=reads, note=lambda *_: None)


def _promoted_prompt(batch: Batch) -> Batch:
    """The same with the prompt's values in fp32; they are read before the first layer."""
    prompt = batch.prompt
    assert prompt is not None  # nothing is admitted but to a language model
    row = None if prompt.cls_row is None else prompt.cls_row.float()
    return dataclasses.replace(
        batch, prompt=dataclasses.replace(prompt, embeds=prompt.embeds.float(), cls_row=row)
    )


NARROW = (
    "In bfloat16 it decides otherwise than on the same values in fp32: promote what is read "
    "(.float()) before computing with it."
)


def _decided_alike(found: Reduction | None, wide: Reduction | None) -> bool:
    """Whether there is a reduction; it has to be the one in fp32."""
    demand((found is None) == (wide is None), NARROW)
    if found is None or wide is None:
        return False
    demand(torch.equal(found.group, wide.group), NARROW)
    demand((found.weight is None) == (wide.weight is None), NARROW)
    if found.weight is not None and wide.weight is not None:
        demand(torch.equal(found.weight.float(), wide.weight.float()), NARROW)
    return True


def _run_alike(found: Tensor | None, wide: Tensor | None) -> bool:
    """Whether some tokens skip a block; they have to be those in fp32."""
    demand((found is None) == (wide is None), NARROW)
    if found is None or wide is None:
        return False
    demand(torch.equal(found, wide), NARROW)
    return True


def runs_in_16_bits(trial: Trial) -> None:
    """bfloat16 and float16 run, and what comes out is finite."""
    for dtype in (torch.bfloat16, torch.float16):
        subject = trial.subject.in_dtype(dtype)
        try:
            with torch.inference_mode():
                outputs = subject.seen(trial.build()).outputs
        except (RuntimeError, TypeError) as error:
            raise ContractError(f"In {dtype} it stops with {first_line(error)}.") from error
        demand(outputs.isfinite().all(), f"In {dtype} the model's output is not finite.")
