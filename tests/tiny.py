"""The small vision transformers of `asap_eval.testing`, under a short name."""

from __future__ import annotations

from asap_eval.testing.models import (
    CLASSES,
    HOSTS,
    PREFIX,
    WITHOUT_CLS,
    clip,
    images,
    large,
    lv_vit,
    output,
    shake,
    vit,
)

__all__ = [
    "CLASSES",
    "HOSTS",
    "PREFIX",
    "WITHOUT_CLS",
    "clip",
    "images",
    "large",
    "lv_vit",
    "output",
    "shake",
    "vit",
]
