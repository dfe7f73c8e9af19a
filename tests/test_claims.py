"""Verdicts: every rule can say each of its words, and evidence is chosen, never invented."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import make, put
from sheets import cells
from test_walk import image

from asap_eval import record as rec
from asap_eval.bench.walk.analysis import analyse
from asap_eval.cli.report import main
from asap_eval.errors import RecordError
from asap_eval.experiment import bench_defaults
from asap_eval.report.layouts.overview import overview
from asap_eval.report.paper import claim_rules as rules
from asap_eval.report.paper.claims import Verdict, claims, read_timing, verdicts
from asap_eval.report.sheet import DASH

WALK_OPTIONS: dict[str, Any] = bench_defaults("walk")


def analysis(
    peaks: tuple[float, ...] = (2.0, 2.1, 1.9, 4.0, 5.0, 6.0),
    falls: tuple[float, float] = (0.01, 0.02),
    shrinks: tuple[float, float] = (0.97, 1.0),
    border: tuple[float, float] = (0.7, 0.9),
    rho: tuple[float, float] = (0.99, 0.95),
    n: int = 40,
) -> dict[str, Any]:
    """An analysis in which every claim holds; intervals and quantiles as given."""

    def reading(low: float, high: float) -> dict[str, Any]:
        return {"falls_all": (low + high) / 2, "falls_all_ci95": [low, high]}

    return {
        "sink_emergence": {"peak": [{"n": n, "mean": peak} for peak in peaks]},
        "appendix_b": {"cls": reading(*falls), "heaviest": reading(*falls), "peak": {}},
        "distances": {
            "shrinks_all": sum(shrinks) / 2,
            "shrinks_all_ci95": list(shrinks),
            "to_sink": [{"mean": 0.8}, {"mean": 0.01}],
        },
        "border": {"base_rate": 0.265},
        "at_firing": [
            {
                "tau": 3.0,
                "fired": {"n": n, "never": 0, "mean": 5.0},
                "spearman": {"n": n, "mean": rho[0], "q5": rho[1], "q50": rho[0], "q95": 1.0},
                "border": {"cls": sum(border) / 2, "cls_ci95": list(border)},
            }
        ],
    }


@pytest.mark.parametrize(
    ("claim", "given", "verdict"),
    [
        (0, {}, "supported"),
        (0, {"peaks": (2.0, 2.0, 2.0, 2.4, 2.8, 3.2)}, "contradicted"),  # never twice as heavy
        (0, {"peaks": (2.0, 4.0, 5.0, 6.0, 8.0, 9.0)}, "mixed"),  # not flat at first
        (0, {"peaks": (2.0, 2.0, 2.0, 2.2, 2.3, 6.0)}, "mixed"),  # jumps in the last block only
        (1, {}, "supported"),
        (1, {"falls": (0.03, 0.06)}, "mixed"),
        (1, {"falls": (0.5, 0.6)}, "contradicted"),
        (2, {}, "supported"),
        (2, {"shrinks": (0.94, 1.0)}, "mixed"),
        (2, {"shrinks": (0.3, 0.5)}, "contradicted"),
        (3, {}, "supported"),
        (3, {"border": (0.4, 0.6)}, "mixed"),
        (3, {"border": (0.3, 0.45)}, "mixed"),  # a minority, but more than by chance
        (3, {"border": (0.2, 0.45)}, "contradicted"),
        (4, {}, "supported"),
        (4, {"rho": (0.96, 0.85)}, "mixed"),
        (4, {"rho": (0.79, 0.6)}, "contradicted"),
    ],
)
def test_a_rule_can_say_each_of_its_words(claim: int, given: Any, verdict: str) -> None:
    found = rules.WALK_CLAIMS[claim].judge(analysis(**given))
    assert found is not None
    assert (found.verdict, found.n) == (verdict, 40)


def test_both_readings_of_the_sink_have_to_agree() -> None:
    found = analysis(falls=(0.5, 0.6))
    found["appendix_b"]["cls"] = {"falls_all": 0.01, "falls_all_ci95": [0.0, 0.02]}
    assert rules.growth(found).verdict == "mixed"


@pytest.mark.parametrize(
    ("top1", "half", "verdict"),
    [
        ((70, 75, 79), 2, "supported"),
        ((70, 68.5, 79), 2, "mixed"),  # a step falls by more than a point
        ((70, 71, 72.5), 2, "mixed"),  # 2.5 points, 2.83 of noise
        ((70, 72, 73), 2, "supported"),  # though both intervals overlap
        ((79, 75, 70), 2, "contradicted"),
        ((73, 72, 70), 2, "contradicted"),
    ],
)
def test_accuracy_over_tau(top1: tuple[float, ...], half: float, verdict: str) -> None:
    rows = [
        {
            "tau": tau,
            "top1": value,
            "delta": value - 80,
            "low": value - 80 - half,
            "high": value - 80 + half,
            "n": 9,
        }
        for tau, value in enumerate(top1)
    ]
    assert rules.rising_accuracy(rows).verdict == verdict


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ((-40, -20, -20, -5), "supported"),
        ((-40, -12.5, -13, -9), "mixed"),
        ((-20, -10, -20), "contradicted"),
    ],
)
def test_macs_over_tau(changes: tuple[float, ...], verdict: str) -> None:
    rows = [{"tau": t, "reduction_pct": change, "n": 9} for t, change in enumerate(changes)]
    assert rules.rising_macs(rows).verdict == verdict


def timed(batch: int, ms: float) -> dict[str, Any]:
    return {"model": "deit_tiny", "device": "cpu", "batch_size": batch, "images": batch,
            "ms_per_image": {"median": ms}}  # fmt: skip


@pytest.mark.parametrize(
    ("times", "verdict"),
    [((0.01, 0.002), "supported"), ((0.2, 0.01), "mixed"), ((0.2, 0.02), "contradicted")],
)
def test_the_time_of_clustering(times: tuple[float, float], verdict: str) -> None:
    found = rules.clustering([timed(1, times[0]), timed(32, times[1])])
    assert (found.verdict, found.n) == (verdict, 33)


def walk(found: dict[str, Any] | None = None, n: int = 40, **options: Any) -> rec.RunRecord:
    record = make("none", paired=None, key=f"walk{n}{options}")
    job = replace(record.job, bench="walk", bench_params={**WALK_OPTIONS, **options})
    data = {**record.provenance.data, "n": n, "ids_digest": f"{n} images"}
    return replace(
        record,
        job=job,
        provenance=replace(record.provenance, data=data),
        metrics=None,
        analysis=found or analysis(n=n),
    )


def asap(tau: float, top1: float, change: float, **changes: Any) -> rec.RunRecord:
    params = {"tau": tau, **changes.pop("params", {})}
    paired = rec.Paired(top1 - 80, [top1 - 81, top1 - 79], 0.1)
    k = None if changes.get("budget") else 2.0
    record = make(params=params, k=k, key=f"{tau}{changes}", top1=top1, reduction_pct=change,
                  **changes)  # fmt: skip
    return replace(record, paired=paired)


def by_claim(*records: rec.RunRecord, timing: Any = ()) -> dict[str, Verdict]:
    return {row.claim: row for row in verdicts("deit_tiny", records, timing)}


GRID = (asap(1.4, 60, -40), asap(1.7, 70, -20), asap(2.0, 78, -10))


def test_everything_at_hand_gives_a_verdict_on_everything() -> None:
    found = by_claim(walk(), *GRID, timing=[timed(1, 0.5)])
    assert len(found) == 8
    assert {row.verdict for row in found.values()} == {"supported", "contradicted"}
    assert found["clustering takes 0.01 ms"].verdict == "contradicted"
    accuracy = found["accuracy rises with tau"]
    grid = "tau=1.4: 60.00 %; tau=1.7: 70.00 %; tau=2: 78.00 %"
    assert accuracy.measured == f"{grid}; last less first +18.00 [+16.59, +19.41]"


def test_what_was_not_run_is_said_and_how_to_run_it() -> None:
    found = by_claim(GRID[0])
    assert all(row.verdict.startswith("not run: ") for row in found.values())
    assert all((row.measured, row.n) == (DASH, None) for row in found.values())
    assert "bench=walk" in found["sinks emerge"].verdict
    assert "benchmarks/clustering.py" in found["clustering takes 0.01 ms"].verdict
    assert by_claim(*GRID[:2])["MACs rise with tau"].verdict.startswith("not run")


def test_images_that_never_fire_decide_nothing() -> None:
    found = analysis()
    found["at_firing"][0] |= {"spearman": {"n": 0}, "border": {}}
    found["at_firing"][0]["fired"]["n"] = 0
    rows = by_claim(walk(found))
    assert rows["sinks lie at the border"].verdict == "not run: no image fires at tau=3"
    assert rows["weighting by mass changes no order"].n is None
    assert rows["distances shrink with depth"].verdict == "supported"


def test_other_readings_of_the_walk_decide_nothing_and_most_images_win() -> None:
    flat = analysis(peaks=(1.0,) * 6, n=10)
    assert by_claim(walk(flat, order="rollout"))["sinks emerge"].n is None
    assert by_claim(walk(flat, n=10), walk(n=500))["sinks emerge"].n == 500
    assert by_claim(replace(walk(), status="failed"))["sinks emerge"].n is None


def test_a_grid_differs_in_nothing_but_tau() -> None:
    other = asap(2.5, 50, -50, params={"alpha": 0.9})
    budget = asap(2.2, 50, -35, budget=rec.Budget("macs", -35))
    found = by_claim(*GRID, other, budget)["MACs rise with tau"]
    assert found.measured == "tau=1.4: -40.0 %; tau=1.7: -20.0 %; tau=2: -10.0 %"


def test_random_weights_are_not_comparable() -> None:
    record = walk()
    untrained = {**record.provenance.weights, "trained": False}
    record = replace(record, provenance=replace(record.provenance, weights=untrained))
    found = by_claim(record)["sinks emerge"]
    assert (found.n, found.verdict) == (40, "not comparable: random weights")


def test_a_table_for_each_model_with_its_rules_below() -> None:
    small = replace(walk(), job=replace(walk().job, model="deit_small"))
    tables = claims([walk(), small])
    assert [table.title.split(" · ")[0] for table in tables] == ["deit_small", "deit_tiny"]
    row = cells(tables[0], 0)
    assert list(row) == ["claim", "paper says", "measured", "n", "verdict"]
    assert (row["n"], row["verdict"]) == ("40", "supported")
    assert len(tables[0].rows) == 8
    assert len(tables[0].notes()) == 9  # a rule each, and which records decide
    assert [command for _, command in tables[0].commands] == [small.provenance.command]


def test_a_model_without_evidence_has_no_table_beside_one_that_has() -> None:
    other = replace(GRID[0], job=replace(GRID[0].job, model="deit_small"))
    assert [table.title.split(" · ")[0] for table in claims([walk(), other])] == ["deit_tiny"]
    assert len(claims([other])) == 1


def test_a_larger_grid_of_another_experiment_decides_nothing() -> None:
    """Figure 6's grid has other K, more values of tau and other images; its own rows at K=2 too."""
    falling = [
        replace(asap(tau, 90 - 10 * tau, -20), job=replace(asap(tau, 60, -20).job, k=1.5))
        for tau in (1.4, 1.7, 2.0, 2.5, 3.0, 4.0)
    ]
    fewer = [
        replace(r, key=f"few{r.key}", provenance=replace(r.provenance, data=dict(data)))
        for r in GRID
        if (data := {**r.provenance.data, "n": 1, "ids_digest": "few"})
    ]
    alone = by_claim(walk(), *GRID)
    assert by_claim(*falling)["accuracy rises with tau"].n is None
    assert by_claim(walk(), *falling, *fewer, *GRID) == alone
    assert alone["accuracy rises with tau"].verdict == "supported"


def test_the_command_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "results", walk(), *GRID)
    timing = tmp_path / "clustering.json"
    timing.write_text(json.dumps({"clustering": [timed(32, 0.25)]}))
    command = [str(tmp_path / "results"), "--claims", "--format", "markdown"]
    assert main([*command, "--clustering", str(timing)]) == 0
    assert "0.25 ms (batch 32, cpu) | 32 | contradicted" in capsys.readouterr().out
    timing.write_text("{}")
    assert main([*command, "--clustering", str(timing)]) == 1
    assert "benchmarks/clustering.py" in capsys.readouterr().err
    with pytest.raises(RecordError, match="nowhere"):
        read_timing(tmp_path / "nowhere.json")
    assert main([str(tmp_path / "results"), "--claims", "--format", "csv"]) == 2
    assert "has no csv form" in capsys.readouterr().err


def test_the_overview_shows_a_walk_in_its_own_columns() -> None:
    rows = [image([2.0, 4.0], distance=[2.0, 1.0]), image([3.5, 2.0], sink=[8, 4])]
    line, blocks = overview([walk(analyse(rows, (3, 3), [3.0]))])
    row = cells(line, 0)
    assert row["heaviest patch: first → last block"] == "2.75 → 3.00"
    assert row["fired at block (never)"] == "1.50 (0) at tau=3"
    assert row["rho there: median (5 %)"] == "0.500 (0.500)"
    # The first fires at block 2 with its sink in a corner, the second at block 1, in another.
    border = row["sink at the border there %: cls / heaviest / ring"]
    assert border == "100.0 / 0.0 / 88.9"
    falls = row["steps in which the sink gets lighter %: cls / heaviest"]
    assert falls == "100.0 / 0.0"
    assert row["steps in which distances shrink %"] == "50.0"
    assert cells(blocks, 0)["falls %: cls"] == DASH
    second = cells(blocks, 1)
    assert (second["block"], second["heaviest patch"], second["falls %: cls"]) == (
        "2", "3.00", "100.0",
    )  # fmt: skip
    assert (second["border %: cls"], second["border %: heaviest"]) == ("50.0", "0.0")


def test_a_walk_that_failed_has_a_line_of_dashes() -> None:
    (table,) = overview([replace(walk(), status="failed", analysis=None, error="stopped")])
    assert "stopped" in table.notes()[0]
