"""FastV against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.method import Batch, Need, View
from asap_eval.methods.fastv import FastV


def batch(tokens: int, depth: int) -> Batch:
    return Batch(
        count=1,
        tokens=tokens,
        prefix=0,
        depth=depth,
        has_cls=False,
        grid=(0, 0),
        seed=0,
        device=torch.device("cpu"),
        id_of=str,
    )


@g.files("fastv", "module_*")
def test_what_is_kept(stem: str) -> None:
    """From the last row of the deciding layer's attention; the image stands at 35 .. 610."""
    golden = g.read(f"fastv/{stem}")
    rows = golden["attn_lasttok_layer_before_K"][None, :, None]
    tokens, kept = rows.shape[3], int(stem.rpartition("keep")[2])
    place = torch.arange(tokens)
    image = ((place >= 35) & (place < 35 + 576))[None]
    ones = torch.ones(1, tokens)
    layer = int(golden["K"])
    for method in (FastV(r=float(golden["R"]), layer=layer), FastV(k=kept, layer=layer)):
        state = method.begin(batch(tokens, len(golden["cache_len"])))
        assert [b for b in range(1, 18) if method.watch(b, state)] == [layer]
        assert method.rows(layer, torch.tensor([tokens]), state).tolist() == [[tokens - 1]]
        reads = {Need.ROWS: rows}
        view = View(layer, torch.tensor([0]), ones, 0, lambda *_: None, reads, image)
        reduction = method.decide(view, state)
        assert reduction is not None
        expected = golden["keep_index"]
        assert torch.equal((reduction.group[0] >= 0).nonzero().flatten(), expected)
        assert torch.equal(reduction.group[0, expected], torch.arange(len(expected)))
        assert len(expected) == int(golden["cache_len"][layer])


@g.files("fastv", "module_*", "host/*", "host/llava/*")
def test_models(stem: str) -> None:
    """With the cache; the text without one, pruned anew at every step, is not this method's."""
    golden = g.read(f"fastv/{stem}")
    options = {"r": float(golden["R"]), "layer": int(golden["K"])}
    got = g.answer("pixels15", 6, "fastv", **options)
    g.compare(golden, got, "greedy_ids_cache1")
    assert torch.equal(got.trace.language.attention_tokens[:, 0], golden["cache_len"])


def test_budgets() -> None:
    """The two readings of a budget, with the figures known for 32 layers and 576 tokens."""
    for k, mean in ((64, 30), (128, 98), (192, 166)):
        assert FastV(k=k).kept(576, 32) == k
        assert FastV(k=k, budget="mean").kept(576, 32) == mean
    for r, kept in ((0.8889, 64), (0.7778, 128), (0.6667, 192), (0.0, 576)):
        assert FastV(r=r).kept(576, 32) == kept
    assert FastV().kept(576, 32) == 288
    assert FastV(k=1000).kept(576, 32) == 576
