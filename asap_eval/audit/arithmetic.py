"""Cells that follow from other cells of the same table: differences, Avg, Rel."""

from __future__ import annotations

from collections.abc import Sequence

from asap_eval.audit.finding import Check, Finding, Kind, figure, finding
from asap_eval.paper import PaperRow, PaperTable, paper_table
from asap_eval.paper.columns import BENCHMARKS, MME_TO_PERCENT

HALF = 0.05
"""Half of the last printed digit of a percentage with one decimal."""
HUNDREDTHS = 0.0051
"""The same with two decimals, and the noise of binary fractions."""


def deltas() -> Check:
    """Printed differences against the two printed accuracies."""
    found, cells = [], 0
    for name in ("1", "3"):
        table = paper_table(name)
        for row in table.rows:
            whole, acc, delta = (figure(row, c) for c in ("baseline_acc", "acc", "acc_delta"))
            cells += 1
            if abs(acc - whole - delta) > HUNDREDTHS:
                how = f"{acc:.2f} - {whole:.2f}"
                found.append(_off(table, row, "acc_delta", f"{acc - whole:+.2f}", how, HUNDREDTHS))
    return Check("Δ top-1 is the difference of the two printed accuracies", cells, tuple(found))


def averages() -> Check:
    """Printed Avg against the mean of the printed benchmarks."""
    found, cells = [], 0
    for name in ("5", "6", "10"):
        table = paper_table(name)
        for row in table.rows:
            mean = average(row, table.columns)
            cells += 1
            count = sum(column in table.columns for column in BENCHMARKS)
            slack = (HALF * (count - 1) + 0.5 * MME_TO_PERCENT) / count + HALF
            if f"{mean:.1f}" != row.printed["avg"]:
                how = f"mean of the row's {count} benchmarks, MME x {MME_TO_PERCENT:g}"
                found.append(_off(table, row, "avg", f"{mean:.2f}", how, slack))
    return Check("Avg is the mean of the row's benchmarks, MME * 100 / 2000", cells, tuple(found))


def relatives() -> Check:
    """Printed Rel against Avg over the full model's: as printed, or of the cells of both rows."""
    found, cells = [], 0
    for name in ("5", "6", "10"):
        table = paper_table(name)
        whole = figure(table.rows[0], "avg")
        for row in table.rows[1:]:
            avg, rel = figure(row, "avg"), figure(row, "rel_pct")
            cells += 1
            value = 100 * avg / whole
            own = 100 * average(row, table.columns) / average(table.rows[0], table.columns)
            if row.printed["rel_pct"] in (f"{value:.1f}", f"{own:.1f}"):
                continue
            how = (
                f"100 x {avg:.1f} / {whole:.1f}; from the row's own cells {own:.1f}; "
                f"the printed figure needs {100 * avg / rel:.1f} as denominator"
            )
            slack = 100 / whole * HALF * (1 + value / 100) + HALF
            found.append(_off(table, row, "rel_pct", f"{value:.1f}", how, slack))
    return Check("Rel is Avg over the full model's, printed or of the cells", cells, tuple(found))


def anchors() -> Check:
    """Rel of Table 11, over its four benchmarks, against the full model of Table 6."""
    table, full = paper_table("11"), paper_table("6").rows[0]
    whole = average(full, table.columns)
    found = []
    for row in table.rows:
        value = 100 * round(average(row, table.columns), 1) / round(whole, 1)
        if f"{value:.1f}" != row.printed["avg_rel_pct"]:
            ratios = [_part(row, c) / _part(full, c) for c in BENCHMARKS if c in table.columns]
            how = (
                f"mean of the four benchmarks over the full model's {whole:.1f} (Table 6); "
                f"as a mean of ratios {100 * sum(ratios) / len(ratios):.1f}"
            )
            found.append(_off(table, row, "avg_rel_pct", f"{value:.1f}", how, 4 * HALF))
    return Check("Rel of Table 11 is that of its four benchmarks", len(table.rows), tuple(found))


def average(row: PaperRow, columns: Sequence[str]) -> float:
    """Mean over the benchmarks among some columns, MME scaled."""
    parts = [_part(row, column) for column in BENCHMARKS if column in columns]
    return sum(parts) / len(parts)


def _part(row: PaperRow, column: str) -> float:
    return figure(row, column) * (MME_TO_PERCENT if column == "mme" else 1)


def _off(
    table: PaperTable, row: PaperRow, column: str, recomputed: str, how: str, slack: float
) -> Finding:
    """A figure that came out otherwise; ``slack`` is what rounding may explain."""
    apart = abs(float(recomputed) - figure(row, column))
    kind: Kind = "last digit" if apart <= slack else "does not recompute"
    return finding(table, row, column, recomputed, how, kind)
