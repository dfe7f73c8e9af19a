"""Methods and benchmarks by name: names are known at once, a class is imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from asap_eval.errors import AsapEvalError, unknown


class Registry:
    """Classes of one kind by name.

    Attributes:
        kind: what they are, for errors. classes: those imported so far. places: the modules that
            register them.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type[Any]] = {}
        self.places: dict[str, str] = {}

    def offer(self, places: Mapping[str, str]) -> None:
        """Names, and the module that registers each when it is imported."""
        self.places.update(places)

    def add(self, name: str, cls: type[Any]) -> None:
        """A class that is there now.

        Raises:
            AsapEvalError: another one has its name.
        """
        if name in self.classes or self.places.get(name, cls.__module__) != cls.__module__:
            raise AsapEvalError(f"Two {self.kind}s are called '{name}'.")
        self.classes[name] = cls

    def names(self) -> list[str]:
        """All names, in order."""
        return sorted({*self.places, *self.classes})

    def get(self, name: str) -> type[Any]:
        """The class of a name; near names are suggested where there is none."""
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        if name not in self.classes:
            importlib.import_module(self.places[name])
        return self.classes[name]

    def all(self) -> dict[str, type[Any]]:
        """All classes by name."""
        return {name: self.get(name) for name in self.names()}


METHODS, BENCHES = Registry("method"), Registry("benchmark")
