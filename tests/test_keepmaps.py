"""Keep-maps: patches lie where the model saw them, and pictures say what the run's own map says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pictures import TINY, picture_folder
from PIL import Image
from torch import Tensor

from asap_eval.bench.bench import build_bench
from asap_eval.cli import main
from asap_eval.errors import DataError
from asap_eval.method import Need, View
from asap_eval.models import load_model
from asap_eval.record import read_records
from asap_eval.report.pictures.keep_map import DARK, DROPPED, KEPT, LIGHT, POOLED, SHARE
from asap_eval.report.pictures.keepmaps import map_of
from asap_eval.scorer import Plan, Scorer

PATCH, ACROSS = 16, 10
"""Of timm's tiny ViT."""


class Odd(Scorer):
    """Keeps the patch whose keys are least like the others': the one that looks different."""

    name: ClassVar[str] = "odd"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS})

    def score(self, view: View, state: Plan) -> Tensor:
        keys = view.keys[:, :, view.prefix :]
        return (keys - keys.median(2, keepdim=True).values).norm(dim=-1).mean(1)


def test_a_block_of_colour_lies_exactly_under_its_patch(tmp_path: Path) -> None:
    """The crop leaves other margins above than at the left, and the block is off the diagonal."""
    loaded = load_model(TINY[0].partition("=")[2], weights="random")
    loaded.model.pos_embed.data.zero_()  # type: ignore[operator,union-attr]
    resized = loaded.transform.transforms[0].size  # type: ignore[attr-defined]
    resized = resized if isinstance(resized, int) else resized[0]
    side = PATCH * ACROSS
    top, left = (resized - side) // 2, (resized + 40 - side) // 2
    row, column = 2, 7
    photo = np.full((resized, resized + 40, 3), 120, dtype=np.uint8)
    y, x = top + PATCH * row, left + PATCH * column
    photo[y : y + PATCH, x : x + PATCH] = (250, 20, 20)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")

    bench = build_bench("keepmaps")
    images = bench.open(str(tmp_path / "photos"), loaded, limit=None, sample="first")
    bench.begin(tmp_path / "record", 0)
    batches = bench.batches(loaded, images, batch_size=1)
    odd = Odd(k=1 / ACROSS**2, layer=1, rest="drop")
    ((found,),) = bench.evaluate(loaded, odd, batches, seed=0)

    patch = ACROSS * row + column
    assert found["fates"] == [KEPT if at == patch else DROPPED for at in range(ACROSS**2)]
    with Image.open(tmp_path / "inputs" / found["input"]) as opened:
        seen = opened.convert("RGB")
    expected = np.full((side, side, 3), 120, dtype=np.int64)
    block = np.s_[PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
    expected[block] = (250, 20, 20)
    assert np.abs(np.asarray(seen).astype(int) - expected).max() <= 1
    drawn = np.asarray(map_of(found, seen, (ACROSS, ACROSS)).drawn(side)).astype(int)
    dark = 120 + SHARE[DROPPED] * (np.array(DARK) - 120)
    expected[:] = dark.round()
    expected[block] = (250, 20, 20)
    dots = np.zeros((side, side), dtype=bool)  # light ones, in the middle of what was dropped
    dots[PATCH // 2 - 1 :: PATCH] = dots[PATCH // 2 :: PATCH] = dots[PATCH // 2 + 1 :: PATCH] = True
    dots &= dots.T
    dots[block] = False
    assert np.abs(drawn - expected)[~dots].max() <= 2
    assert (drawn[dots] == LIGHT).all()


def test_classes_are_those_of_the_source_map() -> None:
    """Two patches of one token have its colour, a lone one its own, a dropped one is dark."""
    colours = np.array([[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]], dtype=np.uint8)
    image = Image.fromarray(colours.repeat(20, 0).repeat(20, 1))
    row = {"fates": [POOLED, KEPT, DROPPED, POOLED], "source": [2, 1, -1, 2], "notes": {"sink": 3}}
    one = map_of(row, image, (2, 2))
    assert one.sink == 3
    drawn = np.asarray(one.drawn(40)).astype(int)
    first, last = drawn[4:6, 4:6].reshape(-1, 3), drawn[25:27, 25:27].reshape(-1, 3)
    assert (first == last).all()  # the mean colour of their token
    assert first[0] == pytest.approx([195, 152.5, 117.5], abs=2)
    assert (drawn[:20, 20:] == (0, 200, 0)).all()
    assert drawn[20:26, :20].max() < 40


def test_one_command_draws_methods_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = picture_folder(tmp_path / "photos", each=1)
    (photos / "torn.png").write_bytes(b"")
    given = [*TINY, "bench=keepmaps", f"images={photos}", "results=r"]
    never = ["method.tau=1000", "method.never=block:3"]  # of asap alone: tome has no such options
    assert main([*given, "methods=[asap,tome]", "k=2", *never, "batch_size=2"]) == 0
    out, err = capsys.readouterr()
    assert [line.split("-")[1] for line in out.splitlines()[-2:]] == ["asap", "tome"]
    assert "torn.png cannot be read" in err
    sheets = sorted(path.name for path in (tmp_path / "r" / "pictures").iterdir())
    assert len(sheets) == 6
    assert sheets[0] == "keepmap.test_vit-keepmaps-4.01-000.png"

    for path, record in read_records(tmp_path / "r")[0]:
        rows = [json.loads(line) for line in path.with_suffix(".samples.jsonl").open()]
        assert [row["id"] for row in rows] == [
            *(f"{name}/000.png" for name in ("n01440764", "n01443537", "n01484850")),
            "torn.png",
        ]
        read = rows[:3]
        assert rows[3]["source"] is None
        for row in read:
            assert (tmp_path / "r" / "inputs" / row["input"]).is_file()
            alone = [row["source"].count(slot) == 1 for slot in row["source"]]
            assert [fate == KEPT for fate in row["fates"]] == alone
        if record.job.method == "asap":
            for row in read:
                notes = row["notes"]
                assert row["fired"] == 3
                assert notes["distance"][notes["sink"]] == 0
                # Bin 0 is the background: what was pooled, the sink always.
                background = [fate == POOLED for fate in row["fates"]]
                assert [b == 0 for b in notes["bin"]] == background or sum(background) == 0
        assert record.analysis is not None
        mean = sum(row["fates"].count(KEPT) for row in read) / 3 / ACROSS**2
        assert record.analysis["kept"] == pytest.approx(mean)
    assert len(list((tmp_path / "r" / "inputs").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["methods=asap"], "give a list"),
        (["methods=[asap]", "method=tome"], "without method="),
        (["methods=[asap]", "experiment=table1"], "choose one with method="),
        (["methods=[asab]"], "asap"),
        (["methods=[tome]", "method.tau=1"], "method.tau"),
    ],
)
def test_lists_of_methods_that_make_no_sense(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "bench=keepmaps", "images=x", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    loaded = load_model("test_vit", weights="random")
    bench = build_bench("keepmaps")
    for data, says in ((tmp_path, "no image"), (tmp_path / "none", "no folder")):
        with pytest.raises(DataError, match=says):
            bench.open(str(data), loaded, limit=None, sample="first")
