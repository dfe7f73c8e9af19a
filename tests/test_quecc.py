"""QueCC against vectors of its authors' module, and its cost against torch's own counter."""

from __future__ import annotations

from pathlib import Path

import golden_vlm as g
import pytest
import tiny_llava as small
import torch
from flops import counting
from safetensors.torch import save_file

from asap_eval.errors import WeightsError
from asap_eval.hosts import llava_geometry
from asap_eval.models.quecc import Projector, QueCC, cost_of, last_state, load_projector


@g.files("quecc", "fn_*")
@torch.no_grad()
def test_functions(stem: str, tmp_path: Path) -> None:
    golden = g.read(f"quecc/{stem}")
    state = {k.removeprefix("w."): v for k, v in golden.items() if k.startswith("w.")}
    save_file(state, tmp_path / "projector.safetensors")
    projector = load_projector(tmp_path / "projector.safetensors")
    given = golden["x"], golden["x_multi"], golden["text"]
    g.close(projector[0](*given), golden["compressed"])
    g.close(projector(*given), golden["out"])


def test_without_a_checkpoint_there_is_no_accuracy(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint of it is public"):
        load_projector(None)
    save_file({"1.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no QueCC projector"):
        load_projector(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no square of cells"):
        QueCC(16, 64, 24, 5)(torch.ones(1, 64, 16), torch.ones(1, 64, 64), torch.ones(1, 1, 24))


@torch.no_grad()
def test_its_cost_is_what_torch_counts() -> None:
    model = small.vlm("llava_tiny").model
    geometry = llava_geometry(model)
    width, wide = geometry.tower.width, geometry.language.width
    compress = QueCC(width, 4 * width, wide, 3)
    state = {f"0.{k}": v for k, v in compress.state_dict().items()}
    state |= {"1.weight": torch.ones(wide, width), "1.bias": torch.ones(wide)}
    state |= {"3.weight": torch.ones(wide, wide), "3.bias": torch.ones(wide)}
    projector, text = Projector(state).eval(), model.model.language_model
    cost = cost_of(geometry, kernel=3, question=7, text=20)
    assert cost.tokens == 16
    with counting() as counter:
        projector(torch.ones(1, 144, width), torch.ones(1, 144, 4 * width), torch.ones(1, 1, wide))
    assert counter.get_total_flops() / 2 == cost.projector
    embeds = torch.ones(1, 7, wide)
    with counting() as counter:
        found = last_state(text, embeds)
    assert counter.get_total_flops() / 2 == cost.question
    assert torch.equal(found, text(inputs_embeds=embeds).last_hidden_state[:, 6:])
    with counting() as counter:
        model.lm_head(text(inputs_embeds=torch.ones(1, 36, wide)).last_hidden_state[:, -1])
    assert counter.get_total_flops() / 2 == cost.prefill
