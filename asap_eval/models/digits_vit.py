"""The small Vision Transformer of the bundled example (see ``asap_eval/example/README.md``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

#: A plain timm ViT: CLS token, ``pool='token'``, 10 x 10 patches of 8 x 8 pixels.
CONFIG: dict[str, Any] = {
    "img_size": 80,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 8,
    "num_heads": 2,
    "mlp_ratio": 3.0,
    "class_token": True,
    "global_pool": "token",
    "qkv_bias": True,
}

#: What ``timm.data.resolve_model_data_config`` reads: 80 x 80 pixels, scaled to -1..1.
PRETRAINED_CFG: dict[str, Any] = {
    "input_size": (3, 80, 80),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "num_classes": 10,
    "architecture": "digits_vit",
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}

#: The trained weights that come with the package (fp16 safetensors, digits 0 to 9).
WEIGHTS = Path(__file__).parent.parent / "example" / "digits_vit.safetensors"


def digits_vit(pretrained: bool = False, num_classes: int = 10) -> VisionTransformer:
    """Build the model in fp32; ``pretrained`` loads the bundled weights (10 classes only)."""
    model = VisionTransformer(**CONFIG, num_classes=num_classes)
    cfg = {**PRETRAINED_CFG, "num_classes": num_classes}
    model.pretrained_cfg = model.default_cfg = cfg  # type: ignore[assignment]
    if pretrained:
        if num_classes != 10:
            raise ValueError(f"the bundled weights have 10 classes, not {num_classes}")
        from safetensors.torch import load_file

        model.load_state_dict(load_file(WEIGHTS), strict=True)
    return model
