"""A folder of labelled noise for runs of a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")
TINY = ("model=test_vit", "weights=random")
"""timm's tiny ViT with random weights: 160 px, 100 patches, 6 blocks."""


def picture_folder(root: Path, each: int = 4, classes: Sequence[str] = CLASSES) -> Path:
    """``each`` pictures in each class, by default three of ImageNet's; each is another one."""
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            noise = Image.effect_noise((24, 24), 20 + 30 * number + 5 * place).convert("RGB")
            noise.resize((160, 160)).save(root / name / f"{number:03d}.png")
    return root
