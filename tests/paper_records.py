"""A small fixed set of records for the golden reports in ``golden_reports/``.

    python tests/paper_records.py      # writes the golden reports anew; read the difference

Names and commands hold the signs that one of the formats reads otherwise.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from records import make, put

from asap_eval import record as rec
from asap_eval.cli.report import main
from asap_eval.method import build, options
from asap_eval.report.text import ENDINGS

GOLDEN = Path(__file__).resolve().parent / "golden_reports"
TABLES = ("1", "2", "alpha")
DATA = "images_&_<b>|50%$#~^{x}*`"
WHOLE = rec.Baseline("none", 79.2, 94.5, 500, 0)
SPEED = {
    "fused_img_s": 200.0,
    "matched_img_s": 190.0,
    "method_img_s": 240.0,
    "speedup": {"median": 1.2, "p10": 1.18, "p90": 1.23},
    "share_of_ideal": 0.931,
}


def resolved(method: str, **given: Any) -> dict[str, Any]:
    """Every option but the knob, as a record on disk holds them."""
    reducer = build(method, **given)
    params = {name: getattr(reducer, name) for name, _, _ in options(type(reducer))}
    params.pop(reducer.card.knob or "", None)
    return dict(json.loads(json.dumps(params)))


def row(method: str, target: float | None, seed: int = 0, **changes: Any) -> rec.RunRecord:
    """A finished row of an experiment at a budget of MACs."""
    given = {name: changes.pop(name) for name in ("tau", "alpha", "anchor") if name in changes}
    budget = None if target is None else rec.Budget("macs", target)
    calibration = rec.Calibration(
        *(2.25, -38.2, [-60.0, -1.0], 64, "d", True, 9),
        evaluated=-38.1,
        evaluated_ci95=[-38.9, -37.2],
    )
    record = make(
        method,
        params=resolved(method, **given),
        budget=budget,
        seed=seed,
        data=DATA,
        calibration=calibration if budget else None,
        command=f"asap-eval method={method} seed={seed} data=/home/someone/{DATA} 'a `b` c'",
        key=hashlib.sha256(repr((method, seed, target, given)).encode()).hexdigest(),
        **changes,
    )
    return record if method == "none" else replace(record, baseline=WHOLE)


def records() -> Iterator[rec.RunRecord]:
    nothing = rec.Fired(None, None, None, 500, {})
    yield replace(row("none", None, top1=79.2, reduction_pct=0.0), paired=None, fired=nothing)
    yield row("tome", -38.46, top1=77.0, reduction_pct=-38.37)
    yield row("asap", -38.46, tau=1.4, top1=61.5, reduction_pct=-36.4, speed=SPEED)
    yield row("random", -38.46, top1=70.25, reduction_pct=-38.4)
    yield row("random", -38.46, seed=1, top1=74.0, reduction_pct=-38.4)
    yield row("ppt", -38.46, top1=99.0, trained=False)  # enters no table
    failed = row("zero_tprune", -30.77, metrics=None, paired=None, macs=None, tokens=None)
    yield replace(failed, status="failed", error="50 % of A_b & C {d} # <e> failed. Try again.")
    yield row("asap", -35.23, tau=1.4, anchor="random", model="deit_base", top1=76.0)
    yield row("asap", -35.23, tau=1.4, alpha=0.4, model="deit_base", top1=78.0)


def report(folder: Path, table: str, form: str, out: Path) -> None:
    words = [f"table={table}", f"results={folder}", f"format={form}", f"out={out}"]
    assert main(words) == 0


def name(table: str, form: str) -> str:
    return f"{'table' * table.isdigit()}{table}.{ENDINGS[form]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        put(Path(place), *records())
        for table in TABLES:
            for form in ENDINGS:
                report(Path(place), table, form, GOLDEN / name(table, form))
