"""Keep-maps: the right patches pale, dark and framed; files that open again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from PIL import Image

from asap_eval.cli import strip as command
from asap_eval.cli.crops import crop_maps
from asap_eval.cli.strip import keep_maps, main
from asap_eval.errors import BadValueError
from asap_eval.report.pictures.keep_map import DROPPED, KEPT, POOLED, RED, KeepMap
from asap_eval.report.pictures.strip import save_animated, strip


def mean(image: Image.Image, row: int, column: int) -> np.ndarray:
    """Colour of a patch of 40 pixels, beside its dot."""
    box = (40 * column + 4, 40 * row + 4, 40 * column + 12, 40 * row + 12)
    return np.asarray(image.crop(box), dtype=float).mean((0, 1))


def test_fates_are_drawn_where_their_patches_are() -> None:
    frame = Image.new("RGB", (30, 20), (200, 100, 0))
    fates = [KEPT, POOLED, DROPPED, DROPPED, KEPT, KEPT]
    one = KeepMap(frame, (2, 3), fates, [1, 2, -1, -1, 3, 4], sink=5)
    drawn = one.drawn(80)
    assert drawn.size == (120, 80)
    assert mean(drawn, 0, 0).tolist() == mean(drawn, 1, 1).tolist() == [200, 100, 0]
    assert mean(drawn, 0, 1) == pytest.approx([195, 152.5, 117.5], abs=2)
    assert mean(drawn, 0, 2).max() < 40
    assert mean(drawn, 1, 0).max() < 40
    assert drawn.getpixel((80, 60)) == drawn.getpixel((119, 79)) == RED
    assert drawn.getpixel((79, 60)) != RED
    sheet = strip([one, one], side=80)
    assert sheet.size == (246, 180)
    assert (np.asarray(sheet.crop((0, 14, 120, 94))) == (200, 100, 0)).all()
    assert (np.asarray(sheet.crop((126, 100, 246, 180))) == np.asarray(drawn)).all()


def test_maps_of_a_video_are_those_of_its_frames(tmp_path: Path) -> None:
    video = clips.write(tmp_path / "a.mp4", clips.moving("disc fast", 3, count=20, size=80))
    maps = keep_maps(video, "digits_vit", "asap", k=2.5, frames=5)
    assert [one.title.split(":")[0] for one in maps] == ["#2", "#6", "#10", "#14", "#18"]
    for one in maps:
        assert len(one.fates) == 100
        assert one.sink is not None
        assert {KEPT, POOLED} == set(one.fates)
        assert f" {one.fates.count(KEPT)} of 100" in one.title
    assert len({tuple(one.fates) for one in maps}) > 1
    seen = np.asarray(maps[0].image, dtype=float)
    assert seen.shape == (80, 80, 3)
    original = np.asarray(clips.moving("disc fast", 3, count=20, size=80)[2], dtype=float)
    assert np.abs(seen - original).mean() < 6  # what lossy coding changes
    dropped = keep_maps(video, "digits_vit", "random", k=0.3, frames=2, params={"rest": "drop"})
    assert [(m.fates.count(KEPT), m.fates.count(DROPPED), m.sink) for m in dropped] == [
        (30, 70, None)
    ] * 2


def test_command_writes_both_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = clips.write(tmp_path / "a.mp4", clips.moving("disc", 3, size=80))
    given = [str(video), "--model", "digits_vit", "--k", "2.5", "--frames", "3"]
    pictures = [tmp_path / "o" / "s.png", tmp_path / "o" / "s.gif"]
    given += ["--out", str(pictures[0]), "--animate", str(pictures[1])]
    assert main([*given, "method.reduce=prune", "--side", "90"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in pictures]
    with Image.open(pictures[0]) as sheet, Image.open(pictures[1]) as moving:
        assert sheet.size == (3 * 90 + 12, 14 + 2 * 90 + 6)
        assert moving.size == (90, sheet.height)
        assert getattr(moving, "n_frames", 1) == 3
    refused = [(["method.reduc=x"], "Did you mean reduce"), (["--method", "asab"], "asap")]
    refused += [(["method.k=3"], "k=2.5 and method.k=3 both set the knob")]
    for bad, says in [*refused, (["--side", "0"], "pixels >= 1")]:
        assert main([*given, *bad]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(BadValueError, match=r"\.gif"):
        save_animated([], tmp_path / "a.jpg")


def test_crops_of_a_picture_lie_where_the_tiles_are(tmp_path: Path) -> None:
    """A red right half fills the right tile; a language-side method is drawn for one crop alone."""
    photo = np.full((168, 336, 3), 120, dtype=np.uint8)
    photo[:, 168:] = (250, 20, 20)
    path = tmp_path / "a.png"
    Image.fromarray(photo).save(path)
    params = {"layer": 3, "rest": "drop"}
    maps = crop_maps(path, "llava_next_tiny", "random", k=0.25, params=params)
    assert [one.title for one in maps] == [
        f"{name}: 36 of 144" for name in ("whole", "tile 1, 1", "tile 1, 2")
    ]
    means = [np.asarray(one.image, dtype=float).mean((0, 1)) for one in maps[1:]]
    assert means[0] == pytest.approx([120, 120, 120], abs=3)
    assert means[1] == pytest.approx([250, 20, 20], abs=3)
    assert len({tuple(one.fates) for one in maps}) == 3
    (one,) = crop_maps(path, "llava_tiny", "fastv", k=36)
    assert (one.fates.count(KEPT), one.fates.count(DROPPED)) == (36, 108)
    with pytest.raises(BadValueError, match=r"LLaVA-1\.5"):
        crop_maps(path, "llava_next_tiny", "fastv", k=36)


def test_two_settings_of_the_knob_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    for words in ("k=otsu method.k=3", "k=2 method.k=3"):
        assert main(["clip.mp4", "model=digits_vit", "method=asap", *words.split()]) == 2
        assert "both set the knob: drop one" in capsys.readouterr().err


def test_a_missing_file_of_the_method_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(command, "load_model", loads)
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    words = "model=digits_vit method=dynamicvit method.checkpoint=gone.safetensors"
    assert main(["clip.mp4", *words.split()]) == 1
    assert "gone.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "k", "params"),
    [
        ("k=2", 2.0, {"tau": 1.4}),
        ("k=otsu", None, {"tau": 1.4, "k": "otsu"}),
        ("k=2 method.tau=3", 2.0, {"tau": 3}),
        ("k=2 settings=none", 2.0, {}),
        ("k=2 model=digits_vit", 2.0, {}),
    ],
)
def test_defaults_are_those_of_a_run(
    words: str,
    k: float | None,
    params: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[dict[str, Any]] = []

    def kept(*_: object, **given: Any) -> list[object]:
        seen.append(given)
        return []

    monkeypatch.setattr(command, "keep_maps", kept)
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    monkeypatch.setattr(command, "save_strip", lambda *_: None)
    assert main(["clip.mp4", *words.split()]) == 0
    assert (seen[0]["k"], seen[0]["params"]) == (k, params)
    noted = "measured on deit_tiny" in capsys.readouterr().err
    assert noted == (params.get("tau") == 1.4)


def test_what_cannot_be_drawn_is_said_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent.mp4")]) == 1
    assert "absent.mp4: there is no such file" in capsys.readouterr().err
    (tmp_path / "photo.png").touch()
    assert main([str(tmp_path / "photo.png"), "model=deit_tiny"]) == 2
    assert "bench=keepmaps model=deit_tiny" in capsys.readouterr().err
