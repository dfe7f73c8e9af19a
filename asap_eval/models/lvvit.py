"""LV-ViT (Jiang et al., "All Tokens Matter", arXiv 2104.10858): the backbone, from its description.

Four convolutions make the patches, every residual branch is divided by a constant, and patch tokens
vote too: the output is the class token's logits plus half the largest of the patches' logits, class
by class. Parameters are named as in the authors' checkpoints, which load as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import Mlp, resample_abs_pos_embed, trunc_normal_
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

AUX_WEIGHT = 0.5
"""Share of the patches' vote in the output."""

PRETRAINED_CFG: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "num_classes": 1000,
    "architecture": "lvvit_s",
    "first_conv": "patch_embed.conv1",
    "classifier": ("head", "aux_head"),
}
"""What ``timm.data.resolve_model_data_config`` reads."""


class PatchEmbed(nn.Module):
    """``[B, D, H / patch, W / patch]`` from images; three convolutions at half their size."""

    def __init__(self, patch_size: int, width: int, channels: int = 64) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, bias=False)
        self.conv1 = convolution(3, channels, kernel_size=7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, channels, kernel_size=3, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size // 2, stride=patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
        return self.proj(x)


class Block(nn.Module):
    """Pre-norm block whose residual branches are divided by ``skip_lam``."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, skip_lam: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.skip_lam = skip_lam

    def attention_half(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm1(x)) / self.skip_lam

    def mlp_half(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x)) / self.skip_lam

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp_half(self.attention_half(x))


class LVViT(nn.Module):
    """The model for inference: token labelling and token mixing belong to its training.

    Attributes:
        dynamic_img_size: whether images of another size than ``img_size`` are accepted; the
            position embedding is then resampled as timm's Vision Transformers do.
    """

    dynamic_img_size: bool

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        skip_lam: float = 2.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_classes = embed_dim, num_classes
        self.img_size, self.dynamic_img_size = img_size, False
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        patches = self.grid_size[0] * self.grid_size[1]
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, embed_dim))
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, mlp_ratio, skip_lam) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.aux_head = nn.Linear(embed_dim, num_classes)
        cfg = {**PRETRAINED_CFG, "input_size": (3, img_size, img_size), "num_classes": num_classes}
        self.pretrained_cfg = self.default_cfg = cfg

    def forward(self, images: Tensor) -> Tensor:
        """``[B, classes]`` from ``[B, 3, H, W]``."""
        stem = self.patch_embed(images)
        positions = self.pos_embed
        if self.dynamic_img_size:
            positions = resample_abs_pos_embed(positions, stem.shape[2:], self.grid_size)
        patches = stem.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + positions
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0]) + AUX_WEIGHT * self.vote(self.aux_head(x[:, 1:]))

    def vote(self, logits: Tensor) -> Tensor:
        """``[B, classes]`` the largest of the patches' logits ``[B, n, classes]``."""
        return logits.amax(1)


def lvvit_s(**options: Any) -> LVViT:
    """LV-ViT-S: 26.15 M parameters, 6.55 G MACs at 224 px."""
    return LVViT(**options)
