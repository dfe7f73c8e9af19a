"""A small data set and a small model for trainings in tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from pictures import CLASSES
from PIL import Image
from timm.data import create_transform

from asap_eval.models import LoadedModel, ModelSpec, WeightsInfo
from asap_eval.train.method import setting


def twelve_pictures(root: Path) -> Path:
    """Twelve pictures in three classes, the same ones in every run."""
    pixels = (tiny.images(12, seed=3) * 40 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)
    for place, image in enumerate(pixels.numpy()):
        file = root / CLASSES[place % 3] / f"{place:03d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(file)
    return root


def lend_backbone(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The model of every training in a test. Its attention has lower peaks than elsewhere: where
    a masked key outweighs all others, straight-through gradients are too large to learn from."""
    model = tiny.vit(1, peak=1.0)
    loaded = LoadedModel(
        model=model,
        transform=create_transform(24),
        classes=1000,
        name="tiny",
        timm=None,
        weights=WeightsInfo("tiny", "0" * 64, trained=True),
        labels="wnid",
        spec=ModelSpec("tiny"),
    )
    monkeypatch.setattr(setting, "load_model", lambda *_, **__: loaded)
    return model
