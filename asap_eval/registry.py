"""Methods and benchmarks by name: names are known at once, a class is imported when asked for."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from asap_eval.errors import AsapEvalError, BadValueError, first_line, unknown

PACKAGE = __name__.partition(".")[0]


class Registry:
    """Classes of one kind by name.

    Attributes:
        kind: what they are, for errors. group: entry points of installed packages that bring more,
            each with the name of a class and the module that registers it.
        classes: those imported so far. places: the modules that register ours.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind, self.group = kind, group
        self.classes: dict[str, type[Any]] = {}
        self.places: dict[str, str] = {}

    def offer(self, places: Mapping[str, str]) -> None:
        """Names of ours, and the module that registers each when it is imported."""
        self.places.update(places)

    @cached_property
    def installed(self) -> dict[str, EntryPoint]:
        """What installed packages bring; none of it is imported here.

        Raises:
            BadValueError: two of them, or one and one of ours, have the same name.
        """
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group) if self.group else ():
            for earlier in (self.places.get(entry.name), found.get(entry.name)):
                if earlier is not None:
                    raise self._clash(entry.name, _said(earlier), _said(entry))
            found[entry.name] = entry
        return found

    def add(self, name: str, cls: type[Any]) -> None:
        """A class that is there now.

        Raises:
            BadValueError: another one has its name.
        """
        module = cls.__module__
        if name in self.classes:
            raise self._clash(name, _said(self.classes[name].__module__), _said(module))
        if self.places.get(name, module) != module:
            raise self._clash(name, _said(self.places[name]), _said(module))
        # Those of ours do without a look at what is installed: whoever asks for names takes it.
        entry = None if _top(module) == PACKAGE else self.installed.get(name)
        if entry is not None and _top(entry.module) != _top(module):
            raise self._clash(name, _said(entry), _said(module))
        self.classes[name] = cls

    def _clash(self, name: str, one: str, other: str) -> BadValueError:
        return BadValueError(
            f"Two {self.kind}s are called '{name}', of {one} and of {other}: "
            "rename one, or leave one out."
        )

    def names(self) -> list[str]:
        """All names, in order."""
        return sorted({*self.places, *self.installed, *self.classes})

    def at_hand(self) -> list[str]:
        """All names but those for which a package of others would have to be imported."""
        return sorted({*self.places, *self.classes})

    def get(self, name: str) -> type[Any]:
        """The class of a name; near names are suggested where there is none.

        Raises:
            BadValueError: the package that brings it cannot be imported, or does not register it.
        """
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        if name in self.classes:
            return self.classes[name]
        if name in self.places:
            importlib.import_module(self.places[name])
            return self.classes[name]
        entry = self.installed[name]
        self.bring(entry.module, _said(entry))
        if name not in self.classes:
            raise BadValueError(
                f"{_said(entry)} promises a {self.kind} '{name}', but {entry.module} registers "
                "none of that name."
            )
        return self.classes[name]

    def bring(self, module: str, what: str) -> ModuleType:
        """Import a module of others.

        Args:
            what: what it is, for errors.

        Raises:
            BadValueError: it cannot be imported; with its own error, file and line.
        """
        try:
            return importlib.import_module(module)
        except (Exception, SystemExit) as error:
            # What was registered before the error goes with its module.
            loaded = {n: c for n, c in self.classes.items() if c.__module__ in sys.modules}
            self.classes = loaded
            if isinstance(error, AsapEvalError):
                raise
            where = _where(error)
            raise BadValueError(
                f"{what} cannot be imported: {first_line(error)}{where}."
            ) from error

    def all(self) -> dict[str, type[Any]]:
        """All classes by name, of what installed packages bring those that were asked for."""
        return {name: self.get(name) for name in self.at_hand()}


def _top(module: str) -> str:
    return module.partition(".")[0]


def _said(origin: str | EntryPoint) -> str:
    """Where something comes from, in words: a module's file, or an installed package."""
    if isinstance(origin, EntryPoint):
        owner = f"{origin.dist.name} {origin.dist.version}" if origin.dist else origin.value
        return f"the package {owner}"
    if _top(origin) == PACKAGE:
        return f"asap-eval itself ({origin})"
    return str(getattr(sys.modules.get(origin), "__file__", None) or origin)


def _where(error: BaseException) -> str:
    """File and line where an import stopped, as far as they are not in its message."""
    if isinstance(error, SyntaxError):
        return ""  # its message has them
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and not Path(frame.filename).is_relative_to(Path(importlib.__file__).parent)
        and not Path(frame.filename).is_relative_to(Path(__file__).parent)
    ]
    # The innermost line of the author's own, not that of a library it calls.
    own = [f for f in frames if Path(f.filename).is_relative_to(Path(frames[0].filename).parent)]
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in own[-1:])


METHODS = Registry("method", "asap_eval.methods")
BENCHES = Registry("benchmark")
