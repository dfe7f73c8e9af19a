"""The ASAP paper (arXiv 2605.22372) as data: its tables, figures given only in its text, and facts.

``tables/<name>.csv`` holds a table as printed: a section (the block of rows it stands in), the
row's label, and its figures; an empty cell is a dash of the paper. ``claims.csv`` holds figures
that stand only in its text or its plots, ``facts.csv`` figures of others with their source,
``scaling_law.csv`` another paper's points (`asap_eval.paper.scaling_law`). Nothing here is measured
or derived by us.
"""

from asap_eval.paper.columns import COLUMNS, PaperColumn
from asap_eval.paper.tables import (
    TABLES,
    Fact,
    PaperRow,
    PaperTable,
    claims,
    facts,
    paper_table,
)

__all__ = [
    "COLUMNS",
    "TABLES",
    "Fact",
    "PaperColumn",
    "PaperRow",
    "PaperTable",
    "claims",
    "facts",
    "paper_table",
]
