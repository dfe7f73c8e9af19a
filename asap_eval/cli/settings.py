"""A composed configuration as a typed job and the way it is run."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asap_eval.bench.bench import bench_class
from asap_eval.cli import authors, measured, named
from asap_eval.cli.groups import TIMM
from asap_eval.cli.keys import Keys
from asap_eval.cli.machine import fitted
from asap_eval.errors import BadValueError, unknown
from asap_eval.experiment.file import FILE
from asap_eval.launch.launch import Launch, launch_of
from asap_eval.method import method_class
from asap_eval.models import ModelSpec, spec_from
from asap_eval.options import checked, options, words
from asap_eval.record import Budget, Count, Job
from asap_eval.train.head.fit import Recipe

STAGES = ("eval", "train")


@dataclass(frozen=True)
class Settings:
    """A job and how it is run.

    Attributes:
        job: what decides the numbers. results: folder of the records. workers: processes that
            load images. cache: whether decoded ones are kept. force: run again what is done.
            plan: only say what would run. imagenet: its folder, where data= is left out or names
            it. launch: how jobs are spread over workers.
        config: the resolved configuration, for the record. chosen: what of it the machine decides
            (`asap_eval.cli.machine`). recipe: how to train a head instead of measuring; None with
            stage=eval. notes: what was chosen for the user beside that, a line each.
    """

    job: Job
    results: Path
    workers: int
    cache: str
    force: bool
    plan: bool
    config: dict[str, Any]
    imagenet: str | None = None
    launch: Launch = field(default_factory=Launch)
    chosen: str = ""
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()


def settings_of(
    config: DictConfig, choice: Mapping[str, Any], given: Collection[str] = ()
) -> Settings:
    """The typed form of a composed configuration.

    Args:
        choice: what was chosen in each config group. given: keys set by hand, which win over
            the settings of a method's authors.

    Raises:
        AsapEvalError: a value of the wrong type, or nothing chosen that has to be.
    """
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    name = choice.get("method") or "none"
    word = _word(plain["k"], name)
    keys = typed_keys(
        config if word is None else cast(DictConfig, OmegaConf.merge(config, {"k": None}))
    )
    if not choice.get("model"):
        raise BadValueError(
            "model is missing: name one (asap-eval ls models), for instance model=deit_tiny. "
            "Without model, method, bench, data and experiment the bundled example runs."
        )
    spec = _model(plain["model"])
    bench = choice.get("bench") or "imagenet"
    knob = method_class(name).card.knob
    params = {
        option: value
        for option, value in (plain["method"] or {}).items()
        if option != knob or value is not None
    }
    if word is not None and knob is not None and params.setdefault(knob, word) != word:
        raise BadValueError(
            f"k={word} and method.{knob}={params[knob]} both set the knob: drop one."
        )
    budget = _budget(plain["budget"], keys.target)
    notes: tuple[str, ...] = ()
    kind = (plain["settings"] or {}).get("kind")
    if kind == authors.KIND:
        found, options = authors.fill(spec.name, name, given, budget=budget is not None)
        keys.k = keys.k if found is None else float(found)
        params.update(options)
    elif kind == named.KIND:
        params.update(named.fill(choice["settings"], plain["settings"], name, given))
    elif kind == measured.KIND and (taken := measured.taken(spec.name, name, given)).options:
        params.update(taken.options)
        notes = (measured.note(spec.name, name, taken),)
        plain["settings"].update(took=taken.options, file=taken.file)
    on = fitted(keys, spec, bench)
    plain.update(dataclasses.asdict(on))
    _one_of("sample", keys.sample, Job)
    _one_of("macs_convention", keys.macs_convention, Job)
    return Settings(
        job=Job(
            model=spec.name,
            model_params=spec.params,
            method=name,
            k=keys.k,
            params=params,
            bench=bench,
            bench_params=_bench_params(bench, plain["bench"] or {}, plain["tasks"], given),
            data=keys.data or "",
            labels=keys.labels,
            weights=keys.weights,
            limit=keys.limit,
            sample=keys.sample,  # type: ignore[arg-type]
            budget=budget,
            batch_size=on.batch_size,
            device=on.device,
            dtype=on.dtype,
            seed=keys.seed,
            speed=keys.speed,
            macs_convention=keys.macs_convention,  # type: ignore[arg-type]
        ),
        results=Path(keys.results).expanduser(),
        workers=on.workers,
        cache=keys.cache,
        force=keys.force,
        plan=keys.plan,
        imagenet=plain["paths"]["imagenet"],
        launch=launch_of(plain["launch"]),
        config={key: value for key, value in plain.items() if key not in (*FILE, "launch")},
        chosen=on.said(keys),
        recipe=_recipe(keys.stage, plain["train"] or {}),
        notes=(*notes, *_of_target(budget)),
    )


def _of_target(budget: Budget | None) -> tuple[str, ...]:
    """The note on a share that was given where percent are meant."""
    if budget is None or budget.kind != "macs" or not -1 < budget.target < 0:
        return ()
    return (
        f"target={budget.target:g} is a change of {-budget.target:g} %; for "
        f"{-100 * budget.target:g} % give target={100 * budget.target:g}.",
    )


def typed_keys(config: DictConfig) -> Keys:
    """The stand-alone keys, each converted to its type."""
    found = OmegaConf.structured(Keys)
    for key in fields(Keys):
        try:
            found[key.name] = config[key.name]
        except OmegaConfBaseException as error:
            kind = str(key.type).removesuffix(" | None")
            said = {"int": "a whole number", "float": "a number", "bool": "true or false"}
            raise BadValueError(
                f"{key.name}={config[key.name]!r}: give {said.get(kind, 'text')}."
            ) from error
    return cast(Keys, OmegaConf.to_object(found))


def _word(k: Any, method: str) -> str | None:
    """``k`` as a word that the method's knob takes beside numbers; None where it is none.

    Raises:
        BadValueError: another word.
    """
    cls = method_class(method)
    hint = next((hint for name, hint, _ in options(cls) if name == cls.card.knob), None)
    known = words(hint)
    if not isinstance(k, str) or not known or k in known:
        return k if k in known else None
    try:
        float(k)
    except ValueError:
        raise BadValueError(f"k='{k}': give a number, or one of {', '.join(known)}.") from None
    return None


def _model(config: Mapping[str, Any]) -> ModelSpec:
    if config["name"] != TIMM:
        return spec_from(config)
    if config["timm"] is None:
        raise BadValueError("model=timm needs model.timm=<timm name>.")
    return spec_from({**config, "name": config["timm"]})


def _bench_params(
    bench: str, params: Mapping[str, Any], tasks: Any, given: Collection[str]
) -> dict[str, Any]:
    """Options of the benchmark; ``tasks`` may stand alone, one task without a list."""
    if tasks is None:
        return dict(params)
    if "tasks" not in {name for name, _, _ in options(bench_class(bench))}:
        raise BadValueError(f"tasks= is for bench=vlm; bench={bench} has no tasks.")
    if "bench.tasks" in given:
        raise BadValueError("tasks= and bench.tasks= mean the same: give one of them.")
    return {**params, "tasks": tasks if isinstance(tasks, list) else [tasks]}


def _recipe(stage: str, given: Mapping[str, Any]) -> Recipe | None:
    if stage not in STAGES:
        raise unknown("value of stage", stage, STAGES)
    if stage == "eval":
        return None
    hints = {name: hint for name, hint, _ in options(Recipe)}
    return Recipe(**{k: checked(f"train.{k}", value, hints[k]) for k, value in given.items()})


def _one_of(name: str, value: str, owner: type) -> None:
    """Check a value against the `Literal` of a dataclass."""
    allowed = typing.get_args(typing.get_type_hints(owner)[name])
    if value not in allowed:
        raise unknown(f"value of {name}", value, allowed)


def _budget(config: Mapping[str, Any] | None, target: float | None) -> Budget | None:
    kind = (config or {}).get("kind")
    if kind is None:
        if target is not None:
            raise BadValueError(
                f"target={target:g} without a budget: add budget=macs, or leave target out."
            )
        return None
    if target is None:
        raise BadValueError(f"budget={kind} needs target=<value>, for instance target=-35.")
    samples = (config or {}).get("samples")
    if not isinstance(samples, int):
        raise BadValueError(f"budget.samples={samples!r}: give a whole number.")
    count = (config or {}).get("count")
    allowed = typing.get_args(Count)
    if count is not None and count not in allowed:
        raise unknown("value of budget.count", str(count), allowed)
    return Budget(kind, target, samples, count)
