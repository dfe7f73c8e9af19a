"""Sheet of what the audit found: figures of the paper that do not recompute, or contradict."""

from __future__ import annotations

from asap_eval.audit import Check, Finding
from asap_eval.paper import COLUMNS
from asap_eval.report.sheet import THIS, Cell, Head, Line, Sheet

HEADS = (
    Head("row", kind="text"),
    Head("column", kind="text"),
    Head("published", kind="text"),
    Head("recomputed", kind="text"),
    Head("how", kind="text"),
    Head("finding", kind="verdict"),
)


def audit_sheet(checks: list[Check]) -> Sheet:
    """Every finding by table, in the order of the rules; what each rule looked at stands below."""
    findings = [finding for check in checks for finding in check.findings]
    places = list(dict.fromkeys(sorted((f.table for f in findings), key=_order)))
    lines = [_line(f) for place in places for f in findings if f.table == place]
    return Sheet(
        name="audit",
        title=f"What of the paper does not recompute, or contradicts itself: {len(lines)} findings",
        caption=(
            "last digit: the rounding of the printed cells can explain it; does not recompute: it "
            "cannot; contradicts: another figure of the paper says otherwise; printed again: the "
            "figure of another row, for what must have one of its own; outside fact: a cited "
            "source says otherwise."
        ),
        columns=HEADS,
        rows=tuple(lines),
        footnotes=tuple(map(_note, checks)),
        commands=((THIS, "asap-eval report audit"),),
    )


def _order(place: str) -> tuple[int, int, str]:
    """Tables by number, then the text."""
    word, _, number = place.partition(" ")
    return (0, int(number), "") if word == "Table" else (1, 0, place)


def _line(finding: Finding) -> Line:
    column = COLUMNS[finding.column]
    cells = (
        finding.row,
        " ".join(part for part in (column.head, column.unit) if part),
        finding.published,
        finding.recomputed,
        finding.how,
        finding.kind,
    )
    return Line(tuple(map(Cell, cells)), section=finding.table)


def _note(check: Check) -> str:
    if check.missing:
        return f"{check.rule}: {check.missing}"
    count = len(check.findings)
    return f"{check.rule}: {check.cells} checked, {count or 'no'} finding{'s' * (count != 1)}"
