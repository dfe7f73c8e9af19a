"""Imports point down only and never in a circle, and everything imported is declared."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from project import ROOT, read_toml

PACKAGE = ROOT / "asap_eval"

LAYERS = [
    {"errors"},
    {"paths"},
    {"files"},
    {"hub", "kernels", "registry"},
    {"token_map", "transfer", "plugins"},
    {
        "checkpoint",
        "tokens",
        "trace",
        "packing",
        "options",
        "statistics",
    },
    {"method"},
    {"scorer"},
    {"methods", "hosts"},
    {"record"},
    {"paper"},
    {"experiment"},
    {"models"},
    {""},  # asap_eval/__init__.py: the Python API
    {"data", "work"},
    {"timing"},
    {"bench", "testing"},
    {"runner"},
    {"launch"},
    {"audit"},
    {"report", "train"},
    {"cli"},
    {"__main__"},
]
"""Lowest first; a module imports from lower layers only, or from its own package."""

ONLY = {
    "kernels": {"errors", "paths", "files"},
    "hosts": {"errors", "tokens", "trace", "packing", "transfer", "method", "kernels", "token_map"},
    "data": {"errors", "files", "hub", "models", "paths", "transfer"},
    "paper": {"errors"},
    "audit": {"errors", "paper", "work", "hosts", "models"},
    "report": {
        *("errors", "paths", "files", "record", "method", "options", "experiment", "bench"),
        *("paper", "audit", "data", "statistics"),
    },
}
"""Modules that may use less than all that lies below them."""

MODULES = sorted(PACKAGE.rglob("*.py"))
WITH_TORCH = {"triton"}
"""What torch's builds for GPUs bring along; looked for before it is imported."""
OWNERS = packages_distributions()
"""Distributions that provide each importable name."""
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}


def unit_of(path: Path) -> str:
    """The file or folder directly under asap_eval that a module belongs to; "" for __init__."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py").removesuffix("__init__")


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Full names of everything a module imports; ``lazy`` includes imports inside functions."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else _at_import(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: no function bodies, no TYPE_CHECKING blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_import(child)


def targets(path: Path) -> set[str]:
    """The units of asap_eval that a module imports, its own left out."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "asap_eval":
            second = parts[1] if len(parts) > 1 else ""
            found.add(second if second in RANK else "")
    return found - {unit_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    unit = unit_of(path)
    assert unit in RANK, f"give {unit} a place in LAYERS"
    for target in targets(path):
        assert RANK[target] < RANK[unit], f"{unit} imports {target or 'asap_eval'}: upward"
        assert target in ONLY.get(unit, RANK), f"{unit} must not import {target or 'asap_eval'}"


def test_no_imports_run_in_circles() -> None:
    """Imports under TYPE_CHECKING and inside functions count, too: a circle is a design fault."""
    names = {module_name(path): path for path in MODULES}
    left = {
        name: {t for i in imports(path) if (t := owner_of(i, names))}
        for name, path in names.items()
    }
    while free := [name for name, wanted in left.items() if not (wanted - {name}) & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"in or above a circle: {sorted(left)}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def owner_of(name: str, known: Collection[str]) -> str | None:
    """The module that an imported name is, or is in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def test_every_layer_exists() -> None:
    """A name that was moved or removed must not linger in the list of layers."""
    assert set(RANK) <= {unit_of(path) for path in MODULES}


def declared(extras: set[str]) -> set[str]:
    """Distributions that pyproject.toml requires, with the given extras."""
    project = read_toml(ROOT / "pyproject.toml")["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path) -> None:
    """Core dependencies at the top of a module; extras only inside the functions that need them."""
    for lazy, extras in ((False, set[str]()), (True, {"data", "launch", "ray", "video", "vlm"})):
        for name in imports(path, lazy=lazy):
            top = name.split(".")[0]
            if top in {"asap_eval", *WITH_TORCH, *sys.stdlib_module_names}:
                continue
            given = {_normal(owner) for owner in OWNERS.get(top, [top])}
            assert given & declared(extras), f"{name} is not a declared dependency"


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """A file that moved takes what is written of it along; `<name>` stands for any."""
    for found in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|c|h|csv))`", page.read_text()):
        assert (ROOT / found).exists() or (PACKAGE / found).exists(), f"{page.name}: {found}"


SCRIPTS = [
    path for room in ("benchmarks", "examples", "docs") for path in (ROOT / room).glob("*.py")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_there(script: Path) -> None:
    """Nothing else runs most of them, and the types of a move do not reach them."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asap_eval"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                there = hasattr(module, name.name) or importlib.util.find_spec(whole)
                assert there, f"{script.name} imports {whole}, which is not there"
