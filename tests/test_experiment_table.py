"""Records to an experiment's own table: which record is which row, and what its line says."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import AT_35, baseline, make, put

from asap_eval import record as rec
from asap_eval.cli.report import main
from asap_eval.cli.report.tables import render
from asap_eval.errors import RecordError
from asap_eval.experiment import Experiment, parse
from asap_eval.method import build, options
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import matched

PUBLISHED = {"row": "Ours", "baseline": 80.0, "acc": 71.0, "delta": -9.0, "macs": -12.0}
ROWS: list[dict[str, Any]] = [
    {"method": "asap", "method.tau": 1.7, "target": -35, "budget": "macs", "published": PUBLISHED},
    {"method": "random", "target": -35, "budget": "macs", "sweep": {"seed": [0, 1, 2]}},
]


def experiment(rows: Any = ROWS, **about: Any) -> Experiment:
    about = {"paper": "Table 9", "samples": 50_000, **about}
    return parse("mine", {"about": about, "common": {"model": "deit_tiny"}, "rows": rows})


def resolved(method: str, **params: Any) -> dict[str, Any]:
    """Every option but the knob, as a record holds them."""
    reducer = build(method, **params)
    values = {name: getattr(reducer, name) for name, _, _ in options(type(reducer))}
    return {name: value for name, value in values.items() if name != reducer.card.knob}


def asap(**changes: Any) -> RunRecord:
    given = {"params": resolved("asap", tau=1.7), "budget": AT_35, **changes}
    whole = rec.Baseline("none", 79.2, None, 500, 0)
    telling = rec.Paired(-9.2, [-10.9, -7.5], 1e-7)
    return replace(make("asap", **given), baseline=whole, paired=telling)


def random(seed: int, top1: float, delta: float) -> RunRecord:
    record = make(
        "random",
        params=resolved("random"),
        budget=AT_35,
        seed=seed,
        top1=top1,
        key=f"random{seed}",
    )
    return replace(record, paired=rec.Paired(delta, [delta - 2, delta + 1], 0.01))


def lines(records: list[RunRecord], of: Experiment | None = None) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(records, "csv", of or experiment()))))


def test_a_line_stands_beside_the_published_figures() -> None:
    none, ours, control = lines([asap(), baseline()])
    assert none["method"] == "none"
    assert none["verdict"] == ""
    assert ours["published_row"] == "Ours"
    assert float(ours["difference"]) == pytest.approx(-0.2)
    assert ours["verdict"] == "reproduced †"
    assert control["verdict"] == "not run: no record"
    text = render([asap(), baseline()], "markdown", experiment())
    assert text.startswith("### Table 9 · deit_tiny · imagenet · imagenet · 500 samples · float32")
    assert "| -9.00 (80.00 → 71.00) | -0.20 |" in text
    assert "† on 500 images; the published figures are on 50000; the unpruned model" in text
    assert "79.20 % here, 80.00 % there" in text


def test_on_all_images_no_mark_is_needed() -> None:
    (_, ours, _) = lines([asap(), baseline()], experiment(samples=500))
    assert ours["verdict"] == "reproduced"
    other = replace(asap(), baseline=rec.Baseline("none", 60.0, None, 500, 0))
    (ours, _) = lines([other], experiment(samples=500))
    assert ours["verdict"] == "reproduced †"


def test_an_interval_that_holds_every_loss_cannot_tell() -> None:
    wide = replace(asap(), paired=rec.Paired(-9.2, [-11.6, -6.8], 1e-7))
    (_, ours, _) = lines([wide, baseline()])
    assert ours["verdict"] == "cannot tell: an interval of 4.8 points †"


def test_seeds_are_a_mean_and_a_spread() -> None:
    records = [random(0, 60, -19), random(1, 62, -17), random(2, 70, -9)]
    _, control = lines(records)
    assert float(control["top1"]) == 64
    assert (float(control["top1_least"]), float(control["top1_most"])) == (60, 70)
    assert float(control["delta_top1"]) == -15
    assert (float(control["delta_low"]), float(control["delta_high"])) == (-17, -14)
    assert control["mcnemar_p"] == ""
    text = render(records, "markdown", experiment())
    assert "| 64.00 (60.00 to 70.00) | -15.00 [-17.00, -14.00] |" in text
    assert "3 seeds |" in text
    assert "2 of 3 seeds |" in render(records[:2], "markdown", experiment())


def there(record: RunRecord) -> RunRecord:
    """The same row on 400 other images."""
    data = {"source": "own", "name": "others", "ids_digest": "2" * 64, "n": 400}
    provenance = replace(record.provenance, data=data)
    paired = record.paired and rec.Paired(record.paired.delta_top1 + 1, [-10.0, -6.0], 0.01)
    return replace(record, key=f"{record.key}-there", provenance=provenance, paired=paired)


def test_the_same_rows_on_other_images_stand_beside(tmp_path: Path) -> None:
    here = [baseline(), asap(), random(0, 60, -19)]
    others = [there(baseline()), there(asap()), there(asap(seed=1)), there(asap(params={}))]
    text = render(here, "markdown", experiment(), others)
    assert "| Δ [95 %] | Δ on others, n=400 | published Δ |" in text
    assert "| -9.20 [-10.90, -7.50] | -8.20 [-10.00, -6.00] |" in text
    (control,) = (line for line in text.splitlines() if line.startswith("| — | random"))
    assert "| -19.00 [-21.00, -18.00] | — |" in control
    assert "unpruned model reaches 79.20 % there" in text
    put(tmp_path / "here", *here)
    put(tmp_path / "there", *others)
    mixed = [*others, there(replace(asap(), job=replace(asap().job, dtype="float16")))]
    with pytest.raises(RecordError, match="several sets of images or precisions of deit_tiny"):
        render(here, "markdown", experiment(), mixed)
    command = [str(tmp_path / "here"), f"beside={tmp_path / 'there'}"]
    assert main(command) == 2
    assert main([*command, "experiment=controls", "format=markdown"]) == 0


def test_below_the_mean_of_the_seeds_is_flagged() -> None:
    records = [asap(top1=63.0), random(0, 60, -19), random(1, 68, -11)]
    assert "| asap ▼ |" in render(records, "markdown", experiment())
    assert "▼" not in render([asap(top1=65.0), *records[1:]], "markdown", experiment())


@pytest.mark.parametrize(
    "changes",
    [
        {"params": resolved("asap", tau=1.4)},
        {"params": resolved("asap", tau=1.7, anchor="mass")},
        {"budget": rec.Budget("macs", -30)},
        {"budget": None, "k": 2.0},
        {"seed": 1},
        {"model": "deit_base"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_record_of_another_job_is_no_row(changes: dict[str, Any]) -> None:
    named = experiment([{"model": "deit_tiny", **ROWS[0]}])
    assert [f.record for f in matched(named, [asap(**changes)])] == [None]
    assert matched(named, [asap()])[0].record is not None


def test_a_given_or_default_knob_is_matched() -> None:
    rows = [{"method": "random", "k": 0.5}, {"method": "random"}]
    half = make("random", params=resolved("random"), k=0.5)
    usual = make("random", params=resolved("random"), k=0.7)
    found = [f.record for f in matched(experiment(rows), [half, usual])]
    assert found == [half, None, usual, None]


def test_the_latest_finished_record_counts() -> None:
    def started(record: RunRecord, day: int) -> RunRecord:
        at = f"2026-01-{day:02}T00:00:00+00:00"
        return replace(record, provenance=replace(record.provenance, started=at))

    old, new = started(asap(key="a"), 1), started(asap(key="b"), 2)
    failed = started(replace(asap(key="c"), status="failed", error="Full disk."), 3)
    for records in ([old, new, failed], [failed, new, old]):
        assert matched(experiment(), records)[0].record == new


def test_a_failed_record_says_why_its_row_did_not_run() -> None:
    error = "The target -35 % cannot be met: 1 to 2. Choose another."
    failed = replace(asap(metrics=None, paired=None, macs=None), status="failed", error=error)
    ours, _ = lines([failed])
    assert ours["verdict"] == "not run: The target -35 % cannot be met: 1 to 2"
    running = replace(failed, status="running", error=None)
    assert lines([running])[0]["verdict"] == "not run: not finished"


def test_another_models_figures_are_not_compared() -> None:
    ours, _ = lines([asap(model="deit_small")])
    assert ours["verdict"] == "not comparable: published for deit_tiny"
    assert ours["difference"] == ""
    assert "†" not in render([asap(model="deit_small")], "markdown", experiment())


def test_random_weights_enter_no_table_of_published_figures() -> None:
    ours, _ = lines([asap(trained=False), random(0, 60, -19)])
    assert ours["verdict"] == "not comparable: random weights"
    assert ours["top1"] == ""
    control = experiment([{k: v for k, v in row.items() if k != "published"} for row in ROWS])
    ours, _ = lines([asap(trained=False)], control)
    assert float(ours["top1"]) == 70.0


def test_a_table_for_each_model_with_records_and_for_those_without() -> None:
    rows = [{"model": name, **ROWS[0]} for name in ("deit_base", "deit_tiny")]
    text = render([asap(), baseline()], "markdown", experiment(rows))
    titles = [line for line in text.splitlines() if line.startswith("###")]
    assert titles == [
        "### Table 9 · deit_base",
        "### Table 9 · deit_tiny · imagenet · imagenet · 500 samples · float32",
    ]
    text = render([make("stride")], "markdown", experiment())
    assert text.startswith("### Table 9 · no record")


def test_the_command_can_be_narrowed_to_one_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "[{model: deit_base, method: none}, {model: deit_tiny, method: none}]"
    file = tmp_path / "mine.yaml"
    file.write_text(f"rows: {rows}\n")
    folder = str(put(tmp_path / "results", baseline()))
    assert main([folder, "--experiment", str(file)]) == 0
    assert "deit_base" in capsys.readouterr().out
    assert main([folder, "--experiment", str(file), "--model", "deit_tiny"]) == 0
    assert "deit_base" not in capsys.readouterr().out
    assert main([folder, "--model", "deit_base"]) == 1
    assert "No record of model deit_base" in capsys.readouterr().err


def test_a_grid_shows_two_sweeps() -> None:
    rows = [{"method": "asap", "sweep": {"k": [2, 4], "method.tau": [1.7, 3]}}]
    params = resolved("asap", tau=1.7)
    records = [asap(budget=None, k=float(k), params=params, key=f"k{k}") for k in (2, 4)]
    text = render(records, "markdown", experiment(rows, layout="grid"))
    assert "| k \\ tau | 1.7 | 3 |" in text
    assert "| 2 | 70.00 (-12.6) | — |" in text


@pytest.mark.parametrize("form", ["rich", "markdown", "csv"])
def test_the_command_writes_the_same_table_in_any_order(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [asap(), random(0, 60, -19), random(1, 62, -17), baseline()]
    assert render(records, form, experiment()) == render(records[::-1], form, experiment())
    file = tmp_path / "mine.yaml"
    file.write_text("common: {model: deit_tiny}\nrows: [{method: none}]\n")
    folder = str(put(tmp_path / "results", *records))
    assert main([folder, "--experiment", str(file), "--format", form]) == 0
    assert "79.2" in capsys.readouterr().out
    assert main([folder, "--experiment", "table12", "--format", form]) == 2
    assert "Did you mean table" in capsys.readouterr().err
