"""Which source files can change the numbers of a job: what its code imports, no more."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from asap_eval.bench.bench import bench_class
from asap_eval.method import method_class
from asap_eval.plugins import MAIN, Own, own_of
from asap_eval.record import Job

PACKAGE = "asap_eval"
STORAGE = frozenset({"errors", "files", "hub", "paths", "plugins", "record", "registry"})
"""Rooms that only name, store or refuse numbers: a change there leaves old records valid."""

COMPILED = (".c", ".h")
"""Endings of code that is compiled on the machine that runs it."""


def entry_modules(job: Job) -> list[str]:
    """Modules from which all code is imported that can change the numbers of a job.

    Raises:
        AsapEvalError: the method's module has no file, so that its sources cannot be known.
    """
    modules = [
        method_class(job.method).__module__,
        "asap_eval.hosts",
        "asap_eval.models",
        bench_class(job.bench).__module__,
    ]
    return [*modules, "asap_eval.runner.calibration"] if job.budget is not None else modules


def sources_digest(modules: Iterable[str]) -> str:
    """sha256 over these modules, all that they import from this package, and the C beside them.

    Of a method of others it follows what is the author's own, too (`asap_eval.plugins.Own`).

    The commit is left out on purpose: a new method or a changed report does not make old numbers
    wrong. Line endings do not count.
    """
    digest = hashlib.sha256()
    found = _closure(modules)
    compiled = {f"{path.parent.name}/{path.name}": path for path in _compiled(found.values())}
    for name, path in sorted({**found, **compiled}.items()):
        digest.update(f"{name}\n".encode())
        digest.update(_content(path))
    return digest.hexdigest()


def _closure(modules: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = list(modules)
    own = [own_of(name) for name in waiting if not _is_ours(name)]
    while waiting:
        name = waiting.pop()
        if name in found or _stores(name):
            continue
        path = _file_of(name)
        if path is not None and (_is_ours(name) or any(one.holds(name, path) for one in own)):
            found[name] = path
            waiting.extend(_imports(name, path, own))
    return found


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == PACKAGE


def _stores(name: str) -> bool:
    return _is_ours(name) and name.partition(".")[2].partition(".")[0] in STORAGE


def _file_of(name: str) -> Path | None:
    """The file of a module; None where the name is none of a module with a file."""
    if name == MAIN:
        return Path(sys.modules[MAIN].__file__ or "")
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None  # a function or class of a module, not a module itself
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _compiled(modules: Iterable[Path]) -> set[Path]:
    """What the modules compile and run: all C files in their folders."""
    folders = {path.parent for path in modules}
    return {path for folder in folders for path in folder.iterdir() if path.suffix in COMPILED}


@cache
def _content(path: Path) -> bytes:
    """Read once: a file edited later is not the code that this process runs."""
    return path.read_bytes().replace(b"\r\n", b"\n")


def _imports(name: str, path: Path, own: Collection[Own]) -> set[str]:
    """What a module imports of this package, or of others' where ``own`` could hold it; a name may
    turn out not to be a module."""
    names = _named(name, path)
    ours = {n for n in names if _is_ours(n) and n != PACKAGE}
    if _is_ours(name):
        return ours
    # Importing a module runs the packages around it.
    others = {n for n in (*names, name) if not _is_ours(n) and any(one.may_hold(n) for one in own)}
    return ours | others | {n[:at] for n in others for at in range(len(n)) if n[at] == "."}


@cache
def _named(name: str, path: Path) -> frozenset[str]:
    """All that a module imports, by name; parsed once for the rows of a table."""
    if path.suffix != ".py":
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(ast.parse(_content(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _absolute(node, name, path)):
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _absolute(node: ast.ImportFrom, name: str, path: Path) -> str:
    """The module that ``from ... import`` names; "" where it is none."""
    if node.level == 0:
        return node.module or ""
    around = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    kept = around[: len(around) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])
