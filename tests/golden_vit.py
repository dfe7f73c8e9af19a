"""Files of golden/image beside the checkout, and what is done alike with those of any method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from project import SHARED
from safetensors import safe_open
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

import asap_eval
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import Reduction, Tokens
from asap_eval.trace import Trace

FUNCTION, LOGITS = 1e-5, 1e-4
"""Absolute tolerances of the folder's README; indices and counts are compared exactly."""


def files(method: str, pattern: str) -> pytest.MarkDecorator:
    """Parametrizes a test by ``stem``, one case per file, each marked with the file it covers."""
    folder = f"golden/image/{method}"
    stems = sorted(path.stem for path in SHARED.glob(f"{folder}/{pattern}.safetensors"))
    cases = [
        pytest.param(stem, marks=pytest.mark.golden(f"{folder}/{stem}.safetensors"))
        for stem in stems or [pattern]
    ]
    return pytest.mark.parametrize("stem", cases)


def close(got: Tensor, expected: Tensor, tolerance: float = FUNCTION) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=tolerance)


@dataclass(frozen=True)
class Golden:
    """One file: its tensors by name, and its metadata as values."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def read(method: str, stem: str) -> Golden:
    with safe_open(SHARED / "golden" / "image" / method / f"{stem}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in list(file.keys())}
        return Golden(tensors, {key: _value(text) for key, text in file.metadata().items()})


def _value(text: str) -> Any:
    """Metadata are text: JSON, Python's True and False, or words."""
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text


# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A forward pass: logits, the tokens after each block, the trace, and the model's prefix."""

    logits: Tensor
    blocks: list[Tensor]
    trace: Trace
    prefix: int


def model(stem: str) -> VisionTransformer:
    """A model of golden/image/models, in eval mode."""
    golden = read("models", stem)
    config = golden.metadata["config"]
    cls = VisionTransformerDistilled if config.get("distilled") else VisionTransformer
    built: VisionTransformer = cls(
        img_size=config["img"],
        patch_size=config["patch"],
        embed_dim=config["embed"],
        depth=config["depth"],
        num_heads=config["heads"],
        num_classes=config["classes"],
    )
    built.load_state_dict(golden.tensors, strict=True)
    return built.eval()


@torch.no_grad()
def run(stem: str, method: str, *, only: int | None = None, **options: Any) -> Run:
    """A method on a golden model and its images, or on one of them."""
    vit, images = model(stem), read("models", f"{stem}_io")["images"]
    blocks: list[Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda _module, _args, out: blocks.append(out))
    with asap_eval.reduce(vit, method, **options) as trace:
        logits = vit(images if only is None else images[only : only + 1])
    return Run(logits, blocks, trace, vit.num_prefix_tokens)


def compare(golden: Golden, got: Run, *, sizes: bool = True) -> None:
    """Everything that model-level files have in common.

    Args:
        sizes: whether a size is the number of patches held.
    """
    close(got.logits, golden["logits"], LOGITS)
    counts = torch.tensor(golden.metadata["padded_token_count_after_each_block"])
    assert torch.equal(got.trace.lengths, counts[:, None].expand_as(got.trace.lengths))
    for index, tokens in enumerate(got.blocks):
        if f"block{index}_img0" in golden.tensors:
            close(tokens[:1], golden[f"block{index}_img0"], LOGITS)
    if "tokens_after_last_block" in golden.tensors:
        close(got.blocks[-1], golden["tokens_after_last_block"], LOGITS)
    if sizes and "size_final" in golden.tensors:
        assert torch.equal(held(got), golden["size_final"][..., 0])


def alone(golden: Golden, method: str, options: dict[str, Any]) -> None:
    """Each image by itself, against ``logits_batch1``."""
    expected = golden["logits_batch1"]
    for at in range(len(expected)):
        got = run(golden.metadata["model"], method, only=at, **options)
        close(got.logits[0], expected[at], LOGITS)


def held(got: Run) -> Tensor:
    """``[B, N]`` patches that ended up in each token; 1 for a prefix token."""
    source, last = got.trace.source, got.blocks[-1]
    size = torch.zeros(last.shape[:2]).scatter_add_(1, source.clamp(min=0), (source >= 0).float())
    size[:, : got.prefix] = 1
    return size


# --- single blocks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halfway:
    """A block between its attention and its MLP: tokens ``[B, N, D]`` and all a method may read."""

    layer: Any
    tokens: Tokens
    reads: dict[Need, Tensor]

    def view(self) -> View:
        x = self.tokens.x
        return View(1, torch.arange(len(x)), self.tokens.size, 1, lambda *_: None, self.reads)

    def decide(self, reducer: Reducer) -> Reduction:
        """What a method that acts in the first block does here; the identity where nothing."""
        x = self.tokens.x
        batch = Batch(
            count=len(x),
            tokens=x.shape[1],
            prefix=1,
            depth=1,
            has_cls=True,
            grid=(1, x.shape[1] - 1),
            seed=0,
            device=x.device,
            id_of=str,
        )
        reducer.check(batch)
        state = reducer.begin(batch)
        assert reducer.watch(1, state)
        found = reducer.decide(self.view(), state)
        return Reduction.identity(self.tokens.size) if found is None else found

    def finish(self, reduction: Reduction) -> tuple[Tensor, Tensor]:
        """``[B, S, D]`` after the MLP, and the sizes ``[B, S]``."""
        after = self.tokens.apply(reduction)
        return after.x + self.layer.mlp(self.layer.norm2(after.x)), after.size


@torch.no_grad()
def halfway(golden: Golden, size: Tensor | None = None) -> Halfway:
    """The block of a function-level file, run up to the end of its attention.

    Args:
        size: ``[B, N, 1]``; ``None`` = all 1.
    """
    x = golden["x"]
    start = Tokens.start(x, prefix=1)
    tokens = start if size is None else Tokens(x, size[..., 0], start.source, 1)
    weights = {
        name.removeprefix("block."): value
        for name, value in golden.tensors.items()
        if name.startswith("block.")
    }
    norm = partial(nn.LayerNorm, eps=1e-6)
    layer = Block(x.shape[-1], golden.metadata["num_heads"], qkv_bias=True, norm_layer=norm).eval()
    layer.load_state_dict(weights, strict=True)
    layer.requires_grad_(False)

    qkv = layer.attn.qkv(layer.norm1(x)).unflatten(-1, (3, layer.attn.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + tokens.size.log()[:, None, None]
    attention = logits.softmax(-1)
    out = layer.attn.proj((attention @ v).transpose(1, 2).flatten(2))
    reads = {Need.KEYS: k, Need.VALUES: v, Need.CLS_ROW: attention[:, :, 0]}
    return Halfway(layer, Tokens(x + out, tokens.size, tokens.source, 1), reads)
