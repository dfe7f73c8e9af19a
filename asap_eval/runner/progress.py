"""What a person sees while a run goes on: messages, and a bar or lines, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EVERY = 30.0
"""Seconds between two lines of progress."""


class _Rate(ProgressColumn):
    """Samples per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def say(message: str, style: str | None = None) -> None:
    """One line for the person who waits; results go to standard output, not here."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(message, style=style, markup=False)


@cache
def say_once(message: str) -> None:
    """`say`, once a command or process: the rows of a table would all say it."""
    say(message)


def warn(message: str) -> None:
    """A line that should not be missed."""
    say(f"warning: {message}", style="yellow")


class Lines:
    """Progress where standard error is no terminal: a line every `EVERY` seconds of work.

    Work that ends sooner prints nothing; a last line says the end only where others came before.
    Every line is of one piece of work, so that work within work is told apart by its title.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        done: int = 0,
        *,
        clock: Callable[[], float],
        write: Callable[[str], None] = say,
    ) -> None:
        """As `bar`.

        Args:
            clock: seconds. write: takes a line.
        """
        self._title, self._total = title, total
        self._done = self._before = done
        self._clock, self._write = clock, write
        self._started = clock()
        self._next = self._started + EVERY
        self._printed: int | None = None

    def advance(self, steps: int) -> None:
        """Some steps are done."""
        self._done += steps
        now = self._clock()
        if now >= self._next:
            self._print(now)
            self._next = now + EVERY

    def end(self) -> None:
        """The work is over, whole or not."""
        if self._printed not in (None, self._done):
            self._print(self._clock())

    def _print(self, now: float) -> None:
        self._printed = self._done
        rate = (self._done - self._before) / (now - self._started)
        parts = [f"{self._done}" if self._total is None else f"{self._done}/{self._total}"]
        parts.append(f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each")
        if self._total is not None and rate and self._done < self._total:
            left = timedelta(seconds=round((self._total - self._done) / rate))
            parts.append(f"{left} left")
        self._write(f"{self._title}: {', '.join(parts)}")


@contextmanager
def bar(title: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left; lines where standard error is no terminal.

    Args:
        title: what goes on. total: steps, None = unknown. done: steps already there on entry.

    Yields:
        A function that advances the bar by a number of steps.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines(title, total, done, clock=monotonic)
        try:
            yield lines.advance
        finally:
            lines.end()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda steps: progress.advance(task, steps)
