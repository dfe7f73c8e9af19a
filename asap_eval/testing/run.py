"""All checks of one method: on which models, with which settings, and what they found."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError, first_line
from asap_eval.hosts import backbone_of
from asap_eval.method import Reducer
from asap_eval.methods.parts.learned import Learned
from asap_eval.models import load_model, model_specs
from asap_eval.models.vlm import check_transformers
from asap_eval.testing import contract
from asap_eval.testing.card import is_documented
from asap_eval.testing.demands import DEMANDS, ContractError, DoesNotApplyError, Finding
from asap_eval.testing.models import images, shake, vit
from asap_eval.testing.settings import Asked, acting, keeping_all
from asap_eval.testing.subject import Images, Subject, Trial
from asap_eval.testing.untrained import write_untrained

SMALL: dict[str, dict[str, Any]] = {
    "a class token": {},
    "a class token and 4 registers": {"reg_tokens": 4},
    "no class token": {"class_token": False, "global_pool": "avg"},
}
"""Small ViTs by what stands before the patches, with its options; 12 blocks deep, as the models for
which methods name blocks."""
DEPTH = 12
COUNT = 4
"""Images of a batch."""
OURS = ("llava_tiny", "llava_next_tiny")
"""Vision-language models of a check: one crop an image, and several."""

COMPARED = {
    "seeds": ("two runs with one seed differ", ("alone", "order", "resume", "promoted")),
    "alone": ("a batch is not its images", ("resume",)),
}
"""Checks whose failure, in words, leaves others nothing to compare."""


def check(
    method: str,
    *,
    k: float | str | None = None,
    model: str | None = None,
    weights: str | None = None,
    keep_all: Mapping[str, Any] | None = None,
    on: Iterable[Subject] | None = None,
    **params: Any,
) -> list[Finding]:
    """Try a method on models with random weights, offline, and hold it to `DEMANDS`.

    Args:
        method: registered name. k, params: its knob and its other options; where nothing is changed
            with them the knob is searched, except where it was given.
        model: a name of ``conf/model`` or of timm; ``None`` = small random models, and for methods
            of vision-language models small LLaVAs (extra ``vlm``).
        weights: as for a run; ``None`` = random ones with peaked attention.
        keep_all: options, in place of ``params``, with which every token is kept, where no end of
            the knob's range does.
        on: other models and samples to try it on, in place of ``model``.

    Returns:
        One finding for each demand, in their order.

    Raises:
        AsapEvalError: no such method, model or option, or none of the models runs the method.
    """
    asked = Asked(method, params, k)
    with tempfile.TemporaryDirectory(prefix="asap_eval_check_") as folder:
        prepared: list[Prepared] = []
        refused: list[AsapEvalError] = []
        for subject in subjects_of(asked.cls, model, weights) if on is None else on:
            try:
                prepared.append(_prepared(asked, subject, keep_all, Path(folder)))
            except (UnsupportedModelError, BadValueError) as error:  # it does not fit this one
                refused.append(error)
        if not prepared:
            raise refused[0]
        return _findings(asked.cls, prepared)


def subjects_of(
    cls: type[Reducer], model: str | None = None, weights: str | None = None
) -> Iterator[Subject]:
    """Models to try a method on.

    Raises:
        UnsupportedModelError: it acts in a language model, and the extra ``vlm`` is not there.
    """
    if model is not None:
        yield _named(model, weights)
        return
    if weights is not None:
        raise BadValueError(f"weights={weights}: name their model, too (model=).")
    if cls.tower == "vision":
        for name, shape in SMALL.items():
            yield Images(vit(depth=DEPTH, **shape), images(COUNT), f"a small ViT, {name}")
    if cls.tower == "language":
        check_transformers()
    if cls.tower == "language" or (cls.site == "output" and not left_out(cls)):
        from asap_eval.testing.questions import Questions  # with transformers

        # What a tower hands on of an image may be several crops, which `pack` orders.
        yield Questions(OURS[cls.tower == "vision"], tokens=2)


def left_out(cls: type[Reducer]) -> str:
    """What a check of a method leaves out on this machine, in a sentence; empty = nothing."""
    if cls.tower == "vision" and cls.site == "output":
        try:
            check_transformers()
        except UnsupportedModelError as error:
            return f"What is handed on to a language model was not tried. {error}"
    return ""


def _named(model: str, weights: str | None) -> Subject:
    """A model by its name, with weights or with random ones."""
    if model in model_specs() and model_specs()[model].vlm:
        if model not in OURS or weights is not None:
            raise BadValueError(
                f"model={model}: of vision-language models a check takes {' or '.join(OURS)}, "
                "with random weights."
            )
        from asap_eval.testing.questions import Questions

        return Questions(model, tokens=2)
    loaded = load_model(model, weights="random" if weights is None else weights)
    net = loaded.model if weights is not None else shake(loaded.model)
    height, width = backbone_of(net).image_size
    x = images(COUNT, max(height, width))[..., :height, :width]
    said = f"{model}, {'random weights' if weights is None else weights}"
    # Sums are longer than a small model's, and so is what their order moves.
    return Images(net, x, said, tolerance=1e-3, near=1e-3)


@dataclass(frozen=True)
class Prepared:
    """A subject, and what to try on it.

    Attributes:
        acting: a setting that changes something. keeping: one that keeps every token.
        stopped, keeping_stopped: at which error of its own the method stops while those are looked
            for, in words; empty = at none.
    """

    subject: Subject
    asked: Asked
    acting: Trial | None = None
    keeping: Trial | None = None
    stopped: str = ""
    keeping_stopped: str = ""


def _prepared(
    asked: Asked, subject: Subject, keep_all: Mapping[str, Any] | None, folder: Path
) -> Prepared:
    found = kept = None
    stopped = keeping_stopped = ""
    try:
        asked = _with_predictors(asked, subject, folder)
        found = acting(asked, subject)
    except AsapEvalError:
        raise
    except Exception as error:  # whatever the author's code raises
        stopped = _stop(asked.cls, error)
    try:
        if keep_all is None:
            kept = keeping_all(asked, subject)
        else:
            alone = replace(asked, params=keep_all, k=None)
            kept = _with_predictors(alone, subject, folder).trial(subject, None, {})
    except AsapEvalError:
        raise
    except Exception as error:
        keeping_stopped = _stop(asked.cls, error)
    return Prepared(subject, asked, found, kept, stopped, keeping_stopped)


def _with_predictors(asked: Asked, subject: Subject, folder: Path) -> Asked:
    """The same with random predictors, where the method needs trained ones and none are given."""
    method = asked.build(asked.k)
    if not isinstance(method, Learned) or method.checkpoint is not None:
        return asked
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    write_untrained(method, subject, path)
    return replace(asked, params={**asked.params, "checkpoint": str(path)})


def _stop(cls: type[Reducer], error: BaseException) -> str:
    """Where a method stopped, in words: its own line, where it is on the way."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"it stops with {first_line(error)}{at}."


# --- the checks -----------------------------------------------------------------------------------


def _findings(cls: type[Reducer], prepared: Sequence[Prepared]) -> list[Finding]:
    found: dict[str, Finding] = {}
    for name in DEMANDS:
        spoiled = next((why for why, one in _spoilers(name) if found[one].failed), None)
        if spoiled is None:
            found[name] = _finding(name, cls, prepared)
        else:
            found[name] = Finding(name, "does not apply", f"{spoiled}: nothing can be compared.")
    return list(found.values())


def _spoilers(name: str) -> Iterator[tuple[str, str]]:
    """Checks without which one means nothing, each behind what is wrong then."""
    for one, (why, others) in COMPARED.items():
        if name in others:
            yield f"{why} ({one})", one


def _finding(name: str, cls: type[Reducer], prepared: Sequence[Prepared]) -> Finding:
    """One check on all subjects: the first failure, or on what it passed."""
    passed, idle = [], ""
    steps: Sequence[Prepared] = prepared[:1] if name in ONCE else prepared
    for one in steps:
        try:
            _step(name, cls, one, prepared)
        except DoesNotApplyError as error:
            idle = idle or str(error)
        except ContractError as error:
            return Finding(name, "failed", f"On {one.subject.said}: {error}")
        except Exception as error:  # whatever the author's code raises
            return Finding(name, "failed", f"On {one.subject.said}: {_stop(cls, error)}")
        else:
            passed.append(one)
    if not passed:
        return Finding(name, "does not apply", idle)
    return Finding(name, "passed", _passed_on(name, passed))


def _passed_on(name: str, passed: Sequence[Prepared]) -> str:
    if name in ONCE:
        return ""
    each = []
    for one in passed:
        trial = one.keeping if name == "keep all" else one.acting
        each.append(f"{one.subject.said} ({trial.options})" if trial else one.subject.said)
    return "; ".join(each)


def _step(name: str, cls: type[Reducer], one: Prepared, every: Sequence[Prepared]) -> None:
    """One check on one subject.

    Raises:
        ContractError: it fails. DoesNotApplyError: it asks nothing of the method here.
    """
    if name == "documented":
        is_documented(cls, one.subject, one.asked.params)
        return
    if stopped := one.keeping_stopped if name == "keep all" else one.stopped:
        raise ContractError(stopped)
    if name == "keep all":
        if one.keeping is None:
            raise DoesNotApplyError(
                "no end of its knob's range keeps every token; keep_all= names options that do."
            )
        contract.keeps_all(one.keeping)
        return
    if one.acting is None:
        if cls.idle:
            raise DoesNotApplyError("it declares to change nothing (idle).")
        if name == "acts" and not any(other.acting for other in every):
            raise ContractError(_never(one))
        raise DoesNotApplyError("no setting that was tried changes anything here (acts).")
    if name == "needs":
        contract.reads_its_needs([other.acting for other in every if other.acting])
    elif name != "acts":
        CHECKS[name](one.acting)
    elif one.acting.effect == "attention":
        contract.replaces_attention(one.acting)


def _never(one: Prepared) -> str:
    given = ", ".join(f"{name}={value}" for name, value in one.asked.params.items())
    knob = one.asked.cls.card.knob
    tried = "its whole knob" if one.asked.k is None and knob else f"{given or 'its defaults'}"
    return f"nothing changes with {tried}: give k= and method.<option>= with which it acts."


CHECKS: dict[str, Callable[[Trial], None]] = {
    "seeds": contract.is_seeded,
    "alone": contract.decides_alone,
    "order": contract.ignores_order,
    "resume": contract.resumes,
    "trace": contract.accounts_for_tokens,
    "prefix": contract.keeps_prefix,
    "MACs": contract.counts_macs,
    "promoted": contract.decides_in_fp32,
    "16 bits": contract.runs_in_16_bits,
}
"""Checks of a setting that changes something."""
ONCE = ("documented", "needs")
"""Checks that are made of the method, not on each model."""
