"""LLaVA-1.5 and LLaVA-NeXT of transformers 5: images are encoded and reduced here.

Inside the ``with``, `generate` and `forward` encode the images first: CLIP's blocks run through the
same seam as any tower, up to the one whose output is used (the last block is skipped, for every
method alike); what is left goes through the projector and is packed; placeholders of tokens that
are gone leave the prompt. Positions, masks and caches then follow from the shorter prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError, UnsupportedModelError
from asap_eval.hosts import hf_clip, operators
from asap_eval.hosts.backbone import Backbone, Behind
from asap_eval.hosts.geometry import LanguageGeometry, LlavaGeometry, linear_macs
from asap_eval.hosts.image_tokens import packed
from asap_eval.hosts.llama import LanguageSeam, language_blocks
from asap_eval.hosts.overriding import Function, check_free, override
from asap_eval.hosts.prompts import Prompts
from asap_eval.hosts.seam import Seam
from asap_eval.hosts.tiles import crops_of, tiles_of
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.packing import Crops, Newline, spatial
from asap_eval.tokens import Reduction
from asap_eval.trace import Trace

_WORDS = 3
"""Tokens of the prompt whose work is counted: enough for products of pairs."""

FAMILIES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")


def recognises(model: nn.Module) -> bool:
    """By class name, so that transformers is not imported for people who do not use it."""
    return type(model).__name__ in FAMILIES and type(model).__module__.startswith("transformers.")


def tower(model: Any) -> Backbone:
    """The vision tower up to the block whose output is used, as the seam needs it."""
    config = model.config
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or strategy != "default":
        raise UnsupportedModelError(
            f"vision_feature_layer={layer} with strategy '{strategy}' is not supported: only one "
            "layer, without its class token ('default')."
        )
    if not hf_clip.recognises(model.model.vision_tower):
        raise UnsupportedModelError(
            f"The vision tower is a {type(model.model.vision_tower).__name__}; only CLIP's is "
            "supported."
        )
    whole = hf_clip.backbone(model.model.vision_tower)
    devices = sorted({str(p.device) for p in model.model.vision_tower.parameters()})
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"The vision tower lies on {' and '.join(devices)}: only layers of the language model "
            "may be spread. Keep it whole in the device map, as model.device_map=auto does."
        )
    used = _used(layer, len(whole.blocks))
    if not 1 <= used <= len(whole.blocks):
        raise UnsupportedModelError(
            f"vision_feature_layer={layer} uses no block of {len(whole.blocks)}."
        )
    geometry = replace(whole.geometry, blocks=whole.geometry.blocks[:used])
    behind = Behind(model.model.multi_modal_projector)
    if used < len(whole.blocks):
        after = whole.blocks[used]
        behind = replace(
            behind,
            next_token=hf_clip.queries_and_keys_macs(after),
            queries_and_keys=partial(hf_clip.queries_and_keys, after),
        )
    return replace(whole, blocks=whole.blocks[:used], geometry=geometry, behind=behind)


def _used(layer: int, blocks: int) -> int:
    """Blocks before a hidden state; hidden state 0 is what enters the first one."""
    return layer if layer >= 0 else blocks + 1 + layer


def unused(model: Any) -> Sequence[nn.Module]:
    """Blocks of the tower behind the one whose output is used."""
    blocks = hf_clip.backbone(model.model.vision_tower).blocks
    return blocks[_used(model.config.vision_feature_layer, len(blocks)) :]


def _never_run(_before: Function) -> Function:
    def forward(*_args: Any, **_kwargs: Any) -> Any:
        raise UnsupportedModelError(
            "This block of the tower comes after the one whose output LLaVA uses; no method runs "
            "it. For the tower alone enter asap_eval.reduce with model.model.vision_tower."
        )

    return forward


def geometry(model: Any) -> LlavaGeometry:
    """The numbers that decide the work of tower, projector and language model."""
    text = model.model.language_model
    return LlavaGeometry(
        tower=tower(model).geometry,
        projector_token=linear_macs(model.model.multi_modal_projector),
        language=LanguageGeometry(
            blocks=tuple(language_blocks(text)),
            width=text.config.hidden_size,
            head_token=linear_macs(model.lm_head),
        ),
    )


def check_work(model: Any, geometry: LlavaGeometry) -> None:
    """Refuse a model of which a part does other work than its closed form says.

    Raises:
        UnsupportedModelError: it does, or its operators cannot be counted.
    """
    inner = model.model
    operators.check_work(hf_clip.backbone(inner.vision_tower), hf_clip.backbone)
    projector, text = inner.multi_modal_projector, inner.language_model
    macs = operators.operator_macs(projector, (1, 1, geometry.tower.width))
    operators.check("For an image token the projector", geometry.projector_token, macs)
    macs = operators.operator_macs(text, (1, _WORDS), torch.long, hf_clip.fused)
    ledger = sum(block.macs(_WORDS, _WORDS) for block in geometry.language.blocks)
    operators.check(f"For {_WORDS} tokens this {type(text).__name__}", ledger, macs)


@dataclass
class _Whole(Reducer):
    """The tower of a method that acts in the language model: nothing is removed.

    Attributes:
        reads: whether the method reads the class tokens' attention; the state is a list of it.
    """

    reads: bool
    site = "output"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW} if self.reads else ())

    def begin(self, batch: Batch) -> list[Tensor]:
        return []

    def decide(self, view: View, state: list[Tensor]) -> Reduction | None:
        if self.reads:
            state.append(view.cls_row[:, :, view.prefix :])
        return None


class LlavaSeam(AbstractContextManager[Trace]):
    """Installs a method on a LLaVA model for as long as it is entered.

    Args:
        model: in eval mode. reducer: the method. seed: of random choices, with each sample's id.
        newline: newlines of LLaVA-NeXT among the tokens that are left; see `packing.Newline`.
    """

    def __init__(self, model: Any, reducer: Reducer, seed: int, newline: Newline) -> None:
        self.model, self.reducer, self.newline = model, reducer, newline
        in_tower = reducer.tower == "vision"
        of_tower = reducer if in_tower else _Whole(Need.CLS_ROW in reducer.needs)
        self.seam = Seam(tower(model), of_tower, seed)
        self.trace = self.seam.trace
        self.trace.tallies = reducer.tallies
        self.language = LanguageSeam(
            model.model.language_model, None if in_tower else reducer, self.trace, seed
        )
        self._stack = ExitStack()

    def __enter__(self) -> Trace:
        model = self.model
        check_free(model, f"This {type(model).__name__}")
        with ExitStack() as stack:
            stack.enter_context(self.seam)
            stack.enter_context(self.language)
            for layer in unused(model):
                stack.enter_context(override(layer, "forward", _never_run))
            stack.enter_context(override(model.model, "get_image_features", self._features))
            # The outermost call shortens the prompt; what it calls finds no pixels left.
            stack.enter_context(override(model, "forward", self._forward))
            stack.enter_context(override(model, "generate", self._generate))
            self._stack = stack.pop_all()
        return self.trace

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _features(self, _before: Function) -> Function:
        """The model's own entry to its tower, reduced."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        def get_image_features(
            pixel_values: Tensor, image_sizes: Tensor | None = None, **kwargs: Any
        ) -> Any:
            _refuse(kwargs, allowed={"return_dict"})
            features: Any = self.encode(pixel_values, image_sizes)  # transformers types one tensor
            return BaseModelOutputWithPooling(pooler_output=features)

        return get_image_features

    def _forward(self, forward: Function) -> Function:
        def run(*args: Any, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
            if pixel_values is None and len(args) < 2:
                if kwargs.get("mm_encoder_outputs") is None:
                    self.language.forget(kwargs)
                return forward(*args, **kwargs)
            _refuse(kwargs, {"labels", "position_ids", "inputs_embeds", "past_key_values"}, args)
            prepared, _ = self._prepare(pixel_values, kwargs)
            return forward(**prepared)

        return run

    def _generate(self, generate: Function) -> Function:
        def run(*args: Any, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
            if pixel_values is None:
                self.language.forget({})
                return generate(*args, **kwargs)
            # Lengths that include the prompt would mean another one than the caller's.
            _refuse(kwargs, {"max_length", "min_length", "position_ids", "inputs_embeds"}, args)
            self.language.check_generate(kwargs)
            given = kwargs["input_ids"]
            prepared, prompts = self._prepare(pixel_values, kwargs)
            return prompts.restored(generate(**prepared), given)

        return run

    def _prepare(
        self, pixel_values: Tensor | None, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Prompts]:
        """Keywords of a call with encoded images, and the prompts as they are now."""
        named = ("input_ids", "attention_mask")
        if pixel_values is None or any(kwargs.get(name) is None for name in named):
            raise BadValueError("Give input_ids, attention_mask and pixel_values by name.")
        kwargs = dict(kwargs)
        encoded = self.model.model.get_image_features(pixel_values, kwargs.pop("image_sizes", None))
        config = self.model.config
        prompts = Prompts.of(
            kwargs["input_ids"],
            kwargs["attention_mask"],
            image=config.image_token_id,
            counts=[len(tokens) for tokens in encoded.pooler_output],
            pad=config.text_config.pad_token_id or 0,
        )
        self.language.begin(prompts)
        kwargs |= {"input_ids": prompts.ids, "attention_mask": prompts.mask}
        return kwargs | {"mm_encoder_outputs": {"image": encoded}}, prompts

    def encode(self, pixel_values: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        """Reduced and projected features of each image, ``[n, D]``, in the language model's width.

        Args:
            pixel_values: ``[S, 3, H, W]``, or ``[S, crops, 3, H, W]`` of LLaVA-NeXT.
            image_sizes: ``[S, 2]`` height and width of the pictures, LLaVA-NeXT only.
        """
        if not len(pixel_values):
            raise BadValueError("pixel_values holds no image: leave an empty batch out.")
        tiles: list[tuple[int, int]] = []
        pixels, counts = pixel_values, [1] * len(pixel_values)
        if pixel_values.dim() == 5:
            if image_sizes is None:
                raise BadValueError("LLaVA-NeXT needs image_sizes beside pixel_values.")
            tiles = [tiles_of(self.model.config, size) for size in image_sizes]
            counts = [1 + down * across for down, across in tiles]
            pixels = torch.cat([p[:n] for p, n in zip(pixel_values, counts, strict=True)])
        self._name_crops(counts, tiled=bool(tiles))
        of_crop = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.seam.expect(of_crop, self.trace.take_questions(len(counts)))
        features, projected = self._tower(pixels)
        in_language = self.reducer.tower == "language"
        if tiles or in_language:
            seen = self._seen(counts, tiles, image_sizes)
            orders = [self._order(one) for one in seen]
            if tiles:
                features = self._packed(features, counts, orders)
            if in_language:
                read: list[Tensor] = self.seam.running.state or []
                rows: Sequence[Tensor | None] = (
                    read[0].split(list(counts)) if read else [None] * len(counts)
                )
                tokens = zip(seen, orders, rows, strict=True)
                self.language.expect([packed(*sample) for sample in tokens])
        device = pixels.device
        self.trace.hand_over(
            sample=of_crop.to(device),
            projected=projected,
            handed=torch.tensor([len(tokens) for tokens in features], device=device),
        )
        return features

    @property
    def _first(self) -> int:
        """First token of a crop that is handed on."""
        return 0 if self.reducer.hands_cls else 1

    def _name_crops(self, counts: Sequence[int], tiled: bool) -> None:
        """Random choices derive from a sample's name and, in LLaVA-NeXT, the crop's number."""
        ids = self.trace.take_ids(len(counts))
        if ids is None:
            return
        crops = [f"{i}#{c}" for i, n in zip(ids, counts, strict=True) for c in range(n)]
        self.trace.name_images(crops if tiled else ids)

    def _tower(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """``[n, D]`` projected tokens of each crop ``[C, 3, H, W]``, and ``[C]`` how many of each
        went through the projector; padding costs nothing."""
        vision, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
        x = vision.pre_layrnorm(vision.embeddings(pixels))
        with self.seam.unread():
            for block in self.seam.backbone.blocks:
                x = block(x, None)
        lengths = self.trace.lengths[-1].tolist()
        made = self.seam.running.projected
        if made is not None:  # the method acted behind the projector
            kept = [row[self._first : n] for row, n in zip(made, lengths, strict=True)]
            return kept, self.trace.patches
        projected = self.trace.lengths[-1] - self._first
        if len(set(lengths)) == 1:
            return list(projector(x[:, self._first : lengths[0]])), projected
        kept = [row[self._first : length] for row, length in zip(x, lengths, strict=True)]
        tokens = projector(torch.cat(kept)).split([len(tokens) for tokens in kept])
        return list(tokens), projected

    def _seen(
        self,
        counts: Sequence[int],
        tiles: Sequence[tuple[int, int]],
        image_sizes: Tensor | None,
    ) -> list[Crops]:
        """Each sample's crops, as a packing sees them; without tiles a sample is one crop."""
        grid, lengths = self.seam.backbone.geometry.grid, self.trace.lengths[-1].tolist()
        at, out = 0, []
        for number, count in enumerate(counts):
            of_sample = slice(at, at + count)
            out.append(
                crops_of(
                    self.trace.source[of_sample],
                    lengths[of_sample],
                    first=self._first,
                    size=None if image_sizes is None else image_sizes[number],
                    tiles=tiles[number] if tiles else (0, 0),
                    grid=grid,
                )
            )
            at += count
        return out

    def _order(self, seen: Crops) -> Tensor:
        """In which a sample's tokens are handed on; of one crop as they are."""
        if seen.tiles == (0, 0):
            return torch.arange(len(seen.crop), device=seen.crop.device)
        order = self.reducer.pack(seen)
        return spatial(seen, self.newline) if order is None else order

    def _packed(
        self, crops: list[Tensor], counts: Sequence[int], orders: Sequence[Tensor]
    ) -> list[Tensor]:
        """``[n, D]`` of each sample: its crops in order, newlines among them."""
        newline, at, out = self.model.model.image_newline.to(crops[0])[None], 0, []
        for count, order in zip(counts, orders, strict=True):
            # `NEWLINE` is -1, the last row.
            out.append(torch.cat([*crops[at : at + count], newline])[order])
            at += count
        return out


def _refuse(
    kwargs: dict[str, Any],
    names: set[str] | None = None,
    args: Sequence[Any] = (),
    *,
    allowed: set[str] | None = None,
) -> None:
    """Refuse arguments that would mean something else with fewer tokens."""
    given = {name for name, value in kwargs.items() if value is not None}
    refused = given - allowed if allowed is not None else given & (names or set())
    if refused or args:
        listed = ", ".join(sorted(refused)) or "arguments by position"
        raise BadValueError(
            f"With token reduction {listed} cannot be given beside images; name all arguments, and "
            "use max_new_tokens for lengths."
        )
