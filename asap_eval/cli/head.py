"""``asap-eval head``: text embeddings of a zero-shot classifier, from class names and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError, BadValueError


@dataclass
class Asked:
    """What to embed, and with which model."""

    out: Path  # safetensors file to write
    clip: str = "openai/clip-vit-large-patch14-336"  # repository or folder of the whole CLIP model
    names: Path | None = None  # lines `<WordNet id> <name>`; default: timm's for ImageNet-1k
    templates: Path | None = None  # prompts, one a line; default: a photo of a {}.


def main(argv: Sequence[str]) -> int:
    """Compute a head and write it as safetensors; the exit code is 0 if it was written."""
    return command(argv, Asked, "head", str(__doc__), _written)


def _written(asked: Asked) -> None:
    from asap_eval.models.text_head import (
        TEMPLATES,
        imagenet_names,
        open_clip,
        read_names,
        read_templates,
        write_head,
    )

    for key in ("names", "templates"):
        if (file := getattr(asked, key)) is not None and not file.is_file():
            raise BadValueError(f"{key}={file} does not exist. Give a text file, one a line.")
    try:
        names = imagenet_names() if asked.names is None else read_names(asked.names)
        templates = TEMPLATES if asked.templates is None else read_templates(asked.templates)
        clip, tokenizer = open_clip(asked.clip)
        write_head(asked.out, asked.clip, clip, tokenizer, names, templates)
    except OSError as error:
        raise AsapEvalError(str(error)) from error
    print(asked.out)
