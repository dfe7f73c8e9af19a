"""Budgets: the search, and what a run records about it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pictures import picture_folder

from asap_eval.bench.imagenet import ImageNet
from asap_eval.errors import BudgetError, UnreachableError
from asap_eval.method import build
from asap_eval.record import Budget, Job
from asap_eval.record.journal import Row
from asap_eval.registry import BENCHES
from asap_eval.runner import Outcome, run
from asap_eval.runner.knob_search import PROMISE, TOLERANCE, search, whole_knob


def counted(function: Callable[[float], float]) -> tuple[Callable[[float], float], list[float]]:
    tried: list[float] = []

    def quantity(knob: float) -> float:
        tried.append(knob)
        return function(knob)

    return quantity, tried


@pytest.mark.parametrize(
    ("function", "interval"),
    [
        (lambda k: -60 / k, (1.000001, 400.0)),
        (lambda k: 60 * (k - 1), (1 / 196, 1.0)),
        (lambda k: -100 * (1 - k) ** 2, (0.0, 1.0)),
        (lambda k: -50 * k, (0.0, 1.0)),  # more knob, less work
    ],
)
def test_a_continuous_knob_is_found(
    function: Callable[[float], float], interval: tuple[float, float]
) -> None:
    quantity, tried = counted(function)
    found = search(quantity, interval, -35)
    assert abs(found.reached - -35) <= TOLERANCE
    assert function(found.knob) == found.reached
    assert found.note is None
    assert found.evaluations == len(tried) == len(set(tried)) <= 20  # nothing is tried twice


def test_steps_give_the_nearest_and_end_the_search() -> None:
    """196 patches, each worth 0.34 points: no value is closer than half of that."""
    quantity, tried = counted(lambda k: 66.7 * (max(1, round(k * 196)) / 196 - 1))
    found = search(quantity, (1 / 196, 1.0), -35)
    best = min(abs(66.7 * (n / 196 - 1) + 35) for n in range(1, 197))
    assert abs(found.reached + 35) == pytest.approx(best)
    assert len(tried) <= 16
    assert found.note is None


def test_coarse_steps_are_said_to_be_so() -> None:
    found = search(lambda k: -10.0 * math.floor(k), (1.0, 9.0), -34, name="r")
    assert found.reached == -30
    assert found.note is not None
    assert abs(found.reached + 34) > PROMISE
    assert "-30.00" in found.note
    assert "-40.00" in found.note


def test_whole_knobs_stay_whole() -> None:
    quantity, tried = counted(lambda r: -2.7 * r)
    found = search(quantity, (0, 30), -35, whole=True)
    assert found.knob == 13
    assert all(isinstance(knob, int) for knob in tried)
    assert whole_knob(build("random")) is False
    assert whole_knob(build("asap")) is False


@pytest.mark.parametrize("target", [-60, -0.5])
def test_a_target_out_of_reach_is_refused_with_the_range(target: float) -> None:
    with pytest.raises(BudgetError, match=r"-50\.00 to -1\.00 %"):
        search(lambda k: -50 + 49 * k, (0.0, 1.0), target)


# In a run


def budget_run(root: Path, target: float = -20, **changes: Any) -> Outcome:
    data = root / "data"
    if not data.exists():
        picture_folder(data, each=6)
    changes = {"method": "random", "params": {"layer": 2}, "limit": 9, **changes}
    job = Job(model="test_vit", weights="random", data=str(data),
              budget=Budget("macs", target, samples=6), **changes)  # fmt: skip
    return run(job, results=root / "results")


def test_the_record_says_how_the_budget_was_met(tmp_path: Path) -> None:
    record = budget_run(tmp_path).record
    found = record.provenance.calibration
    assert found is not None
    assert record.macs is not None
    assert record.job.k is None
    assert record.knob == found.knob
    assert abs(found.reached - -20) <= PROMISE
    assert found.disjoint
    assert found.samples == 6
    assert found.range[0] < -20 < found.range[1]
    # A fixed count costs the same on every image: both subsets agree, the interval is a point.
    assert found.evaluated == pytest.approx(found.reached) == record.macs.reduction_pct
    assert found.evaluated_ci95 == pytest.approx([found.evaluated] * 2)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_fixed_count_is_searched_on_one_batch_and_shown_on_all(
    fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that promises it in vain is searched on all, as one that does not."""
    seen: list[int] = []
    spent = ImageNet.spent

    def counting(self: ImageNet, quantity: str, rows: Sequence[Row], *rest: Any) -> list[float]:
        values = spent(self, quantity, rows, *rest)
        seen.append(len(values))
        return values if fixed else [one + at % 2 for at, one in enumerate(values)]

    monkeypatch.setattr(ImageNet, "spent", counting)
    found = budget_run(tmp_path, batch_size=2).record.provenance.calibration
    assert found is not None
    on_one, on_all = seen.count(2), seen.count(6)
    assert on_one == found.evaluations if fixed else on_one > 2
    assert on_all == (1 if fixed else 1 + found.evaluations)
    assert found.samples == 6
    assert abs(found.reached - -20) <= PROMISE


def test_without_images_left_the_evaluated_ones_are_used_and_it_is_said(tmp_path: Path) -> None:
    record = budget_run(tmp_path, limit=None).record
    assert record.provenance.calibration is not None
    assert record.provenance.calibration.disjoint is False
    assert record.provenance.calibration.samples == 6


def test_asap_counts_its_own_products(tmp_path: Path) -> None:
    """With random weights every image fires in block 1 at tau = 1; the walk is part of the sum."""
    record = budget_run(tmp_path, method="asap", params={"tau": 1.0}).record
    assert record.macs is not None
    assert record.provenance.calibration is not None
    assert record.macs.method_g > 0
    assert abs(record.provenance.calibration.reached - -20) <= PROMISE
    assert record.provenance.calibration.evaluated == pytest.approx(record.macs.reduction_pct)
    assert record.macs.reduction_pct > record.macs.reduction_model_pct


def test_an_unreachable_budget_leaves_a_failed_record(tmp_path: Path) -> None:
    from asap_eval.record import read_records

    with pytest.raises(BudgetError, match="reaches"):
        budget_run(tmp_path, target=-99)
    good, problems = read_records(tmp_path / "results")
    states = {record.job.method: (record.status, record.error) for _, record in good}
    assert not problems
    assert states["none"] == ("done", None)
    assert states["random"][0] == "failed"
    assert "cannot be met" in str(states["random"][1])


def test_where_the_knob_does_not_reach_another_option_that_does_is_named(tmp_path: Path) -> None:
    """Random weights never pass tau = 90; with 1.2 they do, and that is measured."""
    with pytest.raises(UnreachableError) as refused:
        budget_run(tmp_path, method="asap", params={"tau": 90.0})
    said = str(refused.value)
    assert re.search(
        r"with k from 1 to \d+ this method reaches .* On the same samples, k at both "
        r"ends of its range, with method\.tau=(1\.2|1\.0) it reaches -\d+\.\d\d to .*: add "
        r"method\.tau=\1\.$",
        said,
    ), said
    named = float(said.rpartition("=")[2].rstrip("."))
    record = budget_run(tmp_path, method="asap", params={"tau": named}).record
    assert record.provenance.calibration is not None
    low, high = record.provenance.calibration.range
    assert f"it reaches {low:.2f} to {high:.2f} %" in said  # the same samples, the same ends


def test_where_no_option_reaches_what_was_tried_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"Nor elsewhere: with method\.tau=1\.2 it reaches"):
        budget_run(tmp_path, method="asap", target=-99.9, params={"tau": 1.0})
    with pytest.raises(UnreachableError, match=r"other options\.$"):
        budget_run(tmp_path, target=-99)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "none", "params": {}}, "no knob"),
        ({"params": {"k": 0.5}}, "both set the knob"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(Exception, match=says):
        budget_run(tmp_path, **changes)
    assert not (tmp_path / "results").exists()


def test_a_token_budget_needs_a_language_model(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    job = Job(model="test_vit", weights="random", data=str(tmp_path / "data"), method="random",
              budget=Budget("tokens", 64))  # fmt: skip
    with pytest.raises(BudgetError, match="language model"):
        run(job, results=tmp_path / "results")


def test_a_token_budget_counts_what_the_rows_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark whose rows have ``handed_to_llm``; here they are the patches left."""

    class Handing(ImageNet):
        budgets: ClassVar[dict[str, str]] = {}

        def measure(self, *args: Any) -> list[dict[str, Any]]:
            left = (args[2].lengths[-1] - 1).tolist()
            rows = super().measure(*args)
            return [row | {"handed_to_llm": n} for row, n in zip(rows, left, strict=True)]

        def spent(self, quantity: str, rows: Sequence[Row], *_: Any) -> list[float]:
            assert quantity == "layer_mean"
            return [float(row["handed_to_llm"]) for row in rows]

    monkeypatch.setitem(BENCHES.classes, "imagenet", Handing)
    picture_folder(tmp_path / "data", each=6)
    job = Job(
        model="test_vit",
        weights="random",
        data=str(tmp_path / "data"),
        method="random",
        params={"rest": "drop", "layer": 2},
        limit=9,
        budget=Budget("tokens", 20, samples=6),
    )
    found = run(job, results=tmp_path / "results").record.provenance.calibration
    assert found is not None
    assert found.reached == found.evaluated == 20
    assert found.range == [1, 100]
    assert found.evaluated_ci95 == [20, 20]


def test_a_knob_with_a_list_of_values() -> None:
    """Nothing between them is ever tried; messages name values, not places."""
    values, tried = [1, 4, 9, 16, 25], []

    def quantity(knob: float) -> float:
        tried.append(knob)
        return knob

    found = search(quantity, (0, 0), 10, values=values, name="k", unit="tokens")
    assert (found.knob, found.reached) == (9, 9)
    assert set(tried) <= set(values)
    assert found.note is not None
    assert "k=9 gives 9.00, k=16 gives 16.00" in found.note
    with pytest.raises(UnreachableError, match="with k from 1 to 25 this method reaches"):
        search(quantity, (0, 0), 30, values=values, name="k", unit="tokens")
