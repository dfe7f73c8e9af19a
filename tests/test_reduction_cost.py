"""Sections of time, and the script that says what each reduction costs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from project import ROOT

import asap_eval.bench.sections
from asap_eval.bench.sections import Sections, milliseconds
from asap_eval.method import methods

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
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(asap_eval.bench.sections, "time", made)
    return made


def test_a_section_counts_its_own_time_alone(clock: Clock) -> None:
    sections = Sections(CPU)
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


def test_a_function_is_timed_and_given_back(clock: Clock) -> None:
    class Base:
        def work(self, seconds: float) -> float:
            clock.wait(seconds)
            return seconds

    class Derived(Base):
        pass

    sections, plain = Sections(CPU), Base.work
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


def test_milliseconds_of_a_step(clock: Clock) -> None:
    assert milliseconds(lambda: clock.wait(0.25), CPU) == 250


@pytest.fixture
def script() -> Any:
    path = ROOT / "benchmarks" / "reduction_cost.py"
    spec = importlib.util.spec_from_file_location("reduction_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_reduction_is_timed_in_its_parts(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the small tower: all rows, parts that add up to about the whole, ranked, a share each."""
    out = tmp_path / "cost.json"
    given = "--model llava_tiny --rounds 3 --tower-rounds 1 --budget 20 --out"
    monkeypatch.setattr(sys, "argv", ["reduction_cost.py", *given.split(), str(out)])
    script.main()
    report = json.loads(out.read_text())
    rows = {row["label"]: row for row in report["rows"]}
    assert list(rows) == sorted(rows, key=lambda label: rows[label]["total_ms"]["median"])
    assert {row["method"] for row in rows.values()} >= {
        name for name, cls in methods().items() if getattr(cls, "site", "") == "output"
    } - {"no_visual_tokens"}
    assert report["tower"] == "llava_tiny: 145 x 64"
    for name in ("asap, pooling + stride", "asap, hybrid", "tome", "vispruner", "average_pool"):
        assert rows[name]["kept"] == [20], name
    assert rows["walk, all layers"]["kept"] == [144]
    assert {"walk", "masses", "attention maps"} <= set(rows["walk, all layers"]["parts_ms"])
    assert {"distances", "stage 2", "sink"} <= set(rows["asap, hybrid"]["parts_ms"])
    assert {"decomposition", "suppression"} <= set(rows["prunesid"]["parts_ms"])
    assert (
        rows["walk, early stop"]["parts_ms"]["walk"] < rows["walk, all layers"]["parts_ms"]["walk"]
    )
    assert "8 of 311 ms" in capsys.readouterr().out
