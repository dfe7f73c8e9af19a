"""Pictures from records: every kind from a few fixed ones, the same bytes twice."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from records import AT_35, baseline, make, put
from safetensors.torch import save_file

from asap_eval import record as rec
from asap_eval.cli.report import main
from asap_eval.method import methods
from asap_eval.record import RunRecord, read_records
from asap_eval.report.pictures.curves import curves
from asap_eval.report.pictures.figure import Figure
from asap_eval.report.pictures.kinds import PICTURES, figures
from asap_eval.report.pictures.looks import GREY, LOOKS, is_control, look_of
from asap_eval.report.pictures.published import published
from asap_eval.report.pictures.trade import Point, by_macs, front, untold

BLOCKS, PATCHES = 3, 4


def spread(mean: float) -> dict[str, float]:
    marks = {f"q{q}": mean * (0.5 + q / 100) for q in (5, 25, 50, 75, 95)}
    return {"n": 9, "mean": mean, "sd": 0.1, **marks}


def walk(folder: Path, **options: Any) -> RunRecord:
    """A record of bench=walk with its arrays."""
    params = {"alpha": 0.5, "order": "walk", "chain": "full", **options}
    blocks = range(1, BLOCKS + 1)
    analysis = {
        "blocks": BLOCKS,
        "sink_emergence": {
            "peak": [spread(float(block)) for block in blocks],
            "peak_with_prefix": [spread(10.0 * block) for block in blocks],
        },
    }
    plain = make("none", metrics=None, paired=None, key=f"walk{params['alpha']}")
    job = replace(plain.job, bench="walk", bench_params=params)
    arrays = {
        "mean": torch.full((BLOCKS, PATCHES + 1, PATCHES + 1), 1 / (PATCHES + 1)),
        "heaviest": torch.ones(BLOCKS, 2, 2, dtype=torch.long),
        "sink": torch.ones(BLOCKS, 2, 2, dtype=torch.long),
    }
    save_file(arrays, folder / f"{job.bench}{params['alpha']}.safetensors")
    named = f"{job.bench}{params['alpha']}.safetensors"
    return replace(plain, job=job, analysis=analysis, arrays=named)


def saliency(method: str, recall: float, **more: Any) -> RunRecord:
    names = {"foreground_recall": recall, "background_removal": 0.5, "youden_j": recall - 0.5}
    means = {f"{name}_ci95": [value - 0.1, value + 0.1] for name, value in names.items()}
    keep = 1.0 if method == "none" else 0.5
    record = make(method, metrics=None, paired=None, key=f"saliency-{method}")
    return replace(
        record,
        job=replace(record.job, bench="saliency", bench_params={"threshold": 0.5}),
        analysis={"keep_rate": keep, "base_rate": 0.4, **names, **means, **more},
    )


def keepmap(folder: Path, method: str, source: list[int], **notes: Any) -> RunRecord:
    """A record of bench=keepmaps over one image of 2 x 2 patches."""
    (folder / "inputs").mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), (200, 100, 0)).save(folder / "inputs" / "a.png")
    row = {
        "id": "n1/a.jpeg",
        "source": source,
        "fates": [2 if s < 0 else int(source.count(s) > 1) for s in source],
        "notes": notes,
        "input": "a.png",
        "tokens": 2,
        "fired": 3,
        "error": None,
    }
    (folder / f"{method}.samples.jsonl").write_text(json.dumps(row) + "\n")
    record = make(method, metrics=None, paired=None, key=f"keepmaps-{method}")
    job = replace(record.job, bench="keepmaps")
    samples = f"{method}.samples.jsonl"
    return replace(record, job=job, samples=samples, analysis={"grid": [2, 2]})


def at_alpha(alpha: float) -> RunRecord:
    found = rec.Calibration(2.0 + alpha, -35.0, [-60, -1], 64, "d", True, 9)
    params = {"alpha": alpha, "tau": 1.4}
    return make(params=params, budget=AT_35, calibration=found, key=f"a{alpha}")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records that allow every kind of picture."""
    folder = tmp_path / "results"
    folder.mkdir()
    rows = "".join(
        json.dumps({"id": str(at), "tokens": 10 + at, "error": None}) + "\n" for at in range(30)
    )
    (folder / "some.samples.jsonl").write_text(rows)
    speed = {
        "fused_img_s": 200.0,
        "method_img_s": 240.0,
        "speedup": {"median": 1.2, "p10": 1.1, "p90": 1.3},
        "share_of_ideal": 0.9,
    }
    grid = [
        make(params={"tau": tau}, k=k, key=f"g{tau}{k}", top1=60 + k + tau)
        for tau in (1.4, 1.7)
        for k in (2.0, 4.0)
    ]
    same = {"budget": AT_35, "samples": "some.samples.jsonl"}
    rivals = [
        make("tome", **same, speed=speed, key="t"),
        *(make("random", **same, speed=speed, seed=seed, key=f"r{seed}") for seed in (0, 1)),
    ]
    curved = [
        make(
            method,
            budget=rec.Budget("macs", target),
            reduction_pct=target,
            key=f"c{method}{target}",
        )
        for method in ("ats", "random", "stride")
        for target in (-20.0, -50.0, -70.0)
    ]
    blocks = [
        {"block": b, "heaviest_on_foreground": 0.2 * b, "heaviest_on_foreground_ci95": [0, 1]}
        for b in range(1, BLOCKS + 1)
    ]
    budget = rec.Budget("macs", -38.46)
    judged = [
        make(method, budget=budget, reduction_pct=-38.4, params={}, key=f"j{method}")
        for method in ("tome", "ppt")
    ]
    return put(
        folder,
        baseline(),
        *judged,
        *curved,
        *grid,
        *rivals,
        *map(at_alpha, (0.1, 0.5, 0.9)),
        walk(folder),
        walk(folder, alpha=0.9),
        saliency("none", 1.0, blocks=blocks),
        saliency("evit", 0.8),
        saliency("random", 0.5),
        keepmap(
            folder, "asap", [1, 2, 2, 3], sink=1, distance=[0.3, 0, 0.1, 0.4], bin=[1, 0, 0, 1]
        ),
        keepmap(folder, "random", [1, -1, -1, 2]),
    )


def drawn(folder: Path) -> list[Figure]:
    return figures(read_records(folder)[0])


def test_every_kind_is_drawn_and_twice_the_same(results: Path) -> None:
    found = drawn(results)
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)
    for kind in PICTURES:
        assert any(name.startswith(kind.name) for name in names), kind.name
    assert found == drawn(results)
    for figure in found:
        assert figure.title
        assert figure.caption
        assert figure.alt
        root = ElementTree.fromstring(figure.svg)
        assert root.tag.endswith("svg")
        assert not any("date" in element.tag for element in root.iter())
        with Image.open(io.BytesIO(figure.png)) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 8, "an empty picture"


def test_a_curve_has_three_budgets_and_begins_at_the_unpruned_model(results: Path) -> None:
    (figure,) = curves(read_records(results)[0])
    assert figure.alt.startswith("3 panels")
    assert "ats -9.2 at -20 %, -9.2 at -50 %, -9.2 at -70 %" in figure.alt
    assert figure.alt.index("ats") < figure.alt.index("random") < figure.alt.index("stride")
    assert "tome" not in figure.alt, "two budgets are no curve"


def test_an_unfinished_record_changes_nothing(results: Path) -> None:
    before = drawn(results)
    failed = make("ats", budget=AT_35, key="f", metrics=None, macs=None, paired=None)
    put(results, replace(failed, status="failed", error="no"))
    assert drawn(results) == before


def test_frames_of_a_video_count_one_by_one(results: Path) -> None:
    """A sample of bench=kinetics has a list of tokens, one for each frame."""
    from asap_eval.report.pictures.tokens import tokens

    before = tokens(read_records(results)[0])
    samples = results / "some.samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    pairs = [{**row, "tokens": [row["tokens"]] * 2} for row in rows]
    samples.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    after = tokens(read_records(results)[0])
    assert [figure.name for figure in after] == [figure.name for figure in before] != []


def test_measured_stands_beside_published(tmp_path: Path) -> None:
    """Rows of Table 1 with a verdict, and a control; nothing with fewer judged rows."""
    budget = rec.Budget("macs", -38.46)
    close = make("tome", budget=budget, top1=78.0, reduction_pct=-38.4, params={},
                 paired=rec.Paired(-1.2, [-2.5, 0.1], 0.09))  # fmt: skip
    far = make("ppt", budget=budget, top1=9.5, reduction_pct=-38.4,
               paired=rec.Paired(-69.7, [-74.0, -65.0], 0.0))  # fmt: skip
    control = make("random", budget=budget, top1=72.0, reduction_pct=-38.4)
    put(tmp_path, baseline(), close, control)
    assert published(read_records(tmp_path)[0]) == []
    put(tmp_path, far)
    (figure,) = published(read_records(tmp_path)[0])
    assert "-1.20, published -1.05" in figure.alt
    assert "-69.70, published -0.62" in figure.alt
    assert figure.alt.index("tome") < figure.alt.index("ppt") < figure.alt.index("random")


def test_the_front_is_what_nothing_beats() -> None:
    def at(x: float, y: float) -> Point:
        return Point("m", x, y, None, None)

    cheap, middle, best = at(0.5, 60), at(0.8, 70), at(1.2, 80)
    beaten, equal = at(0.9, 69), at(0.8, 65)
    points = [beaten, best, equal, cheap, middle]
    assert front(points, -1) == [cheap, middle, best]
    assert front([at(-p.x, p.y) for p in points], 1) == [
        at(-p.x, p.y) for p in (cheap, middle, best)
    ]


def test_no_front_is_drawn_through_noise() -> None:
    def at(x: float, y: float, half: float, method: str = "tome") -> Point:
        return Point(method, x, y, None, (y - half, y + half))

    whole = Point("none", 1.0, 80.0, None, None)
    sure = [at(0.5, 60, 2), at(0.7, 70, 2), whole]
    assert untold(sure, -1) == ""
    assert untold([*sure, at(0.7, 69, 2, "evit")], -1) == "tome and evit cannot be told apart"
    assert untold([at(0.5, 79, 2), whole], -1) == "none and tome cannot be told apart"
    unknown = Point("ppt", 0.6, 65.0, None, None)
    assert untold([*sure, unknown], -1) == "ppt and tome cannot be told apart"
    assert untold([at(0.5, 80, 0), whole], -1) == "one setting beats all others"


def test_one_budget_is_a_dot_plot(tmp_path: Path) -> None:
    """Rows from the smallest loss to the largest; a curve where the work differs."""
    far = rec.Paired(-20.0, [-25.0, -15.0], 0.0)
    put(tmp_path, baseline(), make("tome", key="t"), make("random", key="r", paired=far))
    (figure,) = by_macs(read_records(tmp_path)[0])
    assert figure.alt == (
        "Dot plot of 2 settings, change of top-1 in points: tome -9.20 [-11.60, -6.80]; "
        "random -20.00 [-25.00, -15.00]."
    )
    put(tmp_path, make("evit", key="e", reduction_pct=-40.0))
    (figure,) = by_macs(read_records(tmp_path)[0])
    assert figure.alt.startswith("Scatter plot of 4 settings")


def test_a_method_has_one_look_and_needs_no_colour() -> None:
    """No two of the package share marker and fill; ``D`` stays with published figures."""
    own = {n for n, c in methods().items() if c.__module__.startswith("asap_eval.methods.")}
    assert own == LOOKS.keys()
    marks = [(marker, fill) for _, marker, fill in LOOKS.values()]
    assert len(set(marks)) == len(marks)
    assert not any(marker == "D" for marker, _ in marks)
    assert look_of("a_plugin") == look_of("a_plugin")
    greys = {look_of(name).colour for name in LOOKS if is_control(name)}
    assert greys == {GREY}


def test_command_writes_both_formats_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "r", tmp_path / "o"
    put(folder, baseline(), make("tome", key="t"), make("evit", key="e", top1=75.0))
    assert main(["pictures", f"results={folder}", f"out={out}"]) == 0
    says = capsys.readouterr()
    paths = [Path(line) for line in says.out.splitlines()]
    assert [path.name for path in paths] == [
        "accuracy-macs.deit_tiny-imagenet-500.svg",
        "accuracy-macs.deit_tiny-imagenet-500.png",
    ]
    assert all(path.stat().st_size for path in paths)
    assert "not drawn: accuracy-throughput: needs records with a measured speed" in says.err
    assert "experiment=fig7" in says.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["results=nowhere"], 1, "No record in nowhere"),
        (["result=x"], 2, "results"),
        (["results"], 2, "with a key of results, out"),
    ],
)
def test_errors_say_what_to_do(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pictures", *words]) == code
    assert says in capsys.readouterr().err


def test_records_without_pictures_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, baseline())
    assert main(["pictures", f"results={tmp_path}", f"out={tmp_path / 'o'}"]) == 1
    assert "No picture can be made" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_torn_file_beside_a_record_is_named(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / "inputs" / "a.png").write_bytes(b"no picture")
    assert main(["pictures", f"results={results}", f"out={results / 'o'}"]) == 0
    said = capsys.readouterr()
    assert "a.png cannot be read" in said.err
    assert "accuracy-macs" in said.out, "the other pictures are drawn"
    assert "keepmap" not in said.out
