"""The ledger of every model that a host accepts against what torch counts of its operators.

Every Vision Transformer of timm is built as it is, with two blocks, on the meta device; one small
instance of each kind of stem, block, pooling and head runs with methods that remove tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import tiny
import torch
from flops import counting
from project import ROOT
from sheets import texts
from timm.layers import Attention, AttentionPoolLatent, HybridEmbed, Mlp, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import asap_eval
from asap_eval.cli.ls import hosts_table
from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts import backbone_of, geometry_of, llava_geometry
from asap_eval.models import timm_names
from asap_eval.work.macs import model_macs, unpruned_macs

NAMES = timm_names.names()


def counted(model: nn.Module, images: Tensor) -> float:
    """MACs of a forward pass as torch counts them: half its operations."""
    with counting() as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() / 2


# --- every name of timm ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_ledger_of_every_timm_name(name: str) -> None:
    """The operators' sum, or a refusal in one sentence."""
    reason = timm_names.refusal(name)
    if reason is not None:
        assert re.fullmatch(r"[A-Z][^\n]+\.", reason)
        return
    model = timm_names.shape_of(name)
    images = torch.empty(1, 3, *model.patch_embed.img_size, device="meta")
    assert unpruned_macs(geometry_of(model)) == counted(model, images)


def test_ledger_covers_timms_list() -> None:
    """Whatever timm builds with the class is among the names, and most of it runs."""
    assert len(NAMES) >= 150
    assert {"deit_tiny_patch16_224", "vit_base_r50_s16_224", "vitamin_small_224"} <= set(NAMES)
    accepted = [name for name in NAMES if timm_names.refusal(name) is None]
    assert len(accepted) >= 0.9 * len(NAMES)


def test_ledger_refusals_are_documented() -> None:
    """docs/hosts.md is what `asap-eval ls hosts` prints; of another release of timm, the names that
    both know stand in the same row."""
    text = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    documented = _by_name(line.strip("| ").split(" | ") for line in text.splitlines())
    found = _by_name(texts(hosts_table()))
    both = documented.keys() & found.keys()
    assert len(both) >= 150
    assert {name: documented[name] for name in both} == {name: found[name] for name in both}
    if f"timm {timm.__version__} " in text:
        assert documented == found, "run: asap-eval ls hosts --into docs/hosts.md"


def _by_name(rows: Any) -> dict[str, tuple[str, str]]:
    """Verdict and reason of each model's row."""
    verdicts = (row for row in rows if row[0] in ("yes", "no"))
    return {name: (runs, why) for runs, why, models in verdicts for name in models.split(", ")}


# --- one small instance of each kind --------------------------------------------------------------


def kind(name: str) -> tuple[object, ...]:
    """What decides which code of a model runs: its classes, part by part, and its switches."""
    model = timm_names.shape_of(name)
    parts = (model.patch_embed, model.norm_pre, model.blocks, model.norm, model.attn_pool)
    classes = [{type(m).__name__ for m in part.modules()} if part else () for part in parts]
    tails = tuple(type(m).__name__ for m in (model, model.fc_norm, model.head))
    prefix = (model.num_prefix_tokens, model.cls_token is None, model.no_embed_class)
    switches = (model.global_pool, model.pool_include_prefix, model.dynamic_img_size)
    return (*map(frozenset, classes), *tails, *prefix, *switches)


@functools.cache
def instances() -> dict[tuple[object, ...], str]:
    """The first name of each kind that a host accepts."""
    found: dict[tuple[object, ...], str] = {}
    for name in NAMES:
        if timm_names.refusal(name) is None:
            found.setdefault(kind(name), name)
    return found


def small(name: str) -> VisionTransformer:
    """Three blocks of a model, narrow where its stem lets it be, over a grid of 4 x 4."""
    shape = timm_names.shape_of(name)
    embed = shape.patch_embed
    size = [4 * side // count for side, count in zip(embed.img_size, embed.grid_size, strict=True)]
    narrow = {"embed_dim": 96, "num_heads": 2} if isinstance(embed.proj, nn.Conv2d) else {}
    torch.manual_seed(0)
    model: VisionTransformer = timm.create_model(name, depth=3, img_size=tuple(size), **narrow)
    return model.eval().requires_grad_(False)


def test_ledger_of_each_kind_under_reduction(torch_attention: None) -> None:
    """Bit for bit the untouched model with `none`, and the operators' sum for what is left."""
    for name in instances().values():
        model = small(name)
        geometry = geometry_of(model)
        images = torch.randn(1, 3, *model.patch_embed.img_size)
        with asap_eval.reduce(model, "none"):
            logits = tiny.output(model, images)
        assert torch.equal(logits, tiny.output(model, images)), name
        for method, options in METHODS.items():
            with asap_eval.reduce(model, method, **options) as trace:
                operators = counted(model, images)
            ledger = model_macs(geometry, trace) + trace.method_macs
            assert float(ledger) == operators, (name, method)
            assert int(trace.lengths[-1]) < geometry.tokens, (name, method)


METHODS: dict[str, dict[str, Any]] = {
    "random": {"k": 0.5, "layer": 1},
    "tome": {"k": 3},
    "average_pool": {"k": 4},
    "downsample": {"k": 0.5},
}
"""Tokens removed, merged, merged behind the blocks, and fewer of them from the start."""


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_ledger_of_every_host(name: str, torch_attention: None) -> None:
    model, images = tiny.HOSTS[name](), tiny.images(1)
    geometry = geometry_of(model)
    assert unpruned_macs(geometry) == counted(model, images)
    for method, options in METHODS.items():
        with asap_eval.reduce(model, method, **options) as trace:
            operators = counted(model, images)
        assert operators == float(model_macs(geometry, trace) + trace.method_macs), method


# --- what is not known is refused -----------------------------------------------------------------


class Mixed(Mlp):
    """An MLP in whose middle neighbouring tokens are mixed by a convolution."""

    def __init__(self, in_features: int, hidden_features: int, **options: Any) -> None:
        super().__init__(in_features, hidden_features, **options)
        self.mix = nn.Conv1d(hidden_features, hidden_features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.mix(self.act(self.fc1(x)).mT).mT)


class Norm(nn.LayerNorm):
    """A norm that multiplies matrices which are no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ (x.mT @ x)


class Twice(Attention):
    """Attention with another product of its own."""


class Chequered(PatchEmbed):
    """A patch embedding under another name."""


class Global(nn.Sequential):
    """A stem with a layer for the whole image."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        patches, pool, squeeze = self
        x = patches(x)
        return x * squeeze(pool(x))


def test_ledger_of_work_that_no_layer_shows_is_refused() -> None:
    hybrid = functools.partial(HybridEmbed, backbone=Global())
    unknown: list[tuple[Callable[[], nn.Module], str]] = [
        (
            lambda: tiny.vit(mlp_layer=Mixed),
            r"For an image this VisionTransformer does [\d,]+ MACs",
        ),
        (lambda: tiny.vit(norm_layer=Norm), r"MACs where the ledger's closed form has"),
        (lambda: tiny.vit(attn_layer=Twice), "attention of block 1 is a Twice"),
        (lambda: tiny.vit(embed_layer=Chequered), "patch embedding is a Chequered"),
        (
            lambda: VisionTransformer(24, 1, embed_dim=8, depth=1, num_heads=1, embed_layer=hybrid),
            r"MACs where the ledger's closed form has",
        ),
    ]
    for build, message in unknown:
        with pytest.raises(UnsupportedModelError, match=message):
            backbone_of(build())


def test_ledger_of_a_model_without_sizes_is_refused_by_name() -> None:
    """A model whose code cannot run without data has unknown work, not a crash."""

    class Data(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.sum()) < 1e9 else x

    with pytest.raises(
        UnsupportedModelError, match="cannot be counted: on the meta device it stops"
    ):
        backbone_of(tiny.vit(norm_layer=Data))


def test_ledger_of_a_pool_with_positions_is_refused() -> None:
    model = tiny.vit(class_token=False, global_pool="map")
    model.attn_pool = AttentionPoolLatent(32, num_heads=2, feat_size=36, pos_embed="abs")
    with pytest.raises(UnsupportedModelError, match="without positions of its own"):
        backbone_of(model)


def test_a_class_that_pools_by_itself_is_refused() -> None:
    """Its work may be the ledger's, but what it reads of merged or missing tokens is unknown."""

    class Own(VisionTransformer):
        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return self.head(x.mean(1))

    with pytest.raises(UnsupportedModelError, match="Own has its own forward_head; only those of"):
        backbone_of(tiny.vit(cls=Own))


def test_counting_touches_nothing() -> None:
    """No hook is called, no counter sees it, instances keep what replaced their methods."""
    model, called = tiny.vit(1), []
    model.blocks[0].register_forward_hook(lambda *_: called.append("hook"))
    model.blocks[1].forward = lambda x: called.append("replaced") or x
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu"), counting() as counter:
        assert backbone_of(model.train()).geometry.depth == 5
    assert counter.get_total_flops() == 0
    assert not called
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert "forward" in vars(model.blocks[1])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(p.is_meta for p in model.parameters())


def test_a_head_that_was_replaced_is_counted_anew() -> None:
    model = tiny.vit(1)
    first = unpruned_macs(geometry_of(model))
    model.head = nn.Linear(32, 5)
    assert unpruned_macs(geometry_of(model)) == first - 6 * 32


# --- language models ------------------------------------------------------------------------------


def llava(text: Any, **options: Any) -> Any:
    """A LLaVA model of two layers with another language model, on the meta device."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = transformers.CLIPVisionConfig(
        **sizes, num_attention_heads=2, image_size=24, patch_size=4
    )
    words = {"vocab_size": 50, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=getattr(transformers, text)(**sizes, **words, **options),
        image_token_id=49,
    )
    with torch.device("meta"):
        return transformers.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("text", ["LlamaConfig", "MistralConfig", "Qwen2Config"])
def test_ledger_where_heads_share_their_keys(text: str) -> None:
    model = llava(text)
    blocks = llava_geometry(model).language.blocks
    ids = torch.empty(1, 7, dtype=torch.long, device="meta")
    assert sum(block.macs(7, 7) for block in blocks) == counted(model.model.language_model, ids)


def test_ledger_of_experts_is_refused() -> None:
    """Each token passes some of the experts: no linear layer for every token."""
    model = llava("MixtralConfig", num_local_experts=4)
    with pytest.raises(UnsupportedModelError, match="MixtralModel"):
        llava_geometry(model)
