"""HoloV against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.holov import by_windows


@g.files("holov", "fn_*")
def test_functions(stem: str) -> None:
    """Where the authors append zero vectors (-1) we hand on fewer tokens."""
    golden = g.read(f"holov/{stem}")
    for attention, expected in zip(golden["attention"], golden["kept_order"], strict=True):
        got = by_windows(attention, int(golden["windows"]), int(golden["count"]))
        assert torch.equal(got, expected[expected >= 0])
        assert (expected[len(got) :] == -1).all()


@g.files("holov", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str) -> None:
    golden = g.read(f"holov/{stem}")
    images = stem.removeprefix("module_").rpartition("_")[0]
    options = {"k": int(golden["count"]), "windows": int(golden["windows"])}
    got = g.answer(images, 8, "holov", **options)
    g.compare({k: v for k, v in golden.items() if k != "image_embeds"}, got)
    order = golden["kept_order"][0]
    expected = by_windows(golden["attention"][0], options["windows"], options["k"])
    assert torch.equal(expected, order)
    source = got.trace.language.source[0]
    handed = source.masked_fill(source < 0, len(source) + 99).argsort(stable=True)[: len(order)]
    g.close(got.embeds[handed], golden["image_embeds"])
    assert got.trace.language.notes["missing"].tolist() == [0]
    assert (got.trace.language.source[0] >= 0).sum() == len(order)
