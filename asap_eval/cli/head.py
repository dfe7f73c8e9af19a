"""``asap-eval-head``: text embeddings of a zero-shot classifier, from class names and prompts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asap_eval.errors import AsapEvalError
from asap_eval.models.text_head import (
    TEMPLATES,
    imagenet_names,
    open_clip,
    read_names,
    read_templates,
    write_head,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compute a head and write it as safetensors; the exit code is 0 if it was written."""
    args = _parser().parse_args(argv)
    try:
        names = imagenet_names() if args.names is None else read_names(args.names)
        templates = TEMPLATES if args.templates is None else read_templates(args.templates)
        clip, tokenizer = open_clip(args.clip)
        write_head(args.out, args.clip, clip, tokenizer, names, templates)
    except (AsapEvalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asap-eval-head", description=__doc__)
    parser.add_argument(
        "--clip",
        default="openai/clip-vit-large-patch14-336",
        help="repository or folder of the whole CLIP model (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--names", type=Path, help="lines `<WordNet id> <name>`; default: timm's for ImageNet-1k"
    )
    parser.add_argument(
        "--templates", type=Path, help=f"prompts, one a line; default: {TEMPLATES[0]}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
