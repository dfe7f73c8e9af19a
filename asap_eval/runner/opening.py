"""What every way to run a job does as it opens it: in one process, by workers, and in a worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asap_eval.data.decoded import PictureCache
from asap_eval.errors import unknown
from asap_eval.paths import cache_folder
from asap_eval.runner.inputs import check_folder
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import say_once

CACHES = ("auto", "off")
"""What can be done with decoded pictures."""


def check_places(cache: str, results: Path) -> None:
    """Look at ``cache=`` and ``results=`` before anything is opened.

    Raises:
        AsapEvalError: there is no such value, or no record can be written there.
    """
    if cache not in CACHES:
        raise unknown("value of cache", cache, CACHES)
    check_folder("results", results)


def say_samples(ready: Prepared) -> None:
    """Say what is evaluated where nobody chose it, and what is known of it; once a command."""
    if ready.data_said is not None:
        count = len(ready.samples)
        say_once(f"{ready.data_said}: {count} images are evaluated. Your own: data=<folder>.")
    for note in ready.bench.notes(ready.samples):
        say_once(f"note: {note}")


def keeping_pictures(ready: Prepared, cache: str) -> Prepared:
    """The job with samples that keep decoded pictures in the user's cache, where ``cache`` is
    ``auto``."""
    if cache != "auto":
        return ready
    pictures = PictureCache(cache_folder() / "pictures", say_once)
    return replace(ready, samples=ready.bench.keeping(ready.samples, pictures))
