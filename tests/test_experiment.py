"""Experiment files: what they may say, how rows multiply, which model takes which row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asap_eval.errors import AsapEvalError
from asap_eval.experiment import Experiment, load, parse
from asap_eval.experiment.published import published_from
from asap_eval.method import build, methods
from asap_eval.paths import conf_dir


def made(rows: Any, common: Any = None, **about: Any) -> Experiment:
    return parse("mine", {"about": about, "common": common or {}, "rows": rows})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, ["`rows:`"]),
        ({"rows": []}, ["`rows:`"]),
        ({"rows": ["asap"]}, ["`rows:`"]),
        ({"rows": [{}], "row": 1}, ["experiment file 'mine'", "'row'", "rows"]),
        ({"rows": [{}], "common": ["asap"]}, ["common"]),
        ({"rows": [{}, {"metod": "asap"}]}, ["key of row 2", "'metod'", "method"]),
        ({"rows": [{}], "common": {"sweep": {}}}, ["key of common", "'sweep'"]),
        ({"rows": [{"results": "x"}]}, ["'results'"]),
        ({"rows": [{"sweep": [1]}]}, ["row 1", "{key: [values]}"]),
        ({"rows": [{"sweep": {"k": 3}}]}, ["sweep of k", "list"]),
        ({"rows": [{"sweep": {"k": []}}]}, ["sweep of k", "list"]),
        ({"rows": [{"k": 2, "sweep": {"k": [3]}}]}, ["k stands in the row and in its sweep"]),
        ({"rows": [{"sweep": {"tau": [3]}}]}, ["row 1, sweep", "'tau'"]),
        ({"rows": [{"needs": "weights"}]}, ["needs='weights'"]),
        ({"rows": [{"published": 3}]}, ["published=3"]),
        ({"rows": [{"published": {}}]}, ["what the paper prints"]),
        ({"rows": [{"published": {"acuracy": 3}}]}, ["'acuracy'", "acc"]),
        ({"rows": [{"published": {"acc": "high"}}]}, ["published.acc='high'", "number"]),
        ({"rows": [{"published": {"acc": True}}]}, ["published.acc=True", "number"]),
        ({"rows": [{"published": {"row": 3}}]}, ["published.row=3", "text"]),
        ({"rows": [{"published": {"tasks": 3}}]}, ["published.tasks=3", "{task: number}"]),
        ({"rows": [{"published": {"tasks": {"gqa": "3"}}}]}, ["{'gqa': '3'}", "{task: number}"]),
        ({"rows": [{"reading": 3}]}, ["row 1", "reading=3", "text"]),
        ({"rows": [{}], "about": {"samples": {"gqa": 0}}}, ["about.samples={'gqa': 0}"]),
        (
            {"rows": [{"published": {"baseline": 81.8, "acc": 81.3, "delta": 0.5}}]},
            ["-0.50", "+0.50"],
        ),
        ({"rows": [{}], "about": {"papper": "T"}}, ["'papper'", "paper"]),
        ({"rows": [{}], "about": {"title": 3}}, ["about.title=3"]),
        ({"rows": [{}], "about": {"samples": 0}}, ["about.samples=0"]),
        ({"rows": [{}], "about": {"notes": "one"}}, ["about.notes='one'"]),
        ({"rows": [{}], "about": {"layout": "gird"}}, ["'gird'", "grid"]),
        ({"rows": [{"sweep": {"k": [2]}}], "about": {"layout": "grid"}}, ["two keys"]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else None,
)
def test_a_wrong_file_is_refused_in_words(content: dict[str, Any], says: Sequence[str]) -> None:
    with pytest.raises(AsapEvalError) as error:
        parse("mine", content)
    for part in says:
        assert part in str(error.value)


def test_sweeps_multiply_in_order_and_a_job_comes_once() -> None:
    found = made(
        [
            {"method": "asap", "sweep": {"k": [2, 4], "method.tau": [1.4, 1.7]}},
            {"method": "asap", "k": 2, "method.tau": 1.7},
        ],
        {"limit": 9},
    ).entries
    assert [(e.overrides["k"], e.overrides["method.tau"]) for e in found] == [
        (2, 1.4),
        (2, 1.7),
        (4, 1.4),
        (4, 1.7),
    ]
    assert found[1].swept == {"k": 2, "method.tau": 1.7}
    assert all(e.overrides["limit"] == 9 and e.method == "asap" for e in found)


def test_seeds_are_one_line() -> None:
    first, second, other = made(
        [{"method": "random", "sweep": {"seed": [0, 1]}}, {"method": "random", "k": 0.5}]
    ).entries
    assert first.line == second.line != other.line


def test_a_row_wins_over_common_and_values_over_a_sweep() -> None:
    rows = [{"limit": 3, "sweep": {"k": [2, 4, 8]}}]
    narrowed = {"k": [3], "limit": [5]}
    (entry,) = parse("mine", {"common": {"limit": 1}, "rows": rows}, narrowed).entries
    assert entry.overrides == {"limit": 3, "k": 3}


def test_the_difference_is_the_printed_one_or_that_of_the_accuracies() -> None:
    rows = [
        {"published": {"baseline": 81.8, "acc": 81.68, "delta": -0.13}},
        {"published": {"baseline": 81.8, "acc": 77.64}},
        {"published": {"acc": 77.64}},
    ]
    changes = [e.published.change for e in made(rows).entries if e.published]
    assert changes == [-0.13, -4.16, None]


def test_which_model_takes_which_row() -> None:
    experiment = made([{"k": 2}, {"model": "lvvit_s", "k": 3}], {"model": "deit_base"})
    free, named = experiment.entries

    def taken(model: str) -> list[Any]:
        return [e for e in experiment.entries if experiment.takes(e, model)]

    assert taken("deit_base") == [free]
    assert taken("lvvit_s") == [named]
    assert taken("deit_tiny") == [free]
    only_named = made([{"model": "lvvit_s"}])
    assert not only_named.takes(only_named.entries[0], "deit_tiny")


def test_what_a_row_lacks_is_what_nobody_gave() -> None:
    (entry,) = made([{"needs": {"weights": "the file", "method.checkpoint": "another"}}]).entries
    assert entry.lacks() == "it needs weights= (the file) and method.checkpoint= (another)"
    assert entry.lacks(["weights"]) == "it needs method.checkpoint= (another)"
    assert entry.lacks(["weights", "method.checkpoint"]) is None


def test_load_finds_names_and_files(tmp_path: Path) -> None:
    assert load("table1").about.paper == "Table 1"
    file = tmp_path / "own.yaml"
    file.write_text("rows: [{method: none}]\n")
    assert load(str(file)).name == "own"
    for name, says in (("table12", "table1"), (str(tmp_path / "no.yaml"), "Unknown experiment")):
        with pytest.raises(AsapEvalError, match=says):
            load(name)
    for text in ("rows: [", "[1]"):
        file.write_text(text)
        with pytest.raises(AsapEvalError, match=r"own\.yaml"):
            load(str(file))


# What the files hold of the paper

MODELS = {
    "DeiT-Base": "deit_base",
    "DeiT-Small": "deit_small",
    "DeiT-Tiny": "deit_tiny",
    "ViT-AugReg": "vit_small_augreg",
    "LV-ViT-S": "lvvit_s",
}


def rows_of_paper(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def number(text: str) -> float | None:
    return float(text) if text else None


@pytest.mark.golden("paper/imagenet.csv")
def test_table_1_holds_every_row_at_its_macs(shared: Path) -> None:
    rows = [
        (MODELS[r["model"]], r["method"], *(number(r[name]) for name in list(r)[2:]))
        for r in rows_of_paper(shared / "paper" / "imagenet.csv")
    ]
    ours = {
        (e.model, p.row, p.baseline, p.acc, p.delta, p.macs, p.throughput): e
        for e in load("table1").entries
        if (p := e.published)
    }
    assert set(ours) == set(rows)
    assert all(e.overrides["target"] == e.published.macs for e in ours.values() if e.published)


@pytest.mark.golden("paper/anchor_imagenet.csv")
def test_table_2_holds_every_row(shared: Path) -> None:
    rows = {
        (MODELS[r["model"]], r["anchor"], float(r["acc"]), float(r["throughput_delta_pct"]))
        for r in rows_of_paper(shared / "paper" / "anchor_imagenet.csv")
    }
    ours = [(e, e.published) for e in load("table2").entries]
    assert {(e.model, p.row, p.acc, p.throughput) for e, p in ours if p} == rows
    anchors = {(p.row, e.overrides["method.anchor"]) for e, p in ours if p}
    assert anchors == {("Random", "random"), ("Attention Sink", "cls")}


@pytest.mark.golden("paper/accumulation_overhead.csv")
def test_table_7_holds_every_row(shared: Path) -> None:
    rows = {
        (r["model"], float(r["flops_g"]), float(r["throughput_img_s"]))
        for r in rows_of_paper(shared / "paper" / "accumulation_overhead.csv")
    }
    facts = [e.published for e in load("table7").entries]
    assert {(p.row, p.gmacs, p.img_s) for p in facts if p} == rows


@pytest.mark.golden("paper/alpha_deit_base.csv")
def test_alpha_holds_every_row(shared: Path) -> None:
    rows = {
        tuple(map(float, r.values())) for r in rows_of_paper(shared / "paper/alpha_deit_base.csv")
    }
    ours = [(e.overrides["method.alpha"], e.published) for e in load("alpha").entries]
    assert {(alpha, p.acc, p.img_s) for alpha, p in ours if p} == rows


TASKS = {
    "gqa": "gqa",
    "mme": "mme",
    "pope": "pope",
    "sqa_img": "scienceqa_img",
    "vizwiz": "vizwiz_vqa_val",
    "vqav2": "vqav2_val",
    "mmb_en": "mmbench_en_dev_static",
}
"""lmms-eval's tasks by the columns of the paper's tables."""


@pytest.mark.golden(
    *(f"paper/{name}.csv" for name in ("llava15", "llava_next", "modular_composition_llava15")),
    "paper/anchor_llava_next.csv",
)
@pytest.mark.parametrize(
    ("name", "file", "extra"),
    [
        ("table5", "llava15", set()),
        ("table6", "llava_next", set()),
        ("table10", "modular_composition_llava15", set()),
        ("table11", "anchor_llava_next", {"LLaVA-Next (Full)"}),  # from Table 6
    ],
)
def test_tables_of_language_models_hold_every_row(
    name: str, file: str, extra: set[str], shared: Path
) -> None:
    rows = set()
    for r in rows_of_paper(shared / "paper" / f"{file}.csv"):
        scores = frozenset((TASKS[k], float(v)) for k, v in r.items() if k in TASKS)
        avg, rel = r.get("avg"), r.get("rel_pct") or r.get("avg_rel_pct")
        row = r.get("method") or r["anchor"]
        rows.add((row, scores, number(avg or ""), number(rel or "")))
    ours = [
        (e, e.published) for e in load(name).entries if e.published and e.published.row not in extra
    ]
    assert {(p.row, frozenset(p.tasks.items()), p.avg, p.rel) for _, p in ours} == rows
    for entry, published in ours:
        assert set(published.tasks) == set(entry.overrides["tasks"])
        build(entry.method)  # a method of ours


def test_a_cited_row_has_the_task_of_either_of_two_columns() -> None:
    """POPE is an F1 in most of the paper's tables and an accuracy in others."""
    cited = published_from({"table": 5, "section": "128 tokens", "row": "VisionZip"}, "here")
    assert cited.tasks["pope"] == 83.2
    assert cited.avg == pytest.approx(
        sum(v * (0.05 if k == "mme" else 1) for k, v in cited.tasks.items()) / 7, abs=0.051
    )


@pytest.mark.parametrize(
    ("name", "counts", "full"),
    [("zoo_llava15", (192, 128, 64), 576), ("zoo_llava_next", (640, 320, 160), 2880)],
)
def test_zoos_have_every_method_at_every_count(
    name: str, counts: tuple[int, ...], full: int
) -> None:
    """As often as there are counts, with random patches and the floor; settings make the counts."""
    entries = load(name).entries
    times = Counter(e.method for e in entries)
    assert times["none"] == times["no_visual_tokens"] == 1
    less = {"prumerge", "sparsevlm"}  # no count; no list of its authors for so few
    ours = {n for n, cls in methods().items() if cls.tower == "language" or cls.site == "output"}
    for method in ours - {"none", "no_visual_tokens", "shift_reading", "fna_decoder"} - less:
        assert times[method] >= 3, method
    assert all(times[method] for method in less)
    assert times["random"] == 5 * times["stride"] == 15
    for entry in entries:
        build(entry.method)
    drops = [e.overrides for e in entries if e.method == "pyramiddrop"]
    for count, drop in zip(counts, drops, strict=True):
        edges = [0, *drop["method.layers"], 32]
        mean = sum((b - a) * drop["k"] ** at for at, (a, b) in enumerate(pairwise(edges))) / 32
        assert mean * full == pytest.approx(count, rel=0.003)
    schedules = [e.overrides["method.r"] for e in entries if e.method == "tome"]
    each = counts if full == 576 else [count // 5 for count in counts]
    assert [576 - sum(schedule) for schedule in schedules] == list(each)
    cited = [e for e in entries if e.published]
    assert len(cited) > 15
    for entry in cited:
        assert set(entry.published.tasks) <= set(entry.overrides["tasks"])


@pytest.mark.parametrize(
    ("name", "total", "count"), [("table5", 576, 2), ("table6", 576, 3)], ids=["table5", "table6"]
)
def test_schedules_of_tome_leave_the_tokens_of_their_row(name: str, total: int, count: int) -> None:
    schedules = [e.overrides["method.r"] for e in load(name).entries if e.method == "tome"]
    assert len(schedules) == count
    left = [128, 64, 32][:count]
    assert [total - sum(schedule) for schedule in schedules] == left
    for schedule in schedules:
        assert len(schedule) == 23
        assert max(schedule) - min(schedule) <= 1
        assert schedule == sorted(schedule, reverse=True)


@pytest.mark.parametrize("path", sorted(conf_dir().glob("experiment/*.yaml")), ids=lambda p: p.stem)
def test_every_file_says_what_it_asks(path: Path) -> None:
    experiment = load(path.stem)
    assert path.stem == "example" or experiment.about.asks
    assert experiment.about.paper or not experiment.compares
