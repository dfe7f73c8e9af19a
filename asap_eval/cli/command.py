"""Hydra's command line around the runner: one job, a sweep, or the rows of an experiment."""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from asap_eval.bench.bench import bench_class
from asap_eval.cli.experiment import Row, check_files, rows_of, rows_of_methods
from asap_eval.cli.groups import GROUPS, TIMM, register_choices
from asap_eval.cli.output import Result, show
from asap_eval.cli.overrides import check, keys_of, names_a_run, opened, parsed, values_of
from asap_eval.cli.planning import plan_of, training_plan_of
from asap_eval.cli.settings import settings_of
from asap_eval.cli.user_config import user_defaults
from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError, UnreachableError
from asap_eval.paths import conf_dir
from asap_eval.runner import run
from asap_eval.runner.progress import say
from asap_eval.train.head.run import head_summary, train

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0 only if every job of it succeeded.

    Standard output gets the table and, as its last line, the path of the (last) record; everything
    else goes to standard error.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    codes: list[int] = []
    made: set[Path] = set()

    def task(config: DictConfig) -> None:
        codes.append(_guarded(lambda: _jobs(config, made), debug=config.debug is True))

    register_choices()
    with ExitStack() as stack:
        code = _guarded(lambda: _complete(given, stack), debug="debug=true" in given)
        if code:
            return code
        stack.enter_context(patch.object(sys, "argv", [sys.argv[0], *given]))
        app = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
        try:
            app(task)()
        except KeyboardInterrupt:
            say("Interrupted. The same command goes on after the last batch that was written.")
            return INTERRUPTED
    return max(codes, default=0)


def _complete(given: list[str], stack: ExitStack) -> None:
    """Check a command line and add what Hydra has to read besides.

    Raises:
        AsapEvalError: a key, choice or option that does not exist, or a sweep without ``-m``.
    """
    args = get_args_parser().parse_args(given)
    known = [opened(text) for text in args.overrides]
    given[:] = _replaced(given, args.overrides, known)
    args.overrides = known
    overrides = parsed(args.overrides)
    extra = [Path(args.config_dir)] if args.config_dir else []
    check(overrides, extra)
    for override in overrides:
        if override.key_or_group == "experiment":
            check_files(values_of(override), extra)
    keys = {override.key_or_group for override in overrides}
    runs = _runs(args)
    bare = runs and not names_a_run(overrides)
    added = user_defaults(keys, bare=bare) if runs else []
    if "model.timm" in keys and "model" not in keys:
        added.append(f"model={TIMM}")
    if bare:
        added.append("experiment=example")
    if {"experiment", "methods"} <= keys:
        raise BadValueError("experiment= names its methods: choose one with method=.")
    if keys & {"experiment", "methods"}:
        # Each row makes its own choices: their options are checked where the row is composed.
        forced = [_forced(override) for override in overrides]
        given[:] = _replaced(given, args.overrides, forced)
        args.overrides = forced
    if args.multirun:
        # Hydra leaves a multirun.yaml there; the records say all that it says.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        added += [] if "hydra.sweep.dir" in keys else [f"hydra.sweep.dir='{folder}'"]
    elif sweeps := [o.input_line for o in overrides if o.is_sweep_override()]:
        raise BadValueError(f"{sweeps[0]} names several values: add -m to run them all in turn.")
    # All overrides have to stand together: the parser takes one group of them.
    place = given.index(args.overrides[0]) if args.overrides else len(given)
    given[place:place] = added


def _forced(override: Override) -> str:
    """An override such that Hydra takes an option of a group whatever the group's choice is."""
    text = override.input_line or ""
    group, dot, _ = override.key_or_group.partition(".")
    return f"++{text.lstrip('+')}" if dot and group in GROUPS else text


def _replaced(given: list[str], old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The words of a command line with some of them rewritten."""
    to = dict(zip(old, new, strict=True))
    return [to.get(word, word) for word in given]


def _runs(args: argparse.Namespace) -> bool:
    """Whether anything is run; otherwise Hydra only shows something."""
    shows = (args.help, args.hydra_help, args.cfg, args.info, args.shell_completion)
    return not any(shows)


def _jobs(config: DictConfig, made: set[Path]) -> int:
    """Everything that one composed configuration asks for.

    Args:
        made: records that this command has made; ``force=true`` makes none of them twice.
    """
    context = HydraConfig.get()
    given = list(context.overrides.task)
    if context.mode == RunMode.MULTIRUN:
        say(f"Job {context.job.num}: {' '.join(given)}", style="bold")
    experiment = None
    if config.methods is not None:
        rows = rows_of_methods(config, given)
    elif config.rows is None:
        rows = [Row(given, settings_of(config, context.runtime.choices, keys_of(given)))]
    else:
        experiment, rows = rows_of(config, given)
    if config.stage == "train":
        return _train(rows)
    if config.plan is True:
        return _plan(rows)
    results = [Result(row.entry, row.model, reason=row.reason) for row in rows]
    codes = []
    for number, (row, result) in enumerate(zip(rows, results, strict=True), 1):
        if len(rows) > 1:
            say(f"[{number}/{len(rows)}] {' '.join(row.overrides)}", style="bold")
        codes.append(_guarded(partial(_one, row, result, made), debug=config.debug is True))
    show(results, experiment)
    if len(rows) > 1 and any(codes):
        say(f"{sum(map(bool, codes))} of {len(rows)} rows failed; see above.", style="red")
    return max(codes)


def _one(row: Row, result: Result, made: set[Path]) -> int:
    """Run one row and fill in its result; returns its exit code.

    A row of an experiment whose method cannot be run, or cannot reach its target, is a finding and
    no failure. Failed samples are a failure where the benchmark is strict; the record is written
    all the same.
    """
    if row.settings is None:
        say(f"not run: {row.reason}", style="yellow")
        return 0
    settings = row.settings
    try:
        outcome = run(
            settings.job,
            results=settings.results,
            force=settings.force,
            made=made,
            workers=settings.workers,
            imagenet=settings.imagenet,
            config=settings.config,
            overrides=row.overrides,
        )
    except Exception as error:
        result.reason = str(error) or type(error).__name__
        if row.entry is None or not isinstance(error, UnreachableError):
            raise
        say(f"not run: {error}", style="yellow")
        return 0
    if outcome.reused:
        say(f"Already done: {outcome.path} (force=true runs it again).")
    result.outcome = outcome
    lost = bench_class(settings.job.bench).strict and outcome.record.provenance.failures
    return FAILED if lost else 0


def _train(rows: Sequence[Row]) -> int:
    """Train one head; standard output ends with its path."""
    settings = rows[0].settings
    if len(rows) != 1 or settings is None or settings.recipe is None:
        raise BadValueError(
            "stage=train trains one head: give model=, data= and bench=kinetics, no experiment=."
        )
    job, recipe, results = settings.job, settings.recipe, settings.results
    if settings.plan:
        lines, possible = training_plan_of(job, recipe, results)
        print("\n".join(lines))
        return 0 if possible else FAILED
    path = train(
        job,
        recipe,
        results=results,
        force=settings.force,
        workers=settings.workers,
        overrides=rows[0].overrides,
    )
    print(head_summary(path))
    print(path)
    return 0


def _plan(rows: Sequence[Row]) -> int:
    code = 0
    for row in rows:
        if row.settings is None:
            print(f"{' '.join(row.overrides)}\n  not run: {row.reason}")
            continue
        lines, possible = plan_of(row.settings)
        print("\n".join(lines))
        code = code if possible else FAILED
    return code


def _guarded(step: Callable[[], object], *, debug: bool) -> int:
    """Run a step; an error becomes one message and an exit code, with its trace if asked for.

    A step that returns an int returns its exit code.
    """
    try:
        code = step()
    except Exception as error:
        expected = isinstance(error, AsapEvalError)
        text = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
        say(f"error: {text}", style="red")
        if debug:
            traceback.print_exception(error)
        elif not expected:
            say("debug=true shows where it happened.")
        return USAGE if isinstance(error, (UnknownNameError, BadValueError)) else FAILED
    return code if isinstance(code, int) else 0
