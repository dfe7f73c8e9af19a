"""DynamicViT against vectors made by its authors' code, and what its checkpoints may be."""

from __future__ import annotations

import argparse
from pathlib import Path

import golden_vit as g
import pytest
import tiny
import torch
from cases import checkpoint
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

import asap_eval
from asap_eval.errors import AsapEvalError, BadValueError, WeightsError
from asap_eval.hosts.attention import attend
from asap_eval.hosts.layout import Layout
from asap_eval.methods.dynamicvit import FeaturePredictor


@g.files("dynamicvit", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read("dynamicvit", stem)
    x = golden["x"]
    predictor = FeaturePredictor(x.shape[-1]).eval()
    predictor.load_state_dict(
        {k.partition(".")[2]: v for k, v in golden.tensors.items() if k.startswith("predictor.")}
    )
    score = predictor(torch.ones(x[:, 1:, 0].shape), x[:, 1:])
    g.close(score, golden["pred_logprob"])
    masked = predictor(golden["policy"][:, 1:, 0], x[:, 1:])
    g.close(masked, golden["pred_logprob_masked"])
    keep = int((x.shape[1] - 1) * 0.7)
    kept = score[..., 0].argsort(1, descending=True)[:, :keep]
    assert torch.equal(kept, golden["keep_idx_0p7"])
    for i, rows in enumerate(kept):
        assert torch.equal(x[i, [0, *(rows + 1).tolist()]], golden["x_selected_0p7"][i])

    # At inference nothing is masked: the attention is the model's own.
    qkv = linear(x, golden["attn.qkv.weight"], golden["attn.qkv.bias"])
    q, k, v = qkv.unflatten(-1, (3, golden.metadata["num_heads"], -1)).permute(2, 0, 3, 1, 4)
    out = attend(q, k, v, Layout((x.shape[1],) * len(x)), None).transpose(1, 2).flatten(2)
    projected = linear(out, golden["attn.proj.weight"], golden["attn.proj.bias"])
    g.close(projected, golden["attn_plain_out"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@g.files("dynamicvit", "model_*")
def test_models(stem: str, suffix: str, tmp_path: Path) -> None:
    golden = g.read("dynamicvit", stem)
    setting, file = golden.metadata["setting"], tmp_path / f"predictors{suffix}"
    state = {k: v for k, v in golden.tensors.items() if k.startswith("predictor.")}
    if suffix == ".pth":  # as the authors' training saves it
        state = {f"score_{key}": value for key, value in state.items()}
        torch.save({"model": state, "args": argparse.Namespace(epochs=30)}, file)
    else:
        save_file(state, file)
    options = {"k": setting["rho"], "blocks": setting["locs"], "checkpoint": str(file)}
    got = g.run(golden.metadata["model"], "dynamicvit", **options)
    g.compare(golden, got)

    seen, width = [196, *[int(196 * setting["rho"] ** n) for n in (1, 2)]], 48
    one = width**2 + width**2 // 2 + width**2 // 8 + width // 2
    expected = one * sum(seen[: len(setting["locs"])])
    assert got.trace.method_macs.tolist() == [expected] * 2


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"checkpoint": None}, BadValueError, "have to be trained"),
        ({"checkpoint": "/absent.safetensors"}, WeightsError, "does not exist"),
        ({"blocks": [1, 3]}, BadValueError, "3 predictors .* for 2 places"),
        ({"k": 0.2}, BadValueError, "leaves none of 36 patches"),
        ({"k": 1.2}, BadValueError, "keep rate"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, object], error: type[AsapEvalError], said: str
) -> None:
    model = tiny.vit(1)
    options = {"checkpoint": checkpoint(3), **options}
    with (
        pytest.raises(error, match=said),
        asap_eval.reduce(model, "dynamicvit", **options),  # type: ignore[arg-type]
    ):
        tiny.output(model, tiny.images(1))


def test_predictors_of_another_width_are_refused() -> None:
    with (
        pytest.raises(WeightsError, match=r"read 32 features .* has 48"),
        asap_eval.reduce(model := tiny.large(), "dynamicvit", checkpoint=checkpoint(3)),
    ):
        tiny.output(model, tiny.images(1, size=32))


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    whole = load_file(checkpoint(3))
    files = {
        "no predictors": {"head.weight": torch.zeros(2)},
        "holds predictors": {k: v for k, v in whole.items() if "predictor.1." not in k},
        "Predictor 2 .* does not fit": {k: v for k, v in whole.items() if "2.out_conv.4" not in k},
    }
    for number, (said, state) in enumerate(files.items()):
        file = tmp_path / f"{number}.safetensors"
        save_file(state, file)
        with (
            pytest.raises(WeightsError, match=said if number else r"\(none\)"),
            asap_eval.reduce(model := tiny.vit(1), "dynamicvit", checkpoint=str(file)),
        ):
            tiny.output(model, tiny.images(1))


def test_counts_are_rounded_down() -> None:
    model = tiny.vit(1)
    with asap_eval.reduce(model, "dynamicvit", k=0.8, checkpoint=checkpoint(3)) as trace:
        tiny.output(model, tiny.images(2))
    kept = [int(36 * 0.8**place) for place in (1, 2, 3)]
    assert kept == [28, 23, 18]
    assert trace.lengths[:, 0].tolist() == [37, *(1 + count for count in kept), 19]
    assert (trace.attention_tokens == trace.lengths).all()
