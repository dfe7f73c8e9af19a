"""A vision-language model over several GPUs, shown on devices that stand for them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import tiny_llava as small
import torch
from stand_in_devices import FIRST, SECOND, Placed, devices, place

from asap_eval import reduce
from asap_eval.errors import BadValueError, UnsupportedModelError
from asap_eval.models import load_vlm
from asap_eval.models.device_map import check_device_map, placed_on
from asap_eval.models.spec import find
from asap_eval.models.vlm import shape_of

LAYERS = "model.language_model.layers"


def on(device: torch.device, given: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }


def test_the_stand_ins_refuse_what_gpus_refuse() -> None:
    with devices():
        one, other = (torch.ones(2).to(device) for device in (FIRST, SECOND))
        assert torch.equal((one + one).cpu(), torch.full((2,), 2.0))
        for mixed in (other, torch.ones(2)):
            with pytest.raises(RuntimeError, match="same device"):
                one + mixed
        with pytest.raises(RuntimeError, match="same device"):
            one[torch.tensor([0], device=SECOND)]
        assert isinstance(other.to(FIRST), Placed)


def spread(name: str, behind: torch.device) -> Any:
    """A small model on the first device whose layers from the third on are on another."""
    model = copy.deepcopy(small.vlm(name).model)
    layers = range(2, len(model.model.language_model.layers))
    names = [f"{LAYERS}.{at}" for at in layers] + ["model.language_model.norm", "lm_head"]
    place(model, dict.fromkeys(names, behind), FIRST)
    return model


CASES = [
    ("llava_tiny", "sparsevlm", {"keep": [20, 12], "layers": [1, 4]}),
    ("llava_tiny", "fna_decoder", {"m": 60}),
    ("llava_next_tiny", "fastv", {"k": 20, "layer": 3}),
]


@pytest.mark.parametrize(("name", "method", "options"), CASES, ids=lambda value: str(value)[:12])
def test_answers_and_traces_are_those_of_one_device(
    name: str, method: str, options: dict[str, Any]
) -> None:
    given, found = small.inputs(name, 0, 1), []
    models = spread(name, FIRST), spread(name, SECOND)
    with devices():
        there = on(FIRST, given)
        for model in models:
            loaded = type("Loaded", (), {"model": model})()
            with reduce(model, method, **options) as trace:
                logits, ids = small.logits_and_ids(loaded, there, 3)
            said = trace.language
            left = (said.lengths, said.cached_tokens, said.fired, said.source, said.method_macs)
            found.append([one.cpu() for one in (logits, ids, *left)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_tower_on_two_devices_is_refused() -> None:
    model = copy.deepcopy(small.vlm("llava_tiny").model)
    place(model, {"model.vision_tower.encoder.layers.1": SECOND}, FIRST)
    with pytest.raises(UnsupportedModelError, match="tower lies on meta:0 and meta:1"):
        reduce(model, "visionzip", k=20).__enter__()


# Where parts lie


GB = 10**9


def test_layers_are_spread_evenly_and_the_tower_stays_whole() -> None:
    shape = shape_of(find("llava15_7b"))
    parts = placed_on(shape, torch.float16, {0: 12 * GB, 1: 12 * GB})
    assert {parts[name] for name in ("model.vision_tower", "model.multi_modal_projector")} == {0}
    layers = [parts[f"{LAYERS}.{at}"] for at in range(32)]
    assert layers == sorted(layers)
    assert 12 <= layers.count(0) <= 18
    assert parts["lm_head"] == 1


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(BadValueError, match=r"take 14\.\d GB .* have 5\.0 \+ 5\.0 GB free"):
        placed_on(shape_of(find("llava15_7b")), torch.float16, {0: 5 * GB, 1: 5 * GB})


@pytest.mark.parametrize(
    ("given", "device", "says"),
    [
        ("auto", "cpu", "device=cpu"),
        ("auto", "cuda:1", "device=cuda:1"),
        ("balanced", "cuda", "model.device_map=balanced: give auto"),
    ],
)
def test_what_cannot_be_spread_is_refused(given: str, device: str, says: str) -> None:
    with pytest.raises(BadValueError, match=says):
        check_device_map(given, torch.device(device))


def test_it_is_for_vision_language_models_and_part_of_a_job() -> None:
    with pytest.raises(BadValueError, match="'deit_tiny' is an image model"):
        replace(find("deit_tiny"), device_map="auto")
    spec = find("llava_tiny")
    assert "device_map" not in spec.params
    assert replace(spec, device_map="auto").params["device_map"] == "auto"
    with pytest.raises(BadValueError, match="with device=cpu"):
        load_vlm(replace(spec, device_map="auto"))
