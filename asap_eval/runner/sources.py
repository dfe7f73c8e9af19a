"""Which source files can change the numbers of a job: what its code imports, no more."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from asap_eval.bench.bench import bench_class
from asap_eval.method import method_class
from asap_eval.record import Job

PACKAGE = "asap_eval"
STORAGE = frozenset({"errors", "files", "hub", "paths", "record", "registry"})
"""Rooms that only name, store or refuse numbers: a change there leaves old records valid."""

COMPILED = (".c", ".h")
"""Endings of code that is compiled on the machine that runs it."""


def entry_modules(job: Job) -> list[str]:
    """Modules from which all code is imported that can change the numbers of a job."""
    modules = [
        method_class(job.method).__module__,
        "asap_eval.hosts",
        "asap_eval.models",
        bench_class(job.bench).__module__,
    ]
    return [*modules, "asap_eval.runner.calibration"] if job.budget is not None else modules


def sources_digest(modules: Iterable[str]) -> str:
    """sha256 over these modules, all that they import from this package, and the C beside them.

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
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[2].partition(".")[0] in STORAGE:
            continue
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue  # a function or class of a module, not a module itself
        if spec is not None and spec.origin is not None:
            found[name] = Path(spec.origin)
            waiting.extend(_imports(found[name]))
    return found


def _compiled(modules: Iterable[Path]) -> set[Path]:
    """What the modules compile and run: all C files in their folders."""
    folders = {path.parent for path in modules}
    return {path for folder in folders for path in folder.iterdir() if path.suffix in COMPILED}


@cache
def _content(path: Path) -> bytes:
    """Read once: a file edited later is not the code that this process runs."""
    return path.read_bytes().replace(b"\r\n", b"\n")


@cache
def _imports(path: Path) -> frozenset[str]:
    """Names in this package that a file imports; a name may turn out not to be a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_content(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(n for n in names if n.split(".")[0] == PACKAGE and n != PACKAGE)
