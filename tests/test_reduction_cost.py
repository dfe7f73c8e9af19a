"""Sections of time, and the script that says what each reduction costs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from project import ROOT

from asap_eval.hosts import attention, forward, probe, replacing
from asap_eval.method import build, method_class, methods
from asap_eval.methods.parts.predictors import origin

CPU = torch.device("cpu")


class Clock:
    """A clock that goes on where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder of the benchmarks can be imported from; what was imported is forgotten."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name == "reduction_cost" or name.startswith("cost_"):
            del sys.modules[name]


@pytest.fixture
def timing(scripts: None) -> ModuleType:
    return importlib.import_module("cost_sections")


@pytest.fixture
def clock(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_a_section_counts_its_own_time_alone(timing: ModuleType, clock: Clock) -> None:
    sections = timing.Sections(CPU)
    with sections.section("outer"):
        clock.wait(2)
        with sections.section("inner"):
            clock.wait(6)
        clock.wait(3)
    clock.wait(5)  # outside: nobody's
    with sections.section("inner"):
        clock.wait(1)
    assert sections.calls == {"outer": 1, "inner": 2}
    assert sections.take() == {"outer": 5000, "inner": 7000}
    assert sections.take() == {}
    assert not sections.calls


def test_a_function_is_timed_and_given_back(timing: ModuleType, clock: Clock) -> None:
    class Base:
        def work(self, seconds: float) -> float:
            clock.wait(seconds)
            return seconds

    class Derived(Base):
        pass

    sections, plain = timing.Sections(CPU), Base.work
    with sections.around(Derived, "work", "work"):
        assert Derived().work(4) == 4
        Base().work(8)  # another owner's
    assert sections.take() == {"work": 4000}
    with pytest.raises(RuntimeError, match="inside"), sections.around(Base, "work", "again"):
        raise RuntimeError("inside")
    assert Base.work is plain
    assert "work" not in vars(Derived)
    with pytest.raises(AttributeError), sections.around(Base, "missing", "x"):
        pass


def test_milliseconds_of_a_step(timing: ModuleType, clock: Clock) -> None:
    assert timing.milliseconds(lambda: clock.wait(0.25), CPU) == 250


@pytest.fixture
def script(scripts: None) -> ModuleType:
    """The script; what it imports from its own folder hangs on it."""
    return importlib.import_module("reduction_cost")


@pytest.fixture
def rows(script: ModuleType) -> ModuleType:
    return sys.modules["cost_rows"]


@pytest.fixture
def watch(script: ModuleType) -> ModuleType:
    return sys.modules["cost_watch"]


def test_every_registered_method_has_a_row(rows: ModuleType) -> None:
    """Or is named with a reason; a row's options are the method's, and its parts exist."""
    made = rows.contenders(64, 576)
    timed = {row.method for row in made}
    assert timed == set(methods()) - set(rows.EXCEPT)
    assert set(rows.EXCEPT) == {name for name, cls in methods().items() if cls.idle}
    assert all(rows.EXCEPT.values())
    assert len({row.label for row in made}) == len(made)
    assert set(rows.OWN) <= timed
    for row in made:
        build(row.method, k=row.k, **row.params)
        assert row.in_language == (row.layers > 0), row.label
    for owner, function, _ in [part for parts in rows.OWN.values() for part in parts]:
        assert callable(getattr(owner, function))


def test_a_cost_is_that_of_each_layer_times_those_that_act(
    rows: ModuleType, watch: ModuleType
) -> None:
    """Two of 20 were timed; landmarks are chosen once; what does not run is taken off."""
    contender = rows.Contender("x", "fna_decoder", layers=3, acts=20)
    rounds = [
        {"inverse": 6.0, watch.REPLACED: 2.0, watch.NOT_RUN: -20.0, "landmarks": 5.0},
        {"inverse": 4.0, watch.REPLACED: 2.0, watch.NOT_RUN: -20.0, "landmarks": 7.0},
        {"inverse": 60.0, watch.REPLACED: 2.0, watch.NOT_RUN: -20.0, "landmarks": 3.0},
    ]
    row = watch._row(contender, rounds, timed=2)
    assert row["each_ms"] == -6
    assert row["total_ms"]["median"] == 10 * (6 + 2 - 20) + 5
    assert row["parts_ms"] == {
        "inverse": 60,
        watch.REPLACED: 20,
        watch.NOT_RUN: -200,
        "landmarks": 5,
    }
    assert (row["acts"], row["acts_timed"]) == (20, 2)
    plain = watch._row(rows.Contender("x", "tome"), [{"matching": 6.0}], timed=3)
    assert (plain["each_ms"], plain["total_ms"]["median"], plain["acts"]) == (2, 6, 3)


def test_maps_cost_what_they_take_longer_and_replaced_attention_shows_what_it_saves(
    watch: ModuleType,
) -> None:
    assert watch._less_fused({watch.MAPS: 5.0, watch.FUSED: 2.0}) == {watch.MAPS: 3}
    assert watch._less_fused({watch.REPLACED: 5.0, watch.FUSED: 7.0}) == {
        watch.REPLACED: 5,
        watch.NOT_RUN: -7,
    }
    assert watch._less_fused({"host": 1.0}) == {"host": 1}


def test_attention_stands_beside_fused_attention_of_the_same_tensors(
    timing: ModuleType, watch: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Causal where the language model's is; before and behind in turn."""
    order: list[str] = []

    def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool) -> torch.Tensor:
        assert is_causal
        order.append("fused")
        clock.wait(1)
        return q

    def own(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        order.append("own")
        clock.wait(3)
        return v

    monkeypatch.setattr(watch.F, "scaled_dot_product_attention", fused)
    sections, tensors = timing.Sections(CPU), torch.zeros(3, 1, 2, 4, 8).unbind()
    both = watch._beside(sections, watch.REPLACED, own, causal=True)
    assert both(*tensors) is tensors[2]
    both(*tensors)
    assert order == ["fused", "own", "own", "fused"]
    assert sections.take() == {watch.REPLACED: 6000, watch.FUSED: 2000}


def test_seeded_predictors_are_a_checkpoint_that_says_so(
    script: ModuleType, rows: ModuleType, tmp_path: Path
) -> None:
    given = type("Options", (), {"model": "llava_tiny", "device": "cpu", "dtype": "float32"})()
    tower = script.cost_tower.tower_of(given)
    for method in ("dynamicvit", "spot"):
        path = script.cost_tower.seeded_predictors(method, tower, tmp_path)
        assert origin(path)["training"].startswith("none: seeded")
        assert json.loads(origin(path)["blocks"]) == [6, 12, 18]
    labels = [row.label for row in rows.contenders(20, 144) if row.method in ("dynamicvit", "spot")]
    assert all(label.endswith("seeded predictors") for label in labels)


def test_every_reduction_is_timed_in_its_parts(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the small model: all rows, parts that add up to about the whole, ranked, a share each."""
    out = tmp_path / "cost.json"
    page = tmp_path / "page.md"
    page.write_text("before\n" + "old\n".join(script.MARKERS) + "\nbehind\n")
    given = f"--model llava_tiny --rounds 2 --tower-rounds 1 --budget 20 --into {page} --out"
    monkeypatch.setattr(sys, "argv", ["reduction_cost.py", *given.split(), str(out)])
    script.main()
    report = json.loads(out.read_text())
    rows: dict[str, Any] = {row["label"]: row for row in report["rows"]}
    assert list(rows) == sorted(rows, key=lambda label: rows[label]["total_ms"]["median"])
    except_ = set(sys.modules["cost_rows"].EXCEPT)
    assert {row["method"] for row in rows.values()} == set(methods()) - except_
    assert report["tower"] == "llava_tiny: 145 x 64"
    for name in ("asap, pooling + stride", "asap, hybrid", "tome", "vispruner", "average_pool",
                 "cdpruner, seeded CLIP"):  # fmt: skip
        assert rows[name]["kept"] == [20], name
    for name in ("fastv", "shift_reading, our reading", "dynamicvit, seeded predictors"):
        assert rows[name]["kept"] == [20], name
    for name in ("walk, all layers", "fna, 20 landmarks", "fna_decoder, 256 landmarks"):
        assert rows[name]["kept"] == [144], name
    assert rows["no_visual_tokens"]["kept"] == [0]
    parts = {label: set(row["parts_ms"]) for label, row in rows.items()}
    assert {"walk", "masses", "attention maps"} <= parts["walk, all layers"]
    assert {"distances", "stage 2", "sink"} <= parts["asap, hybrid"]
    assert {"decomposition", "suppression"} <= parts["prunesid"]
    assert {"image resized", "position embedding resampled"} <= parts["downsample"]
    asked = {"question read", "CLIP's projection", "relevance", "cosines", "selection"}
    assert asked <= parts["cdpruner, seeded CLIP"]
    shorter = {"attention rows", "new sequence", "new positions", "host"}
    assert shorter | {"selection"} <= parts["fastv"]
    assert shorter | {"raters", "clustering"} <= parts["sparsevlm"]
    assert shorter | {"salience", "merging"} <= parts["shift_reading, our reading"]
    replaced = {"landmarks", "inverse", "attention in its place", "fused attention not run"}
    assert replaced <= parts["fna, 20 landmarks"]
    assert replaced | {"shorter cache"} <= parts["fna_decoder, 256 landmarks"]
    assert "new positions" not in parts["fna_decoder, 256 landmarks"]
    assert "predictor" in parts["dynamicvit, seeded predictors"]
    assert {"predictor", "statistics", "attention maps"} <= parts["spot, seeded predictors"]
    acts = {label: (row["acts"], row["acts_timed"]) for label, row in rows.items()}
    assert acts["fna_decoder, 256 landmarks"] == (20, 2)
    assert acts["sparsevlm"] == (3, 3)
    assert acts["walk, early stop"] == (12, 12)
    assert acts["walk, all layers"] == (23, 23)
    language = report["language"]
    assert language["shape"] == "llava_tiny: 204 x 64"
    assert language["prefill_ms"] == 18 * language["layer_ms"]["median"]
    said = capsys.readouterr().out
    assert "8 of 311 ms" in said
    assert "| 20 LLM layers, 2 timed |" in said
    filled = page.read_text()
    assert filled.startswith("before\n" + script.MARKERS[0])
    assert filled.endswith(script.MARKERS[1] + "\nbehind\n")
    assert "old" not in filled
    assert filled.count("\n| ") == len(rows) + 2
    # Everything watched is as it was.
    assert replacing.Probe is probe.Probe
    assert forward.attend_with_maps is attention.attend_with_maps
    assert "decide" not in vars(build("fastv"))
    assert method_class("fna_decoder").attend.__qualname__ == "FNADecoder.attend"
