"""LLaVA-1.5 and LLaVA-NeXT: the real classes from a configuration, small ones filled from a seed.

The small models are for trying the plumbing. Freshly initialised transformers attend almost
uniformly, so that every selection would decide on rounding; here queries and keys are scaled up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
"""First ids of the small models' tokenizer; the other 256 are bytes."""

IMAGE = SPECIAL.index("<image>")

CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% else %}ASSISTANT: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The question as LLaVA's own prompt has it, without its system sentence."""

SHAPE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "image_size", "patch_size"),
)
"""Entries of a configuration, of tower or language model, that decide shapes and work."""


def configuration(
    family: str, vision: Mapping[str, Any], text: Mapping[str, Any], **options: Any
) -> Any:
    """A `LlavaConfig` or `LlavaNextConfig`.

    Args:
        family: ``llava`` or ``llava_next``. vision, text: of CLIP and of Llama, as transformers
            names them. options: of the whole (``image_token_index``, ``image_grid_pinpoints``).
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig

    kind = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}[family]
    side = vision["image_size"] // vision["patch_size"]
    return kind(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_seq_length=side * side,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **options,
    )


def model_of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The untrained model of a configuration, attention fused."""
    from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

    kinds: dict[str, Any] = {
        "llava": LlavaForConditionalGeneration,
        "llava_next": LlavaNextForConditionalGeneration,
    }
    return kinds[config.model_type]._from_config(config, dtype=dtype, attn_implementation="sdpa")


def fill(model: nn.Module, seed: int, peak: float, device: torch.device | str = "cpu") -> None:
    """Every parameter from a seed; ``peak`` scales queries and keys, so that attention has peaks.

    No parameter stays at a value (unit norm, zero bias) that hides an error.

    Args:
        device: where values are drawn; another kind of device draws others.
    """
    g = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=g, device=device)
            p.copy_(_value(name, p, noise, peak))


def _value(name: str, p: Tensor, noise: Tensor, peak: float) -> Tensor:
    if "norm" in name:
        return noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
    if name.endswith("bias"):
        return noise * 0.1
    if ("embed" in name and "patch" not in name) or name.endswith("newline"):
        return noise * 0.7
    value = noise * p[0].numel() ** -0.5
    if "q_proj" in name or "k_proj" in name:
        return value * peak
    if "patch_embedding" in name or "lm_head" in name:
        return value * 3.0
    written = ("out_proj.weight", "o_proj.weight", "fc2.weight", "down_proj.weight")
    return value * 0.5 if name.endswith(written) else value


def small_processor(config: Any) -> Any:
    """Tokenizer and image processor of a small model: bytes as tokens, made here, offline.

    Images are padded to a square with the mean colour (LLaVA-1.5), or cut into tiles (LLaVA-NeXT).
    """
    from transformers import (
        LlavaImageProcessor,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        LlavaProcessor,
    )

    size = config.vision_config.image_size
    shared = {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    images: Any = LlavaImageProcessor(do_pad=True, **shared)
    kind: Any = LlavaProcessor
    if config.model_type == "llava_next":
        images = LlavaNextImageProcessor(image_grid_pinpoints=config.image_grid_pinpoints, **shared)
        kind = LlavaNextProcessor
    return kind(
        image_processor=images,
        tokenizer=_bytes_tokenizer(),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def squared(images: Any) -> Any:
    """The image processor as LLaVA-1.5's own evaluation has it.

    It pads pictures to a square with the mean colour; the hub's checkpoints crop the centre. Sizes
    and colours are those of the given one.
    """
    from transformers import LlavaImageProcessor

    return LlavaImageProcessor(
        do_pad=True,
        size=dict(images.size),
        crop_size=dict(images.crop_size),
        image_mean=list(images.image_mean),
        image_std=list(images.image_std),
        resample=images.resample,
    )


def _bytes_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )
