"""``asap-eval report html``: records as one page, in one file that needs no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError, BadValueError, RecordError
from asap_eval.report.page.content import Map, content
from asap_eval.report.page.html import html
from asap_eval.report.paper.claims import read_timing
from asap_eval.report.readable import readable
from asap_eval.report.text import save

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Asked:
    """What the page is made of."""

    results: Path = Path("results")  # folder of records
    out: Path = Path("report.html")  # the file
    maps: Path | None = None  # folder of PNG files for the gallery
    clustering: list[Path] = field(default_factory=list)  # of benchmarks/clustering.py, for a claim


def main(argv: Sequence[str]) -> int:
    """Write the page; 2 where the call is wrong, 1 where nothing can be made."""
    return command(argv, Asked, "report html", str(__doc__), _written)


def _written(asked: Asked) -> None:
    text = _page(asked)
    try:
        save(text, asked.out)
    except OSError as error:
        raise AsapEvalError(f"{asked.out} cannot be written: {error.strerror}.") from error
    print(asked.out)


def _page(asked: Asked) -> str:
    folder = asked.results
    if not folder.is_dir():
        raise BadValueError(f"No folder {folder}: give the folder that results went to.")
    kept, problems = readable(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not kept:
        raise RecordError(f"No record in {folder}: run asap-eval first.")
    timing = [row for path in asked.clustering for row in read_timing(path)]
    maps = gallery(asked.maps) if asked.maps else []
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
