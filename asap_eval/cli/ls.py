"""``asap-eval ls``: what there is to run, read from the code and the configuration itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from asap_eval.cli import authors, measured, named
from asap_eval.cli.entries import Kind, entries, known_models
from asap_eval.cli.groups import TIMM, choices
from asap_eval.cli.index import Described, described, index
from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.paths import conf_dir
from asap_eval.plugins import load, origin
from asap_eval.registry import METHODS
from asap_eval.report.sheet import DASH, Head, Sheet, sheet_of_text
from asap_eval.report.text import as_text, save, show
from asap_eval.testing.demands import DEMANDS


def models_table() -> Sheet:
    """Every model of ``conf/model``."""
    rows = []
    for name in choices("model"):
        if name != TIMM:
            file = conf_dir() / "model" / f"{name}.yaml"
            spec = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file)))
            where = spec.get("timm") or spec.get("hf") or "this package"
            rows.append([name, spec.get("description") or DASH, where])
    note = "Any other Vision Transformer of timm by its name: model=<timm name>."
    heads = ["model", "what", "architecture and weights (timm, Hugging Face)"]
    return sheet_of_text("Models", heads, rows, notes=[note])


CARD = (
    *("paper", Head("licence", kind="text", wide=True), Head("training", kind="text", wide=True)),
    *("k", Head("needs", kind="text", wide=True), "tokens"),
    Head("deviations", kind="text", wide=True),
)
"""Columns of what a method's card says."""


def methods_table() -> Sheet:
    """Every registered method, with what its card says."""
    return sheet_of_text(
        "Methods", ["method", *CARD], [_method_row(found) for found in index().methods.values()]
    )


def _method_row(found: Described) -> list[str]:
    card = found.said
    knob, meaning = card["knob"], card["knob_meaning"]
    return [
        found.name,
        card["paper"],
        card["licence"],
        card["training"],
        meaning if knob in ("k", None) else f"{knob}: {meaning}",
        ", ".join(card["needs"]) or "nothing",
        "fixed" if card["fixed_count"] else "per image",
        "; ".join(filter(None, (card["deviations"], *_counted(card)))),
    ]


def _counted(card: dict[str, Any]) -> Iterator[str]:
    """Where its MACs are others than those of the products that it runs."""
    if more := card["counts_more"]:
        yield f"its MACs count also {more}"
    if less := card["counts_less"]:
        yield f"its MACs leave out {less}"


def methods_of_others() -> Sheet | None:
    """Methods of plugins and where they come from; None where there are none.

    Those of installed packages are listed without importing them.
    """
    here = _here()
    rows = [[name, _from(origin(METHODS.get(name))), *_method_row(here[name])[1:]] for name in here]
    for name, entry in METHODS.installed.items():
        if name not in here:
            said = {"package": entry.dist.name, "version": entry.dist.version} if entry.dist else {}
            rows.append([name, f"{_from(said)} ({entry.module})", *[DASH] * 7])
    if not rows:
        return None
    return sheet_of_text(
        "Methods of others",
        ["method", "from", *CARD],
        sorted(rows),
        notes=["asap-eval ls methods plugins=<module> imports a package and shows what it says."],
    )


def _here() -> dict[str, Described]:
    """Methods of others that are imported."""
    names = sorted(METHODS.classes.keys() - METHODS.places.keys())
    return {name: described(name, METHODS.get(name)) for name in names}


def _from(origin: Mapping[str, str]) -> str:
    if "file" in origin:
        return f"{origin['file']}, sha256 {origin['sha256'][:12]}"
    return " ".join(origin.values()) or DASH


def options_table() -> Sheet:
    """Every option of every method: ``method.<option>=`` on the command line."""
    rows = _option_rows({**index().methods, **_here()})
    return sheet_of_text("Options", ["method", "option", "type", "default"], rows)


def bench_options_table() -> Sheet:
    """Every option of every benchmark: ``bench.<option>=`` on the command line."""
    rows = _option_rows(index().benches)
    return sheet_of_text("Options of benchmarks", ["benchmark", "option", "type", "default"], rows)


def _option_rows(found: Mapping[str, Described]) -> list[list[str]]:
    return [
        [entry.name, option.name, option.kind, option.default]
        for entry in found.values()
        for option in entry.options
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
    return sheet_of_text(
        "Hosts",
        ["runs", "what it is, or why not", "models"],
        [[*row, ", ".join(found)] for row, found in sorted(rows.items())],
        notes=[
            f"All architectures that timm {timm.__version__} builds with its VisionTransformer."
        ],
    )


def benchmarks_table() -> Sheet:
    """Every benchmark, and what it measures."""
    rows = [[name, bench.said["description"]] for name, bench in index().benches.items()]
    return sheet_of_text("Benchmarks", ["benchmark", "what"], rows)


def settings_table() -> Sheet:
    """Every entry of ``settings=measured``, the default, of ``settings=authors``, and options that
    have a name of their own."""
    rows = []
    for model, method, entry in _entries(measured.KIND):
        source = f"{entry['result']} · {entry['images']} · {entry['command']}"
        rows.append([model, method, measured.KIND, _values(entry, measured.ABOUT), source])
    for model, method, entry in _entries(authors.KIND):
        lost = [f"{option} unknown" for option in entry.get("unknown", ())]
        said = ", ".join([_values(entry, authors.ABOUT), *lost])
        rows.append([model, method, authors.KIND, said, entry["source"]])
    for name, entry in named.entries():
        said = _values(entry["options"], ())
        rows.append(["any", entry["method"], name, said, entry["source"]])
    return sheet_of_text(
        "Settings",
        ["model", "method", "settings=", "options", "source"],
        rows,
        notes=["measured is the default; the command line wins; settings=none takes neither."],
    )


def _entries(kind: Kind) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for model in known_models(kind):
        for method, entry in entries(kind, model).items():
            yield model, method, entry


def _values(entry: Mapping[str, Any], about: Collection[str]) -> str:
    """Options of an entry, without what is said of it."""
    return ", ".join(f"{option}={value}" for option, value in entry.items() if option not in about)


def checks_table() -> Sheet:
    """What is demanded of every method."""
    return sheet_of_text(
        "Checks",
        ["check", "demands that"],
        DEMANDS.items(),
        notes=["asap-eval check method=<name> holds a method to them."],
    )


TABLES: dict[str, Callable[[], Sheet]] = {
    "models": models_table,
    "methods": methods_table,
    "benchmarks": benchmarks_table,
    "settings": settings_table,
    "checks": checks_table,
    "hosts": hosts_table,
}
SLOW = ("hosts",)
"""Lists for which hundreds of models are built: half a minute, where they are asked for."""


What = Literal["models", "methods", "benchmarks", "settings", "checks", "hosts"]
"""Lists by name."""


@dataclass
class Asked:
    """What to list, and how."""

    what: What | None = None  # one list
    plugins: list[str] = field(default_factory=list)  # files or packages of methods, to show too
    options: bool = False  # the options of methods and benchmarks too
    wide: bool = False  # every column, also where they do not fit the terminal
    format: Literal["rich", "markdown"] = "rich"  # rich | markdown
    into: Path | None = None  # a file: write between its <!-- methods --> <!-- /methods --> lines


TEXT = """\
asap-eval ls: what there is to run, read from the code and the configuration itself.

Lists: models, methods, benchmarks, settings per model (measured here, or of methods' authors),
checks that every method is held to, and hosts: which of timm's models run, and why not the others.
Without a name, all lists but the last.
"""


def main(argv: Sequence[str]) -> int:
    """Print the lists, or put one between the markers of a file."""
    return command(argv, Asked, "ls", TEXT, _listed, places=["what"])


def _listed(asked: Asked) -> int:
    if asked.into and not asked.what:
        raise BadValueError("into= needs the name of one list: asap-eval ls methods into=<file>.")
    load(asked.plugins)
    chosen = [asked.what] if asked.what else [name for name in TABLES if name not in SLOW]
    tables = [TABLES[name]() for name in chosen]
    if "methods" in chosen and asked.into is None and (others := methods_of_others()):
        tables.insert(chosen.index("methods") + 1, others)
    if asked.options:
        tables += [options_table(), bench_options_table()]
    if asked.into is not None:
        try:
            save(filled(asked.into, str(asked.what), tables), asked.into)
        except (AsapEvalError, OSError) as error:
            print(f"{asked.into}: {error}", file=sys.stderr)
            return 1
    else:
        show(tables, asked.format, wide=asked.wide)
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
