"""The ledger of a vision-language model against torch's own counter, and against published sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import test_llava
import tiny_llava as small
import torch
from flops import counting
from probes import named

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts import install, llava_geometry
from asap_eval.method import Reducer, View, build
from asap_eval.models import model_specs
from asap_eval.models.vlm import shape_of
from asap_eval.tokens import Reduction
from asap_eval.work.language import decode_macs, prefill_ledger, unpruned_prefill


@dataclasses.dataclass
class Uneven(Reducer):
    """Crops keep different numbers of patches after block 7."""

    def watch(self, block: int, state: Any) -> bool:
        return block == 7

    def decide(self, view: View, state: Any) -> Reduction | None:
        place = torch.arange(view.size.shape[1])
        return Reduction.keep(place < 30 + 7 * view.images[:, None])


METHODS: dict[str, Reducer] = {
    "none": build("none"),
    "tower": build("random", k=0.3, layer=5),
    "ragged": named(Uneven()),
    "output": named(test_llava.Output((5, 6)), hands_cls=True),
    "language": named(test_llava.LastRow(block=4, keep=9)),
}


def counted(run: Any) -> float:
    """MACs of a call as torch counts them: half its operations."""
    with counting() as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2


@small.on_both
def test_geometry_is_the_models(name: str) -> None:
    geometry = llava_geometry(small.vlm(name).model)
    assert geometry.tower.depth == 23
    assert geometry.tower.tokens == 145
    assert len(geometry.language.blocks) == 18
    with pytest.raises(UnsupportedModelError, match="no supported vision-language"):
        llava_geometry(torch.nn.Linear(2, 2))


@small.on_both
@pytest.mark.parametrize("kind", METHODS)
def test_ledger_is_what_torch_counts(name: str, kind: str) -> None:
    """One sample: prompts of a batch are padded, and padding is no work of a sample's own."""
    loaded, given = small.vlm(name), small.inputs(name, 2)
    geometry, reducer = llava_geometry(loaded.model), METHODS[kind]
    with install(loaded.model, reducer) as trace:
        whole = counted(lambda: loaded.model.generate(**given, max_new_tokens=1, do_sample=False))
        ledger = prefill_ledger(geometry, trace)
    expected = float(ledger.total)
    if kind == "language":  # the last token's row, once more: it is part of the layer's attention
        expected += geometry.language.width * float(trace.language.lengths[0, 0])
    assert whole == expected
    assert float(ledger.method) == 0


@small.on_both
@pytest.mark.parametrize("kind", ["none", "tower", "language"])
def test_decoding_is_what_torch_counts(name: str, kind: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 1)
    geometry = llava_geometry(loaded.model)
    with install(loaded.model, METHODS[kind]) as trace:

        def generate(tokens: int) -> float:
            return counted(
                lambda: loaded.model.generate(
                    **given, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
                )
            )

        assert generate(6) - generate(1) == float(decode_macs(geometry, trace, 5))


@small.on_both
def test_unpruned_ledger_from_counts_alone(name: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name)
    geometry = llava_geometry(loaded.model)
    with install(loaded.model, METHODS["none"]) as trace:
        small.logits(loaded, given)
    ledger = prefill_ledger(geometry, trace)
    for sample in range(3):
        image = int(trace.handed_to_llm[sample])
        text = int(trace.language.lengths[0, sample]) - image
        crops = int((trace.sample == sample).sum())
        alone = unpruned_prefill(geometry, image, text, crops)
        assert float(alone.total) == float(ledger.total[sample])


@pytest.mark.parametrize(
    ("name", "image", "crops", "published"),
    [("llava_next_7b", 2880, 5, 43.6), ("llava15_7b", 576, 1, None)],
)
def test_full_size_models_on_the_meta_device(
    name: str, image: int, crops: int, published: float | None
) -> None:
    """Shapes and work of the 7B models without their weights; no memory is taken."""
    model = shape_of(model_specs()[name])
    parameters = sum(p.numel() for p in model.parameters())
    assert 7.0e9 < parameters < 7.2e9
    ledger = unpruned_prefill(llava_geometry(model), image, 40, crops)
    operations = 2 * float(ledger.prefill) / 1e12
    if published is not None:  # Table 9; how long its prompt was is not published
        assert operations == pytest.approx(published, rel=0.05)
