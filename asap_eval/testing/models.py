"""Tiny vision transformers with peaked attention: random weights, fixed seeds, built in code.

Freshly initialised transformers attend almost uniformly, so every method would decide on noise.
Here queries and keys are scaled up until the heaviest key of a query carries many times the
uniform weight, and no parameter is left at a value (zero bias, unit norm) that hides an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from asap_eval.models.lvvit import LVViT

CLASSES = 11
PEAK = 1.7
"""Factor on queries and keys."""


def vit(
    seed: int = 0,
    *,
    cls: type[VisionTransformer] = VisionTransformer,
    size: int = 24,
    width: int = 32,
    depth: int = 5,
    heads: int = 2,
    peak: float = PEAK,
    **options: Any,
) -> VisionTransformer:
    """A timm ViT with patches of 4 x 4 pixels, in eval mode, fp32."""
    model = cls(
        img_size=size,
        patch_size=4,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=2,
        num_classes=CLASSES,
        **options,
    )
    return shake(model, seed, peak)


def large(seed: int = 0) -> VisionTransformer:
    """64 patches and a class token, 6 blocks: enough for several firing blocks."""
    return vit(seed, size=32, width=48, depth=6, heads=3)


def clip(seed: int = 0) -> nn.Module:
    """A Hugging Face CLIP vision tower: 36 patches and a class token, 5 layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    options: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 4,
        "attn_implementation": "sdpa",
    }
    config = CLIPVisionConfig(**options)
    return shake(CLIPVisionModel(config), seed, PEAK)


def lv_vit(seed: int = 0) -> LVViT:
    """LV-ViT: 36 patches and a class token, 5 blocks; every patch votes."""
    model = LVViT(24, 4, embed_dim=32, depth=5, num_heads=2, num_classes=CLASSES)
    shaken: LVViT = shake(model, seed, PEAK)
    return shaken


HOSTS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: vit(1),
    "distilled": lambda: vit(2, cls=VisionTransformerDistilled),
    "layerscale": lambda: vit(3, init_values=0.1),
    "registers": lambda: vit(4, reg_tokens=4),
    "registers_no_embed": lambda: vit(5, reg_tokens=4, no_embed_class=True),
    "avg_without_cls": lambda: vit(6, class_token=False, global_pool="avg"),
    "avg_with_cls": lambda: vit(7, global_pool="avg", fc_norm=False),
    "map": lambda: vit(8, class_token=False, global_pool="map"),
    "qk_norm": lambda: vit(9, qk_norm=True),
    "pre_norm": lambda: vit(10, pre_norm=True),
    "clip": lambda: clip(11),
    "lv_vit": lambda: lv_vit(12),
}
"""Every supported family by name."""

WITHOUT_CLS = frozenset({"avg_without_cls", "map"})
PREFIX = {"distilled": 2, "registers": 5, "registers_no_embed": 5, "avg_without_cls": 0, "map": 0}
"""Prefix tokens of a host; 1 where it is not listed."""


def images(count: int, size: int = 24, seed: int = 0) -> Tensor:
    """``[count, 3, size, size]`` noise with blobs; contrast varies, so that decisions do too."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    x = torch.randn(count, 3, size, size, generator=g) * torch.linspace(0.1, 1.2, count).view(
        -1, 1, 1, 1
    )
    for _ in range(3):
        place = torch.rand(count, 2, 1, 1, generator=g) * 2 - 1
        colour = torch.randn(count, 3, 1, 1, generator=g) * 2
        far = (axis[:, None] - place[:, :1]) ** 2 + (axis[None, :] - place[:, 1:]) ** 2
        x = x + colour * torch.exp(-far * 8)
    order = torch.randperm(count, generator=g)
    return x[order]


def output(model: nn.Module, x: Tensor) -> Tensor:
    """``[B, ...]`` what a person reads from the model: logits, or CLIP's pooled features."""
    with torch.no_grad():
        out = model(x)
    return out if isinstance(out, Tensor) else out.pooler_output


@torch.no_grad()
def shake(model: nn.Module, seed: int = 0, peak: float = PEAK) -> Any:
    """Fill every parameter of a model; ``peak`` scales queries and keys."""
    g = torch.Generator().manual_seed(seed)

    def noise(p: Tensor, scale: float) -> Tensor:
        return torch.randn(p.shape, generator=g) * scale

    for name, p in model.named_parameters():
        leaf = name.rsplit(".", 2)
        if leaf[-1] == "gamma":  # LayerScale
            p.copy_(0.8 + noise(p, 0.2))
        elif "norm" in name:
            sharp = peak if "q_norm" in name or "k_norm" in name else 1.0
            p.copy_(sharp + noise(p, 0.1) if leaf[-1] == "weight" else noise(p, 0.1))
        elif leaf[-1] == "bias":
            p.copy_(noise(p, 0.1))
        elif p.dim() == 1 or ("embedding.weight" in name and "patch" not in name):
            p.copy_(noise(p, 0.5))  # CLIP's class and position embeddings
        elif leaf[-1] != "weight":
            p.copy_(noise(p, 0.5))  # class, distillation and register tokens, positions, latents
        else:
            p.copy_(noise(p, p[0].numel() ** -0.5) * _gain(name))
            if name.endswith("qkv.weight"):
                p[: 2 * p.shape[0] // 3] *= peak
            elif "q_proj" in name or "k_proj" in name:
                p.mul_(peak)
    return model.eval().requires_grad_(False)


def _gain(name: str) -> float:
    if "patch_embed" in name:
        return 3.0
    if name.startswith("head"):
        return 2.0
    if name.endswith(("attn.proj.weight", "out_proj.weight", "fc2.weight")):
        return 0.7
    return 1.0
