"""``asap-report html``: one page from a folder of records, in one file that needs no network.

    asap-report html results=results out=report.html
    asap-report html results=results out=report.html maps=keep-maps clustering=times.json

results     folder of records (results)
out         the file (report.html)
maps        folder of PNG files for the gallery
clustering  files of benchmarks/clustering.py, by commas, for the claim on clustering
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from asap_eval.errors import AsapEvalError, BadValueError, RecordError, unknown
from asap_eval.report.page.content import Map, content
from asap_eval.report.page.html import html
from asap_eval.report.paper.claims import read_timing
from asap_eval.report.readable import readable
from asap_eval.report.text import save

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Asked:
    """The keys of the command line."""

    results: str = "results"
    out: str = "report.html"
    maps: str = ""
    clustering: str = ""


def main(argv: Sequence[str]) -> int:
    """Write the page; 2 where the call is wrong, 1 where nothing can be made."""
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0
    try:
        asked = _asked(argv)
        text = _page(asked)
        save(text, Path(asked.out))
    except AsapEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RecordError) else 2
    except OSError as error:
        print(f"{asked.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    print(asked.out)
    return 0


def _asked(argv: Sequence[str]) -> Asked:
    known = [field.name for field in fields(Asked)]
    given = {}
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise BadValueError(f"'{word}': give key=value, with a key of {', '.join(known)}.")
        if key not in known:
            raise unknown("key of asap-report html", key, known)
        given[key] = value
    return Asked(**given)


def _page(asked: Asked) -> str:
    folder = Path(asked.results)
    if not folder.is_dir():
        raise BadValueError(f"No folder {folder}: give the folder that results went to.")
    kept, problems = readable(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not kept:
        raise RecordError(f"No record in {folder}: run asap-eval first.")
    timing = [
        row for name in asked.clustering.split(",") if name for row in read_timing(Path(name))
    ]
    maps = gallery(Path(asked.maps)) if asked.maps else []
    return html(
        content(kept, folder, timing=timing, maps=maps, problems=[str(p) for p in problems])
    )


def gallery(folder: Path) -> list[Map]:
    """The PNG files of a folder, in order of their names.

    Raises:
        BadValueError: there is no such folder, it holds none, or one is something else.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise BadValueError(
            f"maps={folder}: no folder with PNG files; leave it out for no gallery."
        )
    found = [Map(path.stem, path.read_bytes()) for path in paths]
    for path, image in zip(paths, found, strict=True):
        if not image.png.startswith(PNG):
            raise BadValueError(f"{path} is named as a PNG file and is none.")
    return found
