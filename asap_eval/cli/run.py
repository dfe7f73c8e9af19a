"""``asap-eval [run]``: one job, a sweep, or the rows of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import get_type_hints

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from asap_eval.bench.bench import bench_class
from asap_eval.cli.compose import composed, swept
from asap_eval.cli.experiment import Row, check_files, rows_of, rows_of_methods
from asap_eval.cli.groups import GROUPS, TIMM, root_keys
from asap_eval.cli.guard import FAILED, INTERRUPTED, guarded
from asap_eval.cli.keys import Keys
from asap_eval.cli.lists import with_brackets
from asap_eval.cli.output import Result, show
from asap_eval.cli.overrides import check, each_of, keys_of, names_a_run, parsed, values_of
from asap_eval.cli.planning import plan_of, training_plan_of
from asap_eval.cli.settings import Settings, settings_of
from asap_eval.cli.spreading import Found, opening_of, outcome_of, shows, spread_rows
from asap_eval.cli.user_config import user_defaults, user_file
from asap_eval.cli.words import debugging, settings, switches_of, typed
from asap_eval.errors import BadValueError, UnreachableError, unknown
from asap_eval.experiment import Experiment
from asap_eval.launch.devices import take_gpu
from asap_eval.launch.head import NotWaitedError, alone
from asap_eval.launch.launch import Launch
from asap_eval.plugins import load
from asap_eval.runner import Outcome, run
from asap_eval.runner.progress import say, say_once
from asap_eval.train.head.run import head_summary, train


@dataclass
class Asked:
    """What a command line says beside keys: how it is run, or what is shown instead."""

    multirun: bool = False
    cfg: str = ""
    resolve: bool = False
    config_dir: Path | None = None


def main(argv: Sequence[str]) -> int:
    """Run a command line; the exit code is 0 only if every job of it succeeded.

    Standard output gets the table and, as its last line, the path of the (last) record; everything
    else goes to standard error.
    """
    say_once.cache_clear()
    try:
        return guarded(lambda: _run(argv), debug=debugging(argv))
    except KeyboardInterrupt:
        say("Interrupted. The same command goes on after the last batch that was written.")
        return INTERRUPTED


def _run(argv: Sequence[str]) -> int:
    """All jobs of a command line, one after the other.

    Raises:
        AsapEvalError: a key, choice or option that does not exist, or a sweep without ``-m``.
    """
    asked, words = _asked(argv)
    extra = (asked.config_dir,) if asked.config_dir else ()
    overrides = _complete(words, asked, extra)
    if asked.cfg:
        config = composed(overrides, extra).config
        print(OmegaConf.to_yaml(config, resolve=asked.resolve), end="")
        return 0
    jobs = swept(overrides) if asked.multirun else [overrides]
    codes, made = [], set[Path]()
    if len(jobs) > 1 and _spreads(overrides):
        return _all_at_once(jobs, extra, made)
    for number, given in enumerate(jobs):
        if asked.multirun:
            say(f"Job {number}: {' '.join(given)}", style="bold")
        step = partial(_jobs_of, given, extra, made)
        codes.append(guarded(step, debug=debugging(given)))
    return max(codes)


def _asked(argv: Sequence[str]) -> tuple[Asked, list[str]]:
    """What a command line says of itself, and its overrides.

    Raises:
        BadValueError: ``cfg`` shows nothing but ``job``, or a folder is not there.
    """
    known = [option.name for option in fields(Asked)]
    asked, overrides = Asked(), []
    switches = {*switches_of(Asked), *switches_of(Keys)}
    for word in settings(argv, switches, known=[*known, *root_keys(), *GROUPS]):
        key, _, value = word.partition("=")
        if key in known:
            setattr(asked, key, typed(key, value, get_type_hints(Asked)[key]))
        else:
            overrides.append(word)
    if asked.cfg not in ("", "job"):
        raise unknown("value of cfg", asked.cfg, ["job"])
    if asked.config_dir is not None and not asked.config_dir.is_dir():
        raise BadValueError(f"config_dir={asked.config_dir}: there is no such folder.")
    return asked, overrides


def _complete(words: Sequence[str], asked: Asked, extra: Sequence[Path]) -> list[str]:
    """The overrides of a command line, checked, with what has to be read besides.

    Raises:
        AsapEvalError: a key, choice or option that does not exist, or a sweep without ``-m``.
    """
    given = parsed(words)
    _check_launch(given)
    _load_plugins(given)
    check(given, extra)
    bare = not asked.cfg and not names_a_run(given)
    own = user_defaults({one.key_or_group for one in given}, bare=bare)
    if own:
        say(f"note: {user_file()} adds {' '.join(own)}")
        _check_launch(parsed(own))
    texts = [*own, *words]
    texts = with_brackets(texts, multirun=asked.multirun)
    overrides = parsed(texts)
    for override in overrides:
        if override.key_or_group == "experiment":
            check_files(values_of(override), extra)
    keys = {override.key_or_group for override in overrides}
    added = []
    if "model.timm" in keys and "model" not in keys:
        added.append(f"model={TIMM}")
    if bare:
        added.append("experiment=example")
    if {"experiment", "methods"} <= keys:
        raise BadValueError("experiment= names its methods: choose one with method=.")
    if keys & {"experiment", "methods"}:
        # Each row makes its own choices: their options are checked where the row is composed.
        texts = [_forced(override) for override in overrides]
    sweeps = [str(o.input_line) for o in overrides if o.is_sweep_override()]
    if sweeps and not asked.multirun:
        table = f", or give {sweeps[0].replace('method', 'methods', 1)} for one table of them"
        raise BadValueError(
            f"{sweeps[0]} names several values: add -m to run them all in turn"
            f"{table if sweeps[0].startswith('method=') else ''}."
        )
    return [*added, *texts]


def _check_launch(given: Sequence[Override]) -> None:
    """Refuse Hydra's launchers, and choose the GPU of a process that joins others.

    Raises:
        BadValueError: exit codes and output would be lost.
    """
    for override in given:
        if override.key_or_group == "hydra/launcher" and override.value() != "basic":
            raise BadValueError(
                f"{override.input_line}: Hydra's launchers lose exit codes and what a job prints. "
                "launch=local (or slurm, ray, join) spreads a sweep over workers."
            )
        if override.key_or_group == "launch" and override.value() == "join":
            take_gpu()  # before torch opens one


def _spreads(overrides: Sequence[str]) -> bool:
    """Whether a command line names workers."""
    chosen = [one for one in parsed(overrides) if one.key_or_group == "launch"]
    return any(name != "none" for one in chosen for name in values_of(one))


def _load_plugins(overrides: Sequence[Override]) -> None:
    """Import what ``plugins=`` names: its methods are choices of everything that follows."""
    for override in overrides:
        if override.key_or_group == "plugins":
            load(each_of(override))


def _forced(override: Override) -> str:
    """An override such that Hydra takes an option of a group whatever the group's choice is."""
    text = override.input_line or ""
    group, dot, _ = override.key_or_group.partition(".")
    return f"++{text.lstrip('+')}" if dot and group in GROUPS else text


def _jobs_of(given: Sequence[str], extra: Sequence[Path], made: set[Path]) -> int:
    """Everything that the overrides of one job ask for.

    Args:
        made: records that this command has made; ``force=true`` makes none of them twice.
    """
    return _of_table(_table_of(given, extra), made)


def _of_table(table: _Table, made: set[Path]) -> int:
    if table.stage == "train":
        return _train(table.rows)
    if table.plan:
        return _plan(table.rows)
    if table.launch is None or not table.launch.spreads:
        return _run_table(table, made, None)
    return _spread([table], made)


def _all_at_once(jobs: Sequence[Sequence[str]], extra: Sequence[Path], made: set[Path]) -> int:
    """The jobs of a sweep as one list for workers, then a table each."""
    tables = [_table_of(given, extra) for given in jobs]
    titles = [" ".join(given) for given in jobs]
    if not any(table.plan or table.stage == "train" for table in tables):
        return _spread(tables, made, titles)
    codes = []
    for number, (table, title) in enumerate(zip(tables, titles, strict=True)):
        say(f"Job {number}: {title}", style="bold")
        codes.append(_of_table(table, made))
    return max(codes)


def _spread(tables: Sequence[_Table], made: set[Path], titles: Sequence[str] = ()) -> int:
    """The rows of all tables as one list for workers, then each table, below its title."""
    try:
        found = spread_rows([row for table in tables for row in table.rows], made)
    except NotWaitedError as said:
        say(str(said))
        return 0
    codes = []
    for number, table in enumerate(tables):
        if titles:
            say(f"Job {number}: {titles[number]}", style="bold")
        codes.append(_run_table(table, made, found[: len(table.rows)]))
        found = found[len(table.rows) :]
    return max(codes)


@dataclass(frozen=True)
class _Table:
    """The rows that one command line asks for, as one table.

    Attributes:
        rows, experiment: what runs. stage, plan, wide, debug: keys of these names.
    """

    rows: list[Row]
    experiment: Experiment | None
    stage: str
    plan: bool
    wide: bool
    debug: bool

    @property
    def launch(self) -> Launch | None:
        """How its rows are spread; None where none of them can run."""
        return next((row.settings.launch for row in self.rows if row.settings), None)


def _table_of(given: Sequence[str], extra: Sequence[Path]) -> _Table:
    whole = composed(given, extra)
    config = whole.config
    experiment = None
    if config.methods is not None:
        rows = rows_of_methods(whole)
    elif config.rows is None:
        own = settings_of(config, whole.choices, keys_of(whole.overrides))
        rows = [Row(whole.overrides, own)]
    else:
        experiment, rows = rows_of(whole)
    for chosen in dict.fromkeys(row.settings.chosen for row in rows if row.settings):
        if chosen:
            say(f"auto: {chosen}")
    return _Table(
        rows,
        experiment,
        stage=str(config.stage),
        plan=config.plan is True,
        wide=config.wide is True,
        debug=config.debug is True,
    )


def _run_table(table: _Table, made: set[Path], found: Sequence[Found | None] | None) -> int:
    """Run the rows of a table and show it.

    Args:
        found: what workers made of each row; None = this process runs them, one after the other.
    """
    rows = table.rows
    results = [
        Result(row.entry, row.model, row.settings.job if row.settings else None, reason=row.reason)
        for row in rows
    ]
    codes = []
    for number, (row, result) in enumerate(zip(rows, results, strict=True), 1):
        if len(rows) > 1:
            say(f"[{number}/{len(rows)}] {' '.join(row.overrides)}", style="bold")
        step = partial(_one, row, result, made, None if found is None else found[number - 1])
        codes.append(guarded(step, debug=table.debug))
    if shows(table.launch):
        show(results, table.experiment, wide=table.wide)
    if len(rows) > 1 and any(codes):
        say(f"{sum(map(bool, codes))} of {len(rows)} rows failed; see above.", style="red")
    return max(codes)


def _one(row: Row, result: Result, made: set[Path], found: Found | None) -> int:
    """Run one row, or take what workers made of it, and fill in its result; returns its exit code.

    A row of an experiment whose method cannot be run, or cannot reach its target, is a finding and
    no failure. Failed samples are a failure where the benchmark is strict; the record is written
    all the same.
    """
    if row.settings is None:
        say(f"not run: {row.reason}", style="yellow")
        return 0
    settings = row.settings
    for note in settings.notes:
        say(f"note: {note}")
    try:
        outcome = _here(row, settings, made) if found is None else outcome_of(found)
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


def _here(row: Row, settings: Settings, made: set[Path]) -> Outcome:
    """Run one row in this process."""
    return run(
        settings.job,
        results=settings.results,
        force=settings.force,
        made=made,
        workers=settings.workers,
        cache=settings.cache,
        imagenet=settings.imagenet,
        config=settings.config,
        overrides=row.overrides,
        goes_on=partial(alone, opening=opening_of(settings)),
    )


def _train(rows: Sequence[Row]) -> int:
    """Train one head; standard output ends with its path."""
    settings = rows[0].settings
    if settings is not None and settings.launch.kind not in ("none", "join"):
        raise BadValueError(
            f"stage=train with launch={settings.launch.kind}: one process trains a head. Leave "
            "launch= out, or give the command to several processes with launch=join: they share "
            "out the videos to encode."
        )
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
