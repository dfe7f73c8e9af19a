"""Hugging Face's CLIP vision tower as a model of images: features, or logits with a head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn

from asap_eval.errors import BadValueError, WeightsError
from asap_eval.files.digests import file_sha256
from asap_eval.models.pretrained import load_beside, open_pretrained
from asap_eval.models.weights import WeightsInfo, fit, read_checkpoint

_TEXT = ("text_model.", "text_projection.", "logit_scale")
"""Keys of a whole CLIP checkpoint that do not belong to the tower."""
_NO_WEIGHTS = "vision_model.embeddings.position_ids"
"""A constant that older checkpoints hold."""

_COMPUTED = ("num_attention_heads", "hidden_act", "layer_norm_eps")
"""Entries of a configuration that change features but no tensor's shape: they are compared."""


class ClipTower(nn.Module):
    """The tower in ``tower`` and what follows its pooled class token in ``head``.

    The projection is taken out of Hugging Face's module, so that a head can stand behind it. The
    transform is CLIP's own: bicubic to the model's size, centre crop, CLIP's mean and deviation.

    Args:
        config: of `transformers.CLIPVisionConfig`, ``projection_dim`` included.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        known = CLIPVisionConfig()
        if strange := [name for name in config if not hasattr(known, name)]:
            raise BadValueError(f"model.kwargs.{strange[0]} is no option of CLIPVisionConfig.")
        built = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        self.tower, self.head = built.vision_model, built.visual_projection
        self.config = built.config
        self.num_classes = built.config.projection_dim
        side = built.config.image_size
        self.pretrained_cfg = self.default_cfg = {
            "input_size": (3, side, side),
            "mean": OPENAI_CLIP_MEAN,
            "std": OPENAI_CLIP_STD,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": self.num_classes,
            "architecture": "clip_tower",
            "first_conv": "tower.embeddings.patch_embedding",
            "classifier": "head",
        }

    def forward(self, images: Tensor) -> Tensor:
        """``[B, d]`` projected features, or ``[B, classes]``, from ``[B, 3, H, W]``."""
        return self.head(self.tower(images).pooler_output)


def load_file(net: ClipTower, path: Path, name: str) -> WeightsInfo:
    """Fill a tower from a file of its own or of a whole CLIP model (the text model is left out)."""
    state, entry = read_checkpoint(path)
    _fill(net, state, name)
    return WeightsInfo(name, file_sha256(path), trained=True, entry=entry)


def load_published(net: ClipTower, repository: str) -> WeightsInfo:
    """Fill a tower with a Hugging Face repository's weights (or those of a local folder).

    Raises:
        WeightsError: they cannot be fetched, are incomplete, do not fit, or are of a tower that
            computes something else.
    """
    from transformers import CLIPConfig

    given = open_pretrained(repository, repository, "give its file as weights=<file>")
    config = load_beside(CLIPConfig, given, "configuration of CLIP")
    _fill(net, given.state(), given.name)
    for name in _COMPUTED:
        found, stated = getattr(config.vision_config, name), getattr(net.config, name)
        if found != stated:
            raise WeightsError(
                f"{given.name} is of a tower with {name}={found}, not {stated}: give "
                f"model.kwargs.{name}={found}."
            )
    return given.info(setup=False)


def _fill(net: ClipTower, state: Mapping[str, Tensor], name: str) -> None:
    own = {key: value for key, value in state.items() if not key.startswith(_TEXT)}
    own.pop(_NO_WEIGHTS, None)
    renamed = {
        key.replace("vision_model.", "tower.", 1).replace("visual_projection.", "head.", 1): value
        for key, value in own.items()
    }
    fit(net, renamed, name)
