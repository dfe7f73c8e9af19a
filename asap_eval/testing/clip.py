"""A CLIP checkpoint of random weights, for methods that read the question with its text tower."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from asap_eval.files.placed import placed
from asap_eval.files.tensors import save_tensors


@dataclass(frozen=True)
class Shape:
    """What decides the work of the two projections and the text tower.

    Attributes:
        image: width of the tower for images, of which one block is made.
        text, heads, mlp, layers: of the text tower. context: tokens it reads at once.
        joint: width of the space that both are projected to.
    """

    image: int
    text: int
    heads: int
    mlp: int
    layers: int
    context: int
    joint: int


def write_clip(folder: Path, shape: Shape, seed: int = 0) -> str:
    """Put config, seeded weights and a tokenizer of bytes into a folder; hands back its path."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPModel

    words = {
        "hidden_size": shape.text,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": 258,
        "max_position_embeddings": shape.context,
    }
    vision = {
        "hidden_size": shape.image,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPConfig(text_config=words, vision_config=vision, projection_dim=shape.joint)
        model = CLIPModel(config)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"<s>": 256, "</s>": 257}
    tokens = Tokenizer(models.BPE(vocabulary, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    save_tensors(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    files = {
        "config.json": config.to_json_string(),
        "tokenizer.json": tokens.to_str(),
        "tokenizer_config.json": json.dumps(about),
    }
    for name, text in files.items():
        with placed(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return str(folder)
