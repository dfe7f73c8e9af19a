"""LLaVA at its real widths and shapes: the whole model without memory, a few layers with it."""

from __future__ import annotations

import functools
import gc
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flops import counting
from project import ROOT

from asap_eval.hosts import install, llava_geometry
from asap_eval.method import build
from asap_eval.models import llava, model_specs
from asap_eval.packing import Newline
from asap_eval.work.language import prefill_ledger

TEXT = (35, 20)
"""Tokens before and behind the image: as LLaVA's prompt has them on a short question."""

IMAGE = 32000


@functools.lru_cache(maxsize=1)
def cut(name: str) -> Any:
    """The real shapes with three blocks of the tower (two are used) and two layers of Llama.

    Filled from one short list of random values: seconds and 3 GB instead of minutes and 28. fp32,
    as processors without instructions for 16 bit take seven times as long for those.
    """
    kwargs = dict(model_specs()[name].kwargs)
    kwargs["vision"] = kwargs["vision"] | {"num_hidden_layers": 3}
    kwargs["text"] = kwargs["text"] | {"num_hidden_layers": 2}
    with torch.device("meta"):
        model = llava.model_of(llava.configuration(model_specs()[name].family, **kwargs))
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    values = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        count = parameter.numel()
        filled = values.repeat(count // len(values) + 1)[:count].view(parameter.shape)
        parameter.copy_(filled * (parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.02))
    _buffers(model, kwargs)
    return model


def _buffers(model: Any, kwargs: dict[str, Any]) -> None:
    """What is computed when a model is made; the meta device has none of it."""
    text, vision = model.model.language_model, model.model.vision_tower
    rotary = type(text.rotary_emb)(text.config)
    text.rotary_emb = rotary
    places = torch.arange(vision.embeddings.position_ids.shape[1])[None]
    vision.embeddings.position_ids.copy_(places)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    yield
    cut.cache_clear()
    gc.collect()


def inputs(name: str, placeholders: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    front, behind = (torch.randint(3, 30000, (1, n), generator=generator) for n in TEXT)
    ids = torch.cat([front, torch.full((1, placeholders), IMAGE), behind], 1)
    crops = (5,) if name == "llava_next_7b" else ()
    pixels = torch.randn(1, *crops, 3, 336, 336, generator=generator)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return given | ({"image_sizes": torch.tensor([[672, 672]])} if crops else {})


def placeholders(name: str) -> int:
    """Of the processor: LLaVA-NeXT's has a newline for each of the 48 rows of its four tiles."""
    return 576 if name == "llava15_7b" else 2928


def run(
    name: str, method: str, newline: Newline = "kept", **options: Any
) -> tuple[torch.Tensor, Any, float]:
    """Logits of the last token, the trace, and the MACs that torch counted."""
    model, given = cut(name), inputs(name, placeholders(name))
    reducer = build(method, **options)
    with (
        torch.inference_mode(),
        counting() as counter,
        install(model, reducer, newline=newline) as trace,
    ):
        logits = model(**given, logits_to_keep=1).logits[0, -1].float()
    return logits, trace, counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("name", "newline", "tokens"),
    [
        ("llava15_7b", "kept", 576),
        ("llava_next_7b", "kept", 2928),
        ("llava_next_7b", "none", 2880),
    ],
)
def test_the_unpruned_model_at_its_real_length(name: str, newline: Newline, tokens: int) -> None:
    """The same logits as transformers' own path, and the work that the closed form says."""
    logits, trace, counted = run(name, "none", newline)
    assert trace.handed_to_llm.tolist() == [tokens]
    assert trace.language.lengths[-1].tolist() == [tokens + sum(TEXT)]
    assert counted == float(prefill_ledger(llava_geometry(cut(name)), trace).total)
    assert bool(logits.isfinite().all())
    if tokens == placeholders(name):
        with torch.inference_mode():
            own = cut(name)(**inputs(name, tokens), logits_to_keep=1).logits[0, -1].float()
        assert torch.equal(logits, own)


@pytest.mark.parametrize("method", ["visionzip", "vispruner", "prunesid"])
@pytest.mark.parametrize(
    ("name", "crops", "budgets"),
    [("llava15_7b", 1, (192, 128, 64)), ("llava_next_7b", 5, (640, 320, 160))],
)
def test_the_papers_budgets_at_real_shapes(
    name: str, crops: int, budgets: tuple[int, ...], method: str
) -> None:
    geometry = llava_geometry(cut(name))
    work = []
    for budget in budgets:
        logits, trace, _ = run(name, method, k=budget // crops)
        assert trace.handed_to_llm.tolist() == [budget]
        assert trace.language.lengths[-1].tolist() == [budget + sum(TEXT)]
        assert bool(logits.isfinite().all())
        work.append(float(prefill_ledger(geometry, trace).prefill))
    assert work == sorted(work, reverse=True)


@pytest.mark.parametrize(
    ("name", "crops", "budget"), [("llava15_7b", 1, 64), ("llava_next_7b", 5, 160)]
)
def test_asap_at_real_shapes(name: str, crops: int, budget: int) -> None:
    """The walk over 577 x 577 maps in the tower; at most the budget is left."""
    n = budget // crops
    logits, trace, counted = run(name, "asap", k=2, tau=1e9, never="block:1", n=n)
    assert trace.fired.tolist() == [1] * crops
    left = trace.lengths[-1] - 1
    assert bool((left <= n).all())
    assert bool((left >= 2).all())
    ledger = prefill_ledger(llava_geometry(cut(name)), trace)
    assert float(ledger.method) == crops * 577**3
    # C of the first block is T itself: a product that the ledger counts and nobody has to run. Of
    # attention maps torch counts the fused product, too.
    assert float(ledger.total - ledger.method) <= counted
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("budget", [192, 64])
def test_a_method_of_the_language_model_at_real_shapes(budget: int) -> None:
    logits, trace, _ = run("llava15_7b", "fastv", k=budget, layer=1)
    assert trace.handed_to_llm.tolist() == [576]
    assert trace.language.lengths[:, 0].tolist() == [budget + sum(TEXT)] * 2
    assert trace.language.attention_tokens[:, 0].tolist() == [576 + sum(TEXT), budget + sum(TEXT)]
    assert bool(logits.isfinite().all())


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "benchmarks" / "llm_ledger.py"
    spec = importlib.util.spec_from_file_location("llm_ledger", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_whole_models_on_the_meta_device(script: Any) -> None:
    """7.06 B parameters, 14.1 GB in fp16, half a megabyte of cache for each token."""
    for name in script.MODELS:
        assert script.sizes(name) == {
            "parameters_b": pytest.approx(7.0634, abs=1e-4),
            "fp16_gb": pytest.approx(14.127, abs=1e-3),
            "cache_mb": pytest.approx(2 * 32 * 4096 * 2 / 1e6),
        }


def test_the_ledger_beside_the_published_figures(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table 9's first and last figure lie in the ledger's range, its second does not."""
    monkeypatch.setattr(sys, "argv", ["llm_ledger.py"])
    script.main()
    said = capsys.readouterr().out
    assert "7.063 B parameters, 14.13 GB in fp16" in said
    geometry = llava_geometry(script.shape_of(model_specs()["llava_next_7b"]))
    found = script.lines(geometry)
    assert [line.needed is None for line in found] == [True, False, True]
    full, pooled, _ = found
    assert full.whole == pytest.approx(43.6, abs=0.05)  # without a word of text
    assert pooled.most < 17.5 < 20.1
    assert script._most(geometry, pooled.needed - 1) < 20.1 <= script._most(geometry, pooled.needed)
    assert pooled.verdict.endswith(f"{pooled.needed} image tokens or more")
    low = script.line_of(geometry, "made up", 1050, 10.0)
    assert script._alone(geometry, low.needed) <= 10 < script._alone(geometry, low.needed + 1)
    assert low.verdict.endswith(f"{low.needed} image tokens or fewer")
    assert low.needed < 1050
    assert "does not fit" in said
