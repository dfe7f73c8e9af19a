"""What a person sees while a run goes on: messages and a bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

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
    """`say`, once in a process: the rows of a table would all say it."""
    say(message)


def warn(message: str) -> None:
    """A line that should not be missed."""
    say(f"warning: {message}", style="yellow")


@contextmanager
def bar(title: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left; silent where standard error is no terminal.

    Args:
        title: what goes on. total: steps, None = unknown. done: steps already there on entry.

    Yields:
        A function that advances the bar by a number of steps.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda steps: progress.advance(task, steps)
