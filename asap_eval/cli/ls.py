"""``asap-eval-ls``: what there is to run, read from the code and the configuration itself."""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from asap_eval.bench.bench import benches
from asap_eval.cli import authors, measured
from asap_eval.cli.entries import Kind, entries, known_models
from asap_eval.errors import AsapEvalError
from asap_eval.method import Reducer, methods
from asap_eval.models import model_specs
from asap_eval.options import options
from asap_eval.report.render import DASH, Table, print_rich, save, to_markdown, to_rich


def models_table() -> Table:
    """Every model of ``conf/model``."""
    rows = [
        [spec.name, spec.description or DASH, spec.timm or spec.hf or "this package"]
        for spec in model_specs().values()
    ]
    note = "Any other timm Vision Transformer: model.timm=<timm name>."
    return Table(
        "Models", ["model", "what", "architecture and weights (timm, Hugging Face)"], rows, [note]
    )


def methods_table() -> Table:
    """Every registered method, with what its card says."""
    heads = ["method", "paper", "licence", "training", "k", "needs", "tokens", "deviations"]
    return Table("Methods", heads, [_method_row(name, cls) for name, cls in methods().items()])


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


def options_table() -> Table:
    """Every option of every method: ``method.<option>=`` on the command line."""
    rows = _option_rows(methods())
    return Table("Options", ["method", "option", "type", "default"], rows)


def bench_options_table() -> Table:
    """Every option of every benchmark: ``bench.<option>=`` on the command line."""
    rows = _option_rows(benches())
    return Table("Options of benchmarks", ["benchmark", "option", "type", "default"], rows)


def _option_rows(classes: Mapping[str, type[Any]]) -> list[list[str]]:
    return [
        [name, option, type_name(hint), "none" if default is None else str(default)]
        for name, cls in classes.items()
        for option, hint, default in options(cls)
    ]


def hosts_table() -> Table:
    """timm's Vision Transformers: those that run, by stem and head, and why the others do not."""
    import timm

    from asap_eval.models import timm_names

    rows: dict[tuple[str, str], list[str]] = {}
    for name in timm_names.names():
        reason = timm_names.refusal(name)
        row = ("yes", timm_names.kind(name)) if reason is None else ("no", reason)
        rows.setdefault(row, []).append(name)
    return Table(
        "Hosts",
        ["runs", "what it is, or why not", "models"],
        [[*row, ", ".join(found)] for row, found in sorted(rows.items())],
        [f"All architectures that timm {timm.__version__} builds with its VisionTransformer."],
    )


def type_name(hint: Any) -> str:
    """A type as a person would write the choices: ``pool | prune``, ``int | none``."""
    arms = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, arms))
    if arms and type(None) in arms:
        return " | ".join("none" if arm is type(None) else type_name(arm) for arm in arms)
    return str(getattr(hint, "__name__", hint))


def benchmarks_table() -> Table:
    """Every benchmark, and what it measures."""
    rows = [[name, bench.description] for name, bench in benches().items()]
    return Table("Benchmarks", ["benchmark", "what"], rows)


def settings_table() -> Table:
    """Every entry of ``settings=measured``, which is the default, and of ``settings=authors``."""
    rows = []
    for model, method, entry in _entries(measured.KIND):
        given = [f"{option}={value}" for option, value in entry.items()
                 if option not in measured.ABOUT]  # fmt: skip
        source = f"{entry['result']} · {entry['images']} · {entry['command']}"
        rows.append([model, method, measured.KIND, ", ".join(given), source])
    for model, method, entry in _entries(authors.KIND):
        given = [f"{option}={value}" for option, value in entry.items()
                 if option not in authors.ABOUT]  # fmt: skip
        lost = [f"{option} unknown" for option in entry.get("unknown", ())]
        rows.append([model, method, authors.KIND, ", ".join(given + lost), entry["source"]])
    heads = ["model", "method", "settings=", "options", "source"]
    note = (
        "measured is the default of asap-eval; the command line wins, settings=none takes neither."
    )
    return Table("Settings", heads, rows, [note])


def _entries(kind: Kind) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model in known_models(kind):
        for method, entry in entries(kind, model).items():
            yield model, method, entry


TABLES: dict[str, Callable[[], Table]] = {
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
    elif args.format == "rich" and sys.stdout.isatty():
        for table in tables:
            print_rich(table, Console())
    else:
        as_text = to_markdown if args.format == "markdown" else to_rich
        sys.stdout.write("\n".join(map(as_text, tables)))
    return 0


def filled(file: Path, name: str, tables: Sequence[Table]) -> str:
    """A file's content with untitled tables in place of what stands between its two markers.

    Raises:
        AsapEvalError: the markers ``<!-- <name> -->`` and ``<!-- /<name> -->`` are not there.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = file.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise AsapEvalError(f"there are no lines {start.strip()} and {end}.")
    text = "\n".join(to_markdown(replace(table, title="")) for table in tables)
    return f"{before}{start}\n{text}\n{end}{after}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "asap-eval-ls",
        description="What there is to run: models, methods, benchmarks, settings per model "
        "(measured here, or of a method's authors), and which of timm's models the hosts run. "
        "Without an argument all lists but the last.",
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
