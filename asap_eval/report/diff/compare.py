"""What moved from one folder of results to another, as tables.

Records are matched by their job, whatever version of the code ran it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asap_eval.errors import RecordError
from asap_eval.record.journal import Journal
from asap_eval.report.diff.match import Kept, Pairs, label, pairs
from asap_eval.report.diff.numbers import BEYOND, EQUAL, UNKNOWN, WITHIN, Move, Samples, moves
from asap_eval.report.layouts.columns import number
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text
from asap_eval.statistics import P

WORDS = ("job", "number", "verdict")
NUMBERS = ("A", "B", "B − A [95 %]", "McNemar p", "rests on")


@dataclass(frozen=True)
class Difference:
    """Two folders compared.

    Attributes:
        pairs: which jobs they share. moved: label of a job and a number of it, in order.
        ended: jobs that are done in one folder alone, and how they ended in the other.
        same: jobs of which no number moved. undone: jobs that are done in neither.
        problems: per-sample files that are broken; their jobs were compared without.
    """

    pairs: Pairs
    moved: list[tuple[str, Move]]
    ended: list[tuple[str, str, str]]
    same: int
    undone: int
    problems: list[RecordError]

    @property
    def worse(self) -> bool:
        """Whether a number moved beyond noise, or a job that was done is no longer."""
        lost = any(before == "done" for _, before, _ in self.ended)
        return lost or any(move.verdict == BEYOND for _, move in self.moved)


def compare(a: Sequence[Kept], b: Sequence[Kept]) -> Difference:
    """Compare the records of two folders."""
    found = pairs(a, b)
    moved: list[tuple[str, Move]] = []
    ended: list[tuple[str, str, str]] = []
    problems: list[RecordError] = []
    same = undone = 0
    for left, right in found.both:
        before, after = left[1], right[1]
        if before.status != after.status:
            ended.append((label(before), before.status, after.status))
        elif before.status == "done":
            changes = moves(before, after, *(_samples(one, problems) for one in (left, right)))
            moved += [(label(before), change) for change in changes]
            same += not changes
        else:
            undone += 1
    return Difference(found, moved, ended, same, undone, problems)


def sheets(difference: Difference, a: str, b: str) -> list[Sheet]:
    """What moved, and which jobs only one of the folders has."""
    count = Counter(move.verdict for _, move in difference.moved)
    both = difference.pairs.both
    undone = f"; {difference.undone} are done in neither" if difference.undone else ""
    notes = [
        f"{len(both)} jobs in both folders; in {difference.same} of them no number moved by more "
        f"than {EQUAL:g} of itself{undone}",
        ", ".join(f"{count[verdict]} {verdict}" for verdict in (BEYOND, WITHIN, UNKNOWN)),
        f"{BEYOND}: McNemar's exact p below {P:g} where samples are right or wrong, elsewhere an "
        "interval of B − A without 0; of many numbers one in twenty may be so by chance",
    ]
    if difference.pairs.older:
        notes.append(f"{difference.pairs.older} earlier records of a job with a later one left out")
    rows = [_row(name, move) for name, move in difference.moved]
    found = [
        sheet_of_text(
            f"A = {a} · B = {b} · what moved",
            WORDS if rows else ["nothing moved"],
            rows,
            numbers=NUMBERS if rows else (),
            notes=notes,
        )
    ]
    if difference.ended:
        rows = [[name, before, after] for name, before, after in difference.ended]
        found.append(sheet_of_text("jobs that ended otherwise", ["job", "A", "B"], rows))
    for side, folder, only in (
        ("A", a, difference.pairs.only_a),
        ("B", b, difference.pairs.only_b),
    ):
        if only:
            rows = [[label(record), record.status, path.name] for path, record in only]
            found.append(
                sheet_of_text(f"only in {side} = {folder}", ["job", "status", "file"], rows)
            )
    return found


def _row(name: str, move: Move) -> list[str]:
    change = f"{move.after - move.before:+.4g}"
    if move.low is not None:
        change += f" [{move.low:+.4g}, {move.high:+.4g}]"
    p = DASH if move.p is None else "<0.001" if move.p < 0.001 else number(move.p, "{:.3f}")
    numbers = [f"{move.before:.6g}", f"{move.after:.6g}", change, p, move.basis]
    return [name, move.name, move.verdict, *numbers]


def _samples(kept: Kept, problems: list[RecordError]) -> Samples | None:
    """Samples by id; None where they were not kept (records are often copied without them), or are
    broken, which is added to the problems."""
    path, record = kept
    beside = path.parent / record.samples if record.samples else None
    if beside is None or not beside.is_file():
        return None
    try:
        return {str(row["id"]): row for row in Journal(beside).read()}
    except RecordError as error:
        problems.append(error)
        return None
