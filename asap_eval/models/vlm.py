"""A vision-language model by name, with the processor that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asap_eval.errors import BadValueError, UnsupportedModelError, WeightsError
from asap_eval.models import llava
from asap_eval.models.device_map import (
    check_device_map,
    free_memory,
    placed_on,
    placement,
    spread,
)
from asap_eval.models.pretrained import (
    COPY,
    Pretrained,
    load_beside,
    load_whole,
    open_folder,
    open_pretrained,
)
from asap_eval.models.spec import ModelSpec, find, model_specs
from asap_eval.models.weights import WeightsInfo, tensors_sha256
from asap_eval.models.zoo import check_device, check_dtype

SEED = 0
"""Of the small models and of ``weights=random``."""
PEAK = 2.5
"""Factor on queries and keys of seeded models, whose attention would be almost uniform."""

TRIED = ((5, 18), (6, 0))
"""Releases of transformers: from the first whose models take encoded images, up to the first that
was not tried. pyproject.toml says the same."""


@dataclass
class LoadedVlm:
    """A vision-language model ready to be measured.

    Attributes:
        model: in eval mode, on its device or spread over several, in its dtype, no gradients.
        processor: text and pictures to the model's inputs; pads on the left.
        name: of the model. weights: which weights, with their hash. spec: what it was built from.
    """

    model: Any
    processor: Any
    name: str
    weights: WeightsInfo
    spec: ModelSpec

    @property
    def params(self) -> dict[str, Any]:
        """What else than its name says which model this is, for a job."""
        spec = self.spec
        return {
            "timm": None,
            "hf": spec.hf,
            "head": None,
            "family": spec.family,
            "labels": "none",
            "kwargs": dict(spec.kwargs),
            **({} if spec.device_map is None else {"device_map": spec.device_map}),
        }

    @property
    def placement(self) -> dict[str, Any]:
        """Where its parts lie, for a record; {} = on one device."""
        return placement(self.model)

    @property
    def devices(self) -> list[torch.device]:
        """Where its weights lie, the one that takes inputs first."""
        return list(dict.fromkeys(p.device for p in self.model.parameters()))

    def inputs(self, pictures: Sequence[Any], questions: Sequence[str]) -> dict[str, Any]:
        """One picture and one question a sample, as the model's keywords, on its device.

        Args:
            pictures: RGB pictures (PIL). questions: texts, put into the model's chat template.

        Raises:
            BadValueError: not one question for each picture. WeightsError: no chat template.
        """
        if len(pictures) != len(questions):
            raise BadValueError(f"{len(pictures)} pictures for {len(questions)} questions.")
        self.check_prompts()
        prompts = [self._prompt(question) for question in questions]
        made = self.processor(
            images=list(pictures),
            text=prompts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not prompts[0].startswith(self.processor.tokenizer.bos_token),
        )
        made = made.to(self.model.device, self.model.dtype)  # floating-point tensors alone
        keep = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
        return {key: made[key] for key in keep if key in made}

    def check_prompts(self) -> None:
        """Raise `WeightsError` where a question cannot be put into the model's words."""
        if self.processor.chat_template is None:
            raise WeightsError(f"{self.weights.name} has no chat template. {COPY}")

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turn = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turn, add_generation_prompt=True)

    def texts(self, tokens: Any) -> list[str]:
        """``[S, T]`` generated ids as texts, special tokens and outer blanks left out."""
        return [
            text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)
        ]


def load_vlm(
    model: str | ModelSpec,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> LoadedVlm:
    """Build a vision-language model and fill it.

    It is built in its dtype, not cast: what upstream keeps in fp32 (rotary frequencies) stays so.

    Args:
        model: a name of ``conf/model`` whose family is not ``image``, or its spec.
        weights: a folder that ``save_pretrained`` wrote, with its processor, in the shape of the
            spec; ``"random"`` = from a seed, in that shape; ``None`` = the published weights, which
            for the small models are those of the seed.

    Raises:
        UnknownNameError: no such model or dtype. BadValueError: not a vision-language model, or no
            such device. WeightsError: weights that are missing, cannot be fetched or do not fit.
        UnsupportedModelError: transformers is missing or of a release that was not tried, or a
            device map without accelerate.
    """
    check_transformers()
    target, precision = check_device(device), check_dtype(dtype)
    spec = model if isinstance(model, ModelSpec) else find(model)
    check_vlm(spec)
    check_device_map(spec.device_map, target)
    parts = None
    if spec.device_map is not None:
        parts = placed_on(shape_of(spec), precision, free_memory())
    if weights == "random" or (weights is None and spec.hf is None):
        net, processor, info = _seeded(spec, precision)
        if parts is not None:
            net = spread(net, parts)
    else:
        net, processor, info = _saved(spec, weights, precision, parts)
    net.eval().requires_grad_(False)
    if parts is None:
        net.to(target)
    return LoadedVlm(net, processor, spec.name, info, spec)


def check_vlm(spec: ModelSpec) -> None:
    """Raise `BadValueError` for an image model."""
    if not spec.vlm:
        raise BadValueError(
            f"model '{spec.name}' is an image model; this takes vision-language models: "
            f"{', '.join(name for name, one in model_specs().items() if one.vlm)}."
        )


def check_transformers() -> None:
    """Refuse a release of transformers that is not one of `TRIED`."""
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedModelError(
            "Vision-language models need transformers: pip install 'asap-eval[vlm]'."
        ) from error
    major, minor = transformers.__version__.split(".")[:2]
    first, end = TRIED
    if not first <= (int(major), int(minor)) < end:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} is installed; vision-language models need "
            f">={first[0]}.{first[1]},<{end[0]}: pip install 'asap-eval[vlm]'."
        )


def shape_of(spec: ModelSpec) -> nn.Module:
    """The whole model of a spec on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return llava.model_of(llava.configuration(spec.family, **spec.kwargs)).eval()


def _seeded(spec: ModelSpec, dtype: torch.dtype) -> tuple[nn.Module, Any, WeightsInfo]:
    config = llava.configuration(spec.family, **spec.kwargs)
    net = llava.model_of(config, dtype)
    llava.fill(net, SEED, PEAK)
    info = WeightsInfo(f"random:seed={SEED}", tensors_sha256(net), trained=False)
    return net, llava.small_processor(config), info


def check_saved(spec: ModelSpec, weights: str | Path | None) -> None:
    """Refuse a folder that `load_vlm` would refuse; nothing is loaded, and nothing fetched.

    Raises:
        WeightsError: it lacks a file, is quantised, or of another family or size than the spec.
    """
    place = spec.hf if weights is None else weights
    if place not in (None, "random") and (weights or Path(str(place)).expanduser().is_dir()):
        _opened(spec, weights)


def _opened(spec: ModelSpec, weights: str | Path | None) -> Pretrained:
    """A folder, or the spec's repository, which has to be what the spec says."""
    if weights is not None:
        given = open_folder(weights)
    else:
        given = open_pretrained(str(spec.hf), spec.name, "give its folder as weights=<folder>")
    _check_family(spec, given)
    _check_shape(spec, given)
    return given


def _saved(
    spec: ModelSpec,
    weights: str | Path | None,
    dtype: torch.dtype,
    parts: dict[str, int] | None,
) -> tuple[nn.Module, Any, WeightsInfo]:
    """Model and processor of a folder or of the hub; ``parts`` says on which GPU each part lies."""
    from transformers import AutoModelForImageTextToText

    given = _opened(spec, weights)
    net = load_whole(
        AutoModelForImageTextToText,
        given,
        dtype=dtype,
        attn_implementation="sdpa",
        **({} if parts is None else {"device_map": parts}),
    )
    return net, _processor(given, net.config), given.info(setup=True)


def _check_family(spec: ModelSpec, given: Pretrained) -> None:
    found = given.config.get("model_type")
    if found != spec.family:
        fitting = [name for name, one in model_specs().items() if one.family == found]
        known = f"Give model={' or model='.join(fitting)}." if fitting else "No host runs that."
        raise WeightsError(
            f"{given.name} is of family {found}, and model={spec.name} of {spec.family}. {known}"
        )


def _check_shape(spec: ModelSpec, given: Pretrained) -> None:
    """A record says what the spec says, and a plan counts with it: they have to be the weights'."""
    from transformers import AutoConfig

    config = load_beside(AutoConfig, given, "configuration")
    other = {
        f"{part}.{name}": (found, stated[name])
        for part, of in (("vision", config.vision_config), ("text", config.text_config))
        for stated in [spec.kwargs.get(part, {})]
        for name in llava.SHAPE
        if name in stated and (found := getattr(of, name, None)) != stated[name]
    }
    if other:
        listed = ", ".join(f"{name} {found}, not {said}" for name, (found, said) in other.items())
        options = " ".join(f"model.kwargs.{name}={found}" for name, (found, _) in other.items())
        raise WeightsError(
            f"{given.name} is of another size than model={spec.name} says: {listed}. Give the "
            f"model of its size, or its size: {options}."
        )


def _processor(given: Pretrained, config: Any) -> Any:
    """The processor beside the weights, with what old checkpoints left unsaid in it."""
    from transformers import AutoProcessor

    processor = load_beside(AutoProcessor, given, "processor with its tokenizer", words=True)
    parts = {
        "tokenizer": getattr(processor, "tokenizer", None),
        "image processor": getattr(processor, "image_processor", None),
    }
    if lacking := [noun for noun, part in parts.items() if part is None]:
        raise WeightsError(f"{given.name} has no {' and no '.join(lacking)}. {COPY}")
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = 1  # CLIP's class token
    processor.tokenizer.padding_side = "left"
    if config.model_type == "llava":
        processor.image_processor = llava.squared(processor.image_processor)
    return processor
