"""Which row of the paper a row of an experiment cites."""

from __future__ import annotations

from asap_eval.experiment import Entry, Published
from asap_eval.experiment.published import CITED
from asap_eval.paper import PaperRow, PaperTable
from asap_eval.paper.columns import TASKS


def cited_row(entry: Entry, table: PaperTable) -> PaperRow | None:
    """The row that is cited; else the one of the same label that no given figure contradicts.

    None where nothing is published, or for another table.
    """
    published = entry.published
    if published is None or published.row is None:
        return None
    if published.table is not None:
        here = published.table == table.name
        return table.row(published.row, published.section) if here else None
    alike = [row for row in table.rows if row.row == published.row]
    found = [row for row in alike if not contradictions(published, row)]
    return found[0] if len(found) == 1 else None


def contradictions(published: Published, row: PaperRow) -> list[str]:
    """Figures given by hand that are not those of a row of the paper."""
    wrong = []
    for column in row.printed:
        given = getattr(published, CITED[column]) if column in CITED else None
        if column in TASKS:
            given = published.tasks.get(TASKS[column])
        printed = row.value(column)
        if given is not None and printed is not None and given != printed:
            wrong.append(f"{column}: {given:g}, printed {row.printed[column]}")
    return wrong
