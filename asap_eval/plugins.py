"""Methods of others: a file or a package that registers them, and where a method comes from."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from asap_eval.errors import AsapEvalError, BadValueError, first_line
from asap_eval.files.digests import file_sha256
from asap_eval.registry import METHODS, PACKAGE

MAIN = "__main__"
"""The module that a script is while it runs."""


@dataclass(frozen=True)
class Own:
    """What belongs to the author of a method, and not to the libraries it stands on.

    Attributes:
        tops: importable names: its module or package, and what was installed together with it.
        folder: of a file that was not installed: what lies there is the author's as well.
    """

    tops: frozenset[str]
    folder: Path | None

    def may_hold(self, module: str) -> bool:
        """Whether a name is worth looking at."""
        return self.folder is not None or module.partition(".")[0] in self.tops

    def holds(self, module: str, file: Path) -> bool:
        """Whether a module is the author's."""
        beside = self.folder is not None and file.resolve().is_relative_to(self.folder)
        return beside or module.partition(".")[0] in self.tops


@cache
def own_of(module: str) -> Own:
    """What belongs to the author of a module that is imported.

    Raises:
        AsapEvalError: the module has no file.
    """
    top = module.partition(".")[0]
    if found := set(_packages().get(top, ())):
        together = (name for name, packages in _packages().items() if found & set(packages))
        return Own(frozenset(together), None)
    file = _file(module)
    return Own(frozenset({top}), file.parent if "." not in module else None)


def origin(cls: type[Any]) -> dict[str, str]:
    """What a record says of a method of others: package and version, or file and sha256.

    {} = a method of ours.

    Raises:
        AsapEvalError: its module has no file.
    """
    if _ours(cls.__module__):
        return {}
    if packages := _packages().get(cls.__module__.partition(".")[0]):
        return {"package": packages[0], "version": version(packages[0])}
    file = _file(cls.__module__)
    return {"file": file.name, "sha256": file_sha256(file)}


def raised_in(error: BaseException) -> str | None:
    """One line for an error that a method of others raised: file and line of its author's code.

    None = none of that code was running. An error deep in a library is its author's innermost
    line: the library only says what it was given.
    """
    own, found = [], None
    for module in {cls.__module__ for cls in METHODS.classes.values()}:
        if not _ours(module):
            with contextlib.suppress(AsapEvalError):  # typed into a prompt: there is no line
                own.append(own_of(module))
    for frame, line in traceback.walk_tb(error.__traceback__):
        module, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        if not _library(module, own) and any(one.holds(module, Path(file)) for one in own):
            found = f"{file}, line {line}"
    return found and f"{found}: {first_line(error)}."


def _library(module: str, own: Iterable[Own]) -> bool:
    """Whether code that may lie in an author's folder, as an environment does, is another's."""
    top = module.partition(".")[0]
    return _ours(module) or (top in _packages() and not any(top in one.tops for one in own))


def _ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def load(plugins: str | Path | Iterable[str | Path]) -> list[str]:
    """Import files or packages that register methods; afterwards they are known by name.

    Args:
        plugins: a ``.py`` file, a folder with ``__init__.py``, or the name of an importable module;
            or several of them.

    Returns:
        The names of their methods.

    Raises:
        BadValueError: one is not there, cannot be imported, or registers no method, or a method has
            the name of another.
    """
    each = [plugins] if isinstance(plugins, (str, Path)) else plugins
    return sorted({name for plugin in each for name in _loaded(str(plugin))})


def _loaded(plugin: str) -> set[str]:
    path = Path(plugin).expanduser()
    module = _placed(path) if path.suffix == ".py" or path.is_dir() else plugin
    if _spec(module) is None:
        raise BadValueError(
            f"plugins={plugin}: there is no such file and no module of that name. Give a .py file "
            "or the name of an installed package."
        )
    before = set(METHODS.classes)
    METHODS.bring(module, f"plugins={plugin}")
    own = own_of(module)
    found = {
        name
        for name, cls in METHODS.classes.items()
        if not _ours(cls.__module__)
        and (name not in before or own.holds(cls.__module__, _file(cls.__module__)))
    }
    if not found:
        raise BadValueError(
            f"plugins={plugin} registers no method: a class decorated with "
            "@asap_eval.method.register does (docs/plugins.md)."
        )
    return found


def _placed(path: Path) -> str:
    """The module that a file or folder is, importable from now on like a script's neighbours.

    Raises:
        BadValueError: it is not there, or Python has another module of its name.
    """
    path = path.absolute()
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise BadValueError(f"plugins={path}: there is no such file{_folder(path)}.")
    if "." in path.stem:
        raise BadValueError(f"plugins={path}: a module's name has no dots: rename the file.")
    # Last: a file of the author's must not stand in for a library of the same name.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        importlib.invalidate_caches()
    spec = _spec(path.stem)
    if spec is None or spec.origin is None or not Path(spec.origin).samefile(file):
        other = spec.origin if spec is not None else "nothing"
        raise BadValueError(
            f"plugins={path}: '{path.stem}' is {other} to Python already: rename the file."
        )
    return path.stem


def _folder(path: Path) -> str:
    return " (a folder needs __init__.py)" if path.is_dir() else ""


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _file(module: str) -> Path:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        raise AsapEvalError(
            f"The module '{module}' of a method has no file: what its numbers come from cannot be "
            "recorded. Save the method in a .py file and give plugins=<file>."
        )
    return Path(file).resolve()


@cache
def _packages() -> dict[str, list[str]]:
    """Installed packages by what they let import; takes a tenth of a second."""
    return dict(packages_distributions())
