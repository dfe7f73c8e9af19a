"""``asap-eval-ls``: what there is to run, read from the code and the configuration itself."""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asap_eval.bench.bench import benches
from asap_eval.cli.authors import ABOUT, entries, known_models
from asap_eval.errors import AsapEvalError
from asap_eval.method import Reducer, methods
from asap_eval.models import model_specs
from asap_eval.options import options
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text
from asap_eval.report.text import as_text, save, show


def models_table() -> Sheet:
    """Every model of ``conf/model``."""
    rows = [
        [spec.name, spec.description or DASH, spec.timm or spec.hf or "this package"]
        for spec in model_specs().values()
    ]
    note = "Any other timm Vision Transformer: model.timm=<timm name>."
    heads = ["model", "what", "architecture and weights (timm, Hugging Face)"]
    return sheet_of_text("Models", heads, rows, notes=[note])


def methods_table() -> Sheet:
    """Every registered method, with what its card says."""
    heads = ["method", "paper", "licence", "training", "k", "needs", "tokens", "deviations"]
    rows = [_method_row(name, cls) for name, cls in methods().items()]
    return sheet_of_text("Methods", heads, rows)


def _method_row(name: str, cls: type[Reducer]) -> list[str]:
    card, needs = cls.card, sorted(need.value for need in cls().needs)
    return [
        name,
        card.paper,
        card.licence,
        card.training,
        card.knob_meaning if card.knob in ("k", None) else f"{card.knob}: {card.knob_meaning}",
        ", ".join(needs) or "nothing",
        "fixed" if card.fixed_count else "per image",
        card.deviations,
    ]


def options_table() -> Sheet:
    """Every option of every method: ``method.<option>=`` on the command line."""
    rows = _option_rows(methods())
    return sheet_of_text("Options", ["method", "option", "type", "default"], rows)


def bench_options_table() -> Sheet:
    """Every option of every benchmark: ``bench.<option>=`` on the command line."""
    rows = _option_rows(benches())
    heads = ["benchmark", "option", "type", "default"]
    return sheet_of_text("Options of benchmarks", heads, rows)


def _option_rows(classes: Mapping[str, type[Any]]) -> list[list[str]]:
    return [
        [name, option, type_name(hint), "none" if default is None else str(default)]
        for name, cls in classes.items()
        for option, hint, default in options(cls)
    ]


def hosts_table() -> Sheet:
    """timm's Vision Transformers: those that run, by stem and head, and why the others do not."""
    import timm

    from asap_eval.models import timm_names

    rows: dict[tuple[str, str], list[str]] = {}
    for name in timm_names.names():
        reason = timm_names.refusal(name)
        row = ("yes", timm_names.kind(name)) if reason is None else ("no", reason)
        rows.setdefault(row, []).append(name)
    note = f"All architectures that timm {timm.__version__} builds with its VisionTransformer."
    return sheet_of_text(
        "Hosts",
        ["runs", "what it is, or why not", "models"],
        [[*row, ", ".join(found)] for row, found in sorted(rows.items())],
        notes=[note],
    )


def type_name(hint: Any) -> str:
    """A type as a person would write the choices: ``pool | prune``, ``int | none``."""
    arms = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, arms))
    if arms and type(None) in arms:
        return " | ".join("none" if arm is type(None) else type_name(arm) for arm in arms)
    return str(getattr(hint, "__name__", hint))


def benchmarks_table() -> Sheet:
    """Every benchmark, and what it measures."""
    rows = [[name, bench.description] for name, bench in benches().items()]
    return sheet_of_text("Benchmarks", ["benchmark", "what"], rows)


def settings_table() -> Sheet:
    """Every entry of ``settings=authors``."""
    rows = []
    for model in known_models():
        for method, entry in entries(model).items():
            given = [f"{option}={value}" for option, value in entry.items() if option not in ABOUT]
            lost = [f"{option} unknown" for option in entry.get("unknown", ())]
            rows.append([model, method, ", ".join(given + lost), entry["source"]])
    heads = ["model", "method", "settings=authors", "source"]
    return sheet_of_text("Authors' settings", heads, rows)


TABLES: dict[str, Callable[[], Sheet]] = {
    "models": models_table,
    "methods": methods_table,
    "benchmarks": benchmarks_table,
    "settings": settings_table,
    "hosts": hosts_table,
}
SLOW = ("hosts",)
"""Lists for which hundreds of models are built: half a minute, where they are asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lists, or put one between the markers of a file."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.into and not args.what:
        parser.error("--into needs the name of one list")
    chosen = [args.what] if args.what else [name for name in TABLES if name not in SLOW]
    tables = [TABLES[name]() for name in chosen]
    if args.options:
        tables += [options_table(), bench_options_table()]
    if args.into is not None:
        try:
            save(filled(args.into, args.what, tables), args.into)
        except (AsapEvalError, OSError) as error:
            print(f"{args.into}: {error}", file=sys.stderr)
            return 1
    else:
        show(tables, args.format)
    return 0


def filled(file: Path, name: str, tables: Sequence[Sheet]) -> str:
    """A file's content with untitled tables in place of what stands between its two markers.

    Raises:
        AsapEvalError: the markers ``<!-- <name> -->`` and ``<!-- /<name> -->`` are not there.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = file.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise AsapEvalError(f"there are no lines {start.strip()} and {end}.")
    text = as_text([replace(table, title="") for table in tables], "markdown")
    return f"{before}{start}\n{text}\n{end}{after}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "asap-eval-ls",
        description="What there is to run: models, methods, benchmarks, the settings that "
        "methods' authors used, and which of timm's models the hosts run. Without an argument all "
        "lists but the last.",
    )
    parser.add_argument(
        "what", nargs="?", choices=tuple(TABLES), help="one list; all but hosts if left out"
    )
    parser.add_argument(
        "--options", action="store_true", help="the options of methods and benchmarks too"
    )
    parser.add_argument("--format", choices=("rich", "markdown"), default="rich")
    parser.add_argument(
        "--into",
        type=Path,
        help="write between the file's <!-- methods --> <!-- /methods --> lines",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
