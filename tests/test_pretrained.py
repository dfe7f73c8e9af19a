"""Checkpoints of transformers: loaded without a gap, named as what they are, or refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_llava as small
import torch
from hub_stand_in import Hub
from hub_stand_in import hub as hub  # a fixture
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from asap_eval.bench.language.plan import plan_of
from asap_eval.bench.language.vlm import VisionLanguage
from asap_eval.cli.head import main as make_head
from asap_eval.errors import WeightsError
from asap_eval.methods.none import Identity
from asap_eval.models import LoadedVlm, ModelSpec, load_vlm, model_specs, spec_from
from asap_eval.record import Job

SPEC = model_specs()["llava_tiny"]
HUB = "team/tiny-llava"
PUBLISHED = ModelSpec(**{**vars(SPEC), "hf": HUB})

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LLaVA with its processor, as ``save_pretrained`` writes it."""
    folder = tmp_path_factory.mktemp("llava")
    loaded = small.vlm("llava_tiny")
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "llava"))


def edit(file: Path, **entries: Any) -> None:
    """Set entries of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def change(folder: Path, how: Change) -> None:
    file = folder / "model.safetensors"
    save_file(how(load_file(file)), file, {"format": "pt"})


def same(first: LoadedVlm, second: LoadedVlm) -> bool:
    theirs = second.model.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in first.model.state_dict().items())


# --- keys ---------------------------------------------------------------------------------------


def without(part: str) -> Change:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def renamed(old: str, new: str) -> Change:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


def cut(part: str) -> Change:
    return lambda state: {
        key: value[:-1].clone() if part in key else value for key, value in state.items()
    }


GAPS: dict[str, tuple[Change, str]] = {
    "head": (without("lm_head"), "1 missing: .*lm_head.weight"),
    "one layer's MLP": (without("layers.3.mlp."), r"missing: .*layers\.3\.mlp\."),
    "tower": (without("vision_tower."), "missing: .*vision_tower.* and .* more"),
    "projector": (without("projector"), "4 missing: .*multi_modal_projector"),
    "other names": (renamed("self_attn", "attention"), "missing: .*; .* unexpected: .*attention"),
    "another part": (lambda s: s | {"adapter.weight": torch.ones(2)}, "1 unexpected: adapter.wei"),
    "another shape": (cut("lm_head"), r"1 of another shape: .*lm_head.*\[259, 64\].*\[260, 64\]"),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_checkpoint_with_a_gap_is_refused(gap: str, folder: Path) -> None:
    how, said = GAPS[gap]
    change(folder, how)
    with pytest.raises(WeightsError, match=f"do not fit the model. Keys .*{said}"):
        load_vlm(SPEC, weights=folder)


def test_names_of_older_releases_are_no_gap(whole: Path, folder: Path) -> None:
    """transformers renames both itself: those of 4.x, which it still writes, and its own."""
    assert any(key.startswith("language_model.model.") for key in _keys(folder))
    old = load_vlm(SPEC, weights=whole)
    change(folder, renamed("language_model.model.", "model.language_model."))
    change(folder, renamed("language_model.lm_head.", "lm_head."))
    assert same(old, load_vlm(SPEC, weights=folder))


def _keys(folder: Path) -> list[str]:
    return list(load_file(folder / "model.safetensors"))


def test_tied_weights_are_no_gap(folder: Path) -> None:
    edit(folder / "config.json", tie_word_embeddings=True)
    change(folder, without("lm_head"))
    model = load_vlm(SPEC, weights=folder).model
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_parts_are_read_and_counted(whole: Path, folder: Path) -> None:
    model = load_vlm(SPEC, weights=whole).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    loaded = load_vlm(SPEC, weights=folder)
    assert same(loaded, load_vlm(SPEC, weights=whole))
    parts[1].unlink()
    with pytest.raises(WeightsError, match=rf"lacks {parts[1].name}, one of {len(parts)} files"):
        load_vlm(SPEC, weights=folder)


# --- what they are ------------------------------------------------------------------------------


def test_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"family llava, and model=llava_next_tiny of llava_n.*"):
        load_vlm("llava_next_tiny", weights=folder)


def test_another_size_is_refused_with_its_own_options(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"text.hidden_size 64, not 4096.*or its size:") as said:
        load_vlm("llava15_7b", weights=folder)
    options = dict(word.split("=") for word in str(said.value).rstrip(".").split() if "=" in word)
    kwargs: dict[str, Any] = json.loads(json.dumps(dict(model_specs()["llava15_7b"].kwargs)))
    for name, value in options.items():
        if name.startswith("model.kwargs."):
            part, entry = name.split(".")[2:]
            kwargs[part][entry] = int(value)
    spec = ModelSpec("mine", family="llava", kwargs=kwargs)
    assert load_vlm(spec, weights=folder).name == "mine"


def test_a_plan_refuses_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan counts with the size that the model says, which has to be that of its weights."""
    job = Job("llava15_7b", bench="vlm", weights=str(folder))
    with pytest.raises(WeightsError, match=r"text.hidden_size 64, not 4096"):
        plan_of(job, model_specs()["llava15_7b"], Identity(), [], newlines=False)
    there = dataclasses.replace(model_specs()["llava15_7b"], hf=str(folder))
    with pytest.raises(WeightsError, match=r"text.hidden_size 64, not 4096"):
        plan_of(dataclasses.replace(job, weights=None), there, Identity(), [], newlines=False)


def test_another_repository_gives_its_name() -> None:
    declared = model_specs()["llava15_7b"]
    assert spec_from(vars(declared)).name == "llava15_7b"
    other = spec_from({**vars(declared), "hf": "team/other-7b"})
    assert (other.name, other.hf, other.family) == ("team/other-7b", "team/other-7b", "llava")
    assert other.source == "https://huggingface.co/team/other-7b"


@pytest.mark.parametrize(
    ("where", "content", "said"),
    [
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ("config.json", {"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ("config.json", {"quantization_config": {"load_in_4bit": True}}, "its files say so"),
        ("quantize_config.json", {"bits": 4}, "its files say so"),
    ],
)
def test_quantised_checkpoints_are_refused(
    where: str, content: dict[str, Any], said: str, folder: Path
) -> None:
    file = folder / where
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | content))
    with pytest.raises(WeightsError, match=rf"is quantised \({said}\): give the checkpoint in 16"):
        load_vlm(SPEC, weights=folder)


def test_the_hash_is_of_all_that_is_read(folder: Path) -> None:
    before = load_vlm(SPEC, weights=folder).weights
    assert before == load_vlm(SPEC, weights=folder, dtype="bfloat16").weights
    (folder / "README.md").write_text("nobody reads this")
    assert load_vlm(SPEC, weights=folder).weights == before
    edit(folder / "tokenizer_config.json", padding_side="right")
    assert load_vlm(SPEC, weights=folder).weights.sha256 != before.sha256


# --- what is missing or damaged -----------------------------------------------------------------


def test_a_cut_file_is_one_line(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model.safetensors is not a whole safetensors file"):
        load_vlm(SPEC, weights=folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("model.safetensors",), "has no weights: neither model.safetensors nor"),
        (("config.json",), "no folder with a config.json"),
        (("tokenizer.json",), "no vocabulary: none of tokenizer.json"),
        (("tokenizer.json", "tokenizer_config.json"), "no vocabulary: none of tokenizer.json"),
        (("tokenizer_config.json",), "no tokenizer_config.json"),
        (("processor_config.json",), "no .*processor"),
    ],
)
def test_an_absent_file_is_one_line(files: tuple[str, ...], said: str, folder: Path) -> None:
    for file in files:
        (folder / file).unlink()
    with pytest.raises(WeightsError, match=said) as error:
        load_vlm(SPEC, weights=folder)
    assert "\n" not in str(error.value)


def test_without_a_chat_template_nothing_is_asked(folder: Path) -> None:
    """Pictures can be looked at; a benchmark of questions stops before the first."""
    (folder / "chat_template.jinja").unlink()
    loaded = load_vlm(SPEC, weights=folder)
    with pytest.raises(WeightsError, match=rf"{folder} has no chat template\. Copy"):
        VisionLanguage(tasks=["gqa"]).check(loaded)
    with pytest.raises(WeightsError, match="has no chat template"):
        loaded.inputs(small.pictures()[:1], small.QUESTIONS[:1])


def test_a_configuration_that_is_none(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json cannot be read"):
        load_vlm(SPEC, weights=folder)


# --- the hub ------------------------------------------------------------------------------------


def test_a_repository_is_fetched_and_its_commit_recorded(
    hub: Hub, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files[HUB] = {path.name: path.read_bytes() for path in whole.iterdir()}
    hub.files[HUB] |= {"README.md": b"text", "pytorch_model.bin": b"older"}
    loaded = load_vlm(PUBLISHED)
    here = load_vlm(SPEC, weights=whole)
    assert same(loaded, here)
    assert (loaded.weights.name, loaded.weights.commit) == (f"hub:{HUB}", hub.commit(HUB))
    assert loaded.weights.sha256 == here.weights.sha256
    assert not any("README" in path or ".bin" in path for path in hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_vlm(PUBLISHED).weights == loaded.weights


def test_damage_of_any_file_is_mended(hub: Hub, whole: Path) -> None:
    hub.files[HUB] = {path.name: path.read_bytes() for path in whole.iterdir()}
    for name in ("tokenizer.json", "model.safetensors"):
        content = hub.files[HUB][name]
        hub.lies[name] = [content[:-1] + bytes([content[-1] ^ 1])]
    assert same(load_vlm(PUBLISHED), load_vlm(SPEC, weights=whole))


def test_faults_name_model_address_and_way_out(hub: Hub) -> None:
    hub.status = 503
    said = rf"weights of llava_tiny .*{hub.url}/{HUB}: .*503.*weights=<folder>"
    with pytest.raises(WeightsError, match=said):
        load_vlm(PUBLISHED)


def test_a_repository_of_something_else(hub: Hub) -> None:
    hub.files[HUB] = {"model.gguf": b"x"}
    with pytest.raises(WeightsError, match=rf"{HUB}: it has no file config\.json"):
        load_vlm(PUBLISHED)


# --- text models of zero-shot heads -------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    part |= {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**part, "vocab_size": 60},
        vision_config={**part, "image_size": 24, "patch_size": 12},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (without("text_projection"), "1 missing: text_projection.weight"),
        (renamed("text_model.", "words."), "missing: .*unexpected: words"),
        (lambda state: state, "no vocabulary: none of tokenizer.json"),
    ],
)
def test_a_head_comes_from_a_whole_text_model(
    how: Change, said: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(clip, how)
    assert make_head(["--clip", str(clip), "--out", str(tmp_path / "head")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error
