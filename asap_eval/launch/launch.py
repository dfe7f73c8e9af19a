"""``launch=``: which engine starts workers, and the keys that all engines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from asap_eval.errors import BadValueError
from asap_eval.options import checked, options

Keys = TypeVar("Keys")
"""A dataclass of the keys of an engine."""


@dataclass(frozen=True)
class Launch:
    """How a command's jobs are spread over workers; no number depends on it.

    Attributes:
        kind: file of ``conf/launch``. workers: how many, None = one a visible GPU, on a CPU 1.
        piece: samples that a worker takes at once, None = see `Bench.piece`.
        wait: whether the command stays until all is done. locks: ``off`` where the file system of
            the results folder has none. retries: how often a piece is tried again.
        silence: seconds without a word of any worker after which the command gives up.
        engine: keys that the engine alone knows (``launch.partition=``).
    """

    kind: str = "none"
    workers: int | None = None
    piece: int | None = None
    wait: bool = True
    locks: Literal["auto", "off"] = "auto"
    retries: int = 2
    silence: float = 600.0
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spreads(self) -> bool:
        """Whether workers run the jobs, and not the command itself one after the other."""
        return self.kind != "none"

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("piece", 1), ("retries", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise BadValueError(f"launch.{name}={value}: give a number >= {least}.")
        if self.silence <= 0:
            raise BadValueError(f"launch.silence={self.silence:g}: give seconds > 0.")


def own_keys(kind: type[Keys], launch: Launch) -> Keys:
    """The keys ``launch.*`` that an engine alone knows, as its dataclass of them.

    Raises:
        AsapEvalError: a value of the wrong type, or that it refuses.
    """
    given = {
        name: checked(f"launch.{name}", launch.engine[name], hint)
        for name, hint, _ in options(kind)
        if name in launch.engine
    }
    return kind(**given)


def needs_locks(bench: str, why: str) -> BadValueError:
    """What to say where a benchmark writes files of its own and there are no locks."""
    return BadValueError(
        f"{why} with bench={bench}: two workers could write the same file. Use launch=none, or a "
        "results folder whose file system has locks."
    )


def launch_of(config: Mapping[str, Any]) -> Launch:
    """The group ``launch`` of a composed configuration.

    Raises:
        AsapEvalError: a value of the wrong type.
    """
    hints = {name: hint for name, hint, _ in options(Launch)}
    own = {f.name for f in fields(Launch)} - {"engine"}
    shared = {k: checked(f"launch.{k}", v, hints[k]) for k, v in config.items() if k in own}
    return Launch(**shared, engine={k: v for k, v in config.items() if k not in own})
