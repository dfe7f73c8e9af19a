"""Text embeddings of a zero-shot classifier, from class names and prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from asap_eval.errors import BadValueError
from asap_eval.files.tensors import save_tensors
from asap_eval.models.pretrained import load_beside, load_whole, open_pretrained

TEMPLATES = ("a photo of a {}.",)
"""Prompts where none are given; the class name takes the place of the braces."""

Tokenizer = Callable[..., Mapping[str, Tensor]]


def imagenet_names() -> dict[str, str]:
    """The first WordNet synonym of every ImageNet class, by id, as timm lists them.

    Not the names that CLIP's authors chose by hand: some are ambiguous (``crane`` is two classes).
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    ids = info.label_names()
    return {wnid: info.label_name_to_description(wnid).split(",")[0].strip() for wnid in ids}


def read_names(path: Path) -> dict[str, str]:
    """Class names by WordNet id, from lines ``<id> <name>``.

    Raises:
        BadValueError: a line without a name, or an id twice.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        wnid, _, name = line.strip().partition("\t" if "\t" in line else " ")
        if not line.strip():
            continue
        if not name.strip() or wnid in names:
            fault = "has no name after the id" if not name.strip() else "repeats an id"
            raise BadValueError(f"{path}, line {number} {fault}: {line!r}. Give `<id> <name>`.")
        names[wnid] = name.strip()
    if not names:
        raise BadValueError(f"{path} names no class.")
    return names


def read_templates(path: Path) -> list[str]:
    """Prompts, one a line, each with one ``{}``."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    templates = [line for line in lines if line]
    if not templates or any(line.count("{}") != 1 for line in templates):
        raise BadValueError(f"{path}: give one prompt a line, each with one {{}} for the class.")
    return templates


@torch.inference_mode()
def text_embeds(
    clip: Any, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """``[classes, d]`` of length 1: the mean over prompts of the normalised text features.

    Args:
        clip: a `transformers.CLIPModel`. tokenizer: its own. names: one per class, in order.
    """
    rows = []
    for name in names:
        prompts = [template.replace("{}", name) for template in templates]
        tokens = tokenizer(prompts, padding=True, return_tensors="pt")
        features = clip.get_text_features(**tokens).pooler_output.float()
        rows.append(normalize(features, dim=-1).mean(0))
    return normalize(torch.stack(rows), dim=-1)


def write_head(
    out: Path,
    source: str,
    clip: Any,
    tokenizer: Tokenizer,
    names: Mapping[str, str],
    templates: Sequence[str],
) -> None:
    """Write the file that ``model.head=`` takes, all of it or nothing; classes in the order of
    their sorted ids.

    Raises:
        OSError: the file cannot be written; an older one is then still whole.
    """
    classes = sorted(names)
    embeds = text_embeds(clip, tokenizer, [names[wnid] for wnid in classes], templates)
    metadata = {
        "classes": json.dumps(classes),
        "names": json.dumps([names[wnid] for wnid in classes]),
        "templates": json.dumps(list(templates)),
        "clip": source,
    }
    save_tensors({"text_embeds": embeds, "logit_scale": clip.logit_scale.float()}, out, metadata)


def open_clip(source: str) -> tuple[Any, Tokenizer]:
    """A `transformers.CLIPModel` and its tokenizer, from a repository or a folder."""
    from transformers import AutoTokenizer, CLIPModel

    given = open_pretrained(source, f"--clip {source}", "give its folder as --clip <folder>")
    clip = load_whole(CLIPModel, given, dtype=torch.float32).eval()
    return clip, load_beside(AutoTokenizer, given, "tokenizer", words=True)
