"""Layout of ``bench=keepmaps``: how many patches each method keeps, pools and drops."""

from __future__ import annotations

import json

from asap_eval.report.layouts.columns import (
    BUDGET,
    CHANGE,
    FIRED,
    METHOD,
    SAMPLES,
    SETTINGS,
    Column,
    Row,
    present,
)
from asap_eval.report.sheet import DASH

FATES = ("kept", "pooled", "dropped")


def _shares(row: Row) -> str:
    if not present(row["analysis"]):
        return DASH
    found = json.loads(row["analysis"])
    return " / ".join(f"{100 * found[fate]:.1f}" for fate in FATES)


KEEPMAPS = [
    METHOD,
    SETTINGS,
    SAMPLES,
    Column("patches %: kept / pooled / dropped", _shares),
    CHANGE,
    FIRED,
    BUDGET,
]
