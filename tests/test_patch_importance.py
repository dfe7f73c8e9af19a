"""The script that holds scores of patches against what a logit loses without each of them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from project import ROOT
from torch import Tensor

import asap_eval
from asap_eval.errors import BadValueError

COUNT, SIZE = 4, 32
IDS = [f"image {i}" for i in range(COUNT)]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("patch_importance")


@pytest.fixture(scope="module")
def found(script: ModuleType) -> Any:
    return script.ranked(tiny.large(0), tiny.images(COUNT, SIZE, 3), IDS, torch.arange(COUNT))


def test_a_patch_is_worth_what_the_logit_loses_without_its_token(found: Any) -> None:
    """Against timm's own modules, with the row taken out by hand."""
    model, x = tiny.large(0), tiny.images(COUNT, SIZE, 3)
    with torch.no_grad():
        whole = model(x)
        for image, patch in ((0, 0), (1, 17), (2, 40), (3, 63)):
            tokens = model.norm_pre(model._pos_embed(model.patch_embed(x[image : image + 1])))
            left = torch.cat([tokens[:, : 1 + patch], tokens[:, 2 + patch :]], 1)
            logits = model.forward_head(model.norm(model.blocks(left)))[0]
            for target, at in (("label", image), ("predicted", int(whole[image].argmax()))):
                due = whole[image, at] - logits[at]
                torch.testing.assert_close(
                    found.worth[target][image, patch], due, rtol=0, atol=1e-5
                )
    assert found.worth["label"].shape == (COUNT, 64)
    assert found.worth["label"].std(1).min() > 1e-3  # no patch is like another


@pytest.mark.parametrize("block", [1, 3, 6])
@pytest.mark.parametrize(
    ("name", "options"),
    [("distance", {}), ("moved", {"identity": False}), ("corner", {"anchor": "corner"})],
)
def test_distances_are_those_of_asap(
    found: Any, block: int, name: str, options: dict[str, Any]
) -> None:
    at_block = {"tau": 1e9, "never": f"block:{block}", **options}
    model = tiny.large(0)
    with asap_eval.reduce(model, "asap", **at_block) as trace:
        tiny.output(model, tiny.images(COUNT, SIZE, 3))
    torch.testing.assert_close(
        found.scores[f"{name} {block}"], trace.notes["distance"], rtol=1e-4, atol=1e-6
    )


def by_pairs(scores: Tensor, important: Tensor) -> float:
    rows = [
        float(one > other) + float(one == other) / 2
        for one in scores[important]
        for other in scores[~important]
    ]
    return sum(rows) / len(rows)


def test_auc_is_the_share_of_pairs_in_order(script: ModuleType) -> None:
    g = torch.Generator().manual_seed(0)
    scores = (torch.rand(6, 12, generator=g) * 5).round()  # many ties
    values = torch.rand(6, 12, generator=g)
    important = script.most(values)
    assert important.sum(1).tolist() == [3] * 6
    for row in range(6):
        assert values[row][important[row]].min() > values[row][~important[row]].max()
        due = by_pairs(scores[row], important[row])
        assert float(script.auc(scores, important)[row]) == pytest.approx(due, abs=1e-12)
    assert script.auc(values, important).tolist() == [1.0] * 6
    assert script.auc(-values, important).tolist() == [0.0] * 6
    assert script.auc(torch.ones(6, 12), important).tolist() == [0.5] * 6


def test_an_interval_is_the_same_each_time_and_covers_as_often_as_it_says(
    script: ModuleType,
) -> None:
    g = np.random.default_rng(5)
    drawn = g.normal(0.6, 0.1, (40, 50))
    found = [script.interval(values) for values in drawn]
    assert found[7] == script.interval(drawn[7])
    assert 34 <= sum(low < 0.6 < high for low, high in found) < 40


def test_position_is_learnt_from_the_other_images_alone(script: ModuleType, found: Any) -> None:
    joined = script.joined([found])
    values = found.worth["label"]
    ranks = (values[:, :, None] > values[:, None]).sum(2).double() + 1
    due = torch.stack(
        [ranks[[i for i in range(COUNT) if i != own]].mean(0) for own in range(COUNT)]
    )
    torch.testing.assert_close(joined.scores["place label"], due)
    assert torch.equal(joined.worth["size"], values.abs())


def test_the_script_from_a_folder_to_its_file(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the bundled example's digits; again from what was kept: the same figures."""

    def run(*more: str) -> dict[str, Any]:
        out = tmp_path / f"{len(more)}.json"
        data = str(ROOT / "asap_eval/example/digits.zip/images")
        words = ["--data", data, "--model", "digits_vit", "--limit", "2", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["patch_importance.py", *words, *more])
        script.main()
        return json.loads(out.read_text())

    kept = tmp_path / "kept.safetensors"
    first = run("--kept", str(kept))
    monkeypatch.setattr(script, "worth", lambda *_: pytest.fail("all of it is in the file"))
    again = run("--kept", str(kept), "--size", "7")
    assert first["targets"] == again["targets"]
    assert (first["images"], first["patches"], first["important"]) == (2, 100, 25)
    assert list(first["targets"]) == ["label", "predicted", "size"]
    for measured in first["targets"].values():
        assert set(measured["scores"]) >= {"distance", "cls_attention", "random", "centre", "place"}
        for rows in measured["scores"].values():
            for row in rows:
                assert row["auc_ci95"][0] <= row["auc"] <= row["auc_ci95"][1]
    # The example keeps what attention looks at: the best score of it is far from chance.
    best = max(row["auc"] for row in first["targets"]["label"]["scores"]["mass"])
    assert best > 0.6
    with pytest.raises(BadValueError, match="at least 2"):
        run("--limit", "1")
    with pytest.raises(BadValueError, match="name another file"):
        script.Kept(kept, "another model")
