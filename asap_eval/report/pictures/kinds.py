"""Every kind of picture, and the files of those that a folder of records allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.errors import RecordError
from asap_eval.files.placed import placed
from asap_eval.record import read_records
from asap_eval.report.pictures.chain import CHAIN
from asap_eval.report.pictures.curves import CURVES_OF_WORK
from asap_eval.report.pictures.emergence import EMERGENCE
from asap_eval.report.pictures.figure import Figure, Found, Picture
from asap_eval.report.pictures.foreground import FOREGROUND
from asap_eval.report.pictures.keepmaps import KEEP_MAPS
from asap_eval.report.pictures.knobs import ALPHA, HEAT_MAP
from asap_eval.report.pictures.published import PUBLISHED
from asap_eval.report.pictures.tokens import TOKENS
from asap_eval.report.pictures.trade import MACS, SPEED
from asap_eval.report.readable import FOREIGN

PICTURES: tuple[Picture, ...] = (
    PUBLISHED,
    MACS,
    CURVES_OF_WORK,
    SPEED,
    TOKENS,
    HEAT_MAP,
    ALPHA,
    EMERGENCE,
    CHAIN,
    FOREGROUND,
    KEEP_MAPS,
)
"""Every kind, in the order of a report."""

DRAWN = {"keepmaps": KEEP_MAPS.draw}
"""What a run of a benchmark draws at its end, without being asked for a report."""


@dataclass(frozen=True)
class Drawn:
    """What `pictures` did.

    Attributes:
        paths: files written. missing: a line for each kind of picture that lacked its records.
        problems: a line for each file that is no whole record, and each kind of picture that could
            not be drawn because a record or a file beside it is broken.
    """

    paths: list[Path]
    missing: list[str]
    problems: list[str]


def figures(records: Sequence[Found]) -> list[Figure]:
    """Every picture that these records allow, in a fixed order; the same records, the same bytes.

    Args:
        records: as `read_records` gives them: a picture may need what lies beside a record.

    Raises:
        RecordError: a file beside a record cannot be read.
    """
    return [figure for kind in PICTURES for figure in kind.draw(records)]


def drawn(records: Sequence[Found]) -> tuple[dict[Picture, list[Figure]], list[str]]:
    """Figures by kind, and why a kind of them could not be drawn: the others are worth having."""
    made: dict[Picture, list[Figure]] = {}
    problems: list[str] = []
    for kind in PICTURES:
        try:
            made[kind] = kind.draw(records)
        except RecordError as error:
            problems.append(f"pictures {kind.name}: {error}")
        except FOREIGN as error:
            problems.append(f"pictures {kind.name}: {type(error).__name__}: {error}")
    return made, problems


def write(figure: Figure, folder: Path) -> list[Path]:
    """Put a figure into a folder in both formats; returns the files."""
    paths = []
    for ending, content in (("svg", figure.svg), ("png", figure.png)):
        paths.append(folder / f"{figure.name}.{ending}")
        with placed(paths[-1]) as part:
            part.write_bytes(content)
    return paths


def pictures(results: Path, out: Path) -> Drawn:
    """Write every picture of a folder of records as ``<name>.svg`` and ``<name>.png``.

    Raises:
        RecordError: there is no record, or none that allows a picture; says what is needed.
    """
    records, problems = read_records(results)
    if not records:
        raise RecordError(f"No record in {results}: run asap-eval first.")
    made, undrawn = drawn(records)
    missing = [f"{kind.name}: needs {kind.needs}" for kind, found in made.items() if not found]
    if len(missing) == len(made):
        why = "; ".join([*undrawn, *missing])
        raise RecordError(f"No picture can be made of {results}. {why}.")
    paths = [path for found in made.values() for figure in found for path in write(figure, out)]
    return Drawn(paths, missing, [*map(str, problems), *undrawn])
