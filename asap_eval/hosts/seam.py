"""The seam between a model and a method: blocks run in two halves, tokens change between them.

A host describes its model as a `Backbone`: how each block's two residual halves run and where the
sequence is read afterwards. `Seam` overrides ``forward`` on the block *instances* while it is
entered, and takes everything back on exit, after an exception too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.hosts.backbone import Backbone
from asap_eval.hosts.forward import FROM_ATTENTION, Pass
from asap_eval.hosts.overriding import override
from asap_eval.hosts.resize import resize
from asap_eval.method import Batch, Reducer
from asap_eval.trace import Trace


class Seam(AbstractContextManager[Trace]):
    """Installs a method on a backbone for as long as it is entered."""

    def __init__(self, backbone: Backbone, reducer: Reducer, seed: int) -> None:
        self.backbone, self.reducer, self.seed = backbone, reducer, seed
        self.trace = Trace()
        self._pass: Pass | None = None
        self._pixels: Tensor | None = None
        self._grid = backbone.geometry.grid
        self._stack = ExitStack()

    def __enter__(self) -> Trace:
        geometry = self.backbone.geometry
        if self.reducer.tower != "vision":
            raise UnsupportedModelError(
                f"Method '{self.reducer.name}' acts in a language model, and this "
                f"{geometry.family} has none. Choose a vision-language model."
            )
        early = self.reducer.needs & FROM_ATTENTION
        if self.reducer.site == "before" and early:
            raise AsapEvalError(
                f"Method '{self.reducer.name}' acts before the block and needs "
                f"{', '.join(sorted(need.value for need in early))}, which the block's attention "
                "has not made yet. Act between or after, or read features."
            )
        if self.reducer.site == "input":
            self._grid = self._input_grid()
        if self.reducer.requires_cls and not geometry.has_cls:
            raise UnsupportedModelError(
                f"Method '{self.reducer.name}' reads the class token, and this "
                f"{geometry.family} has none. Choose a method or an option that does without."
            )
        if any("forward" in block.__dict__ for block in self.backbone.blocks):
            raise AsapEvalError(
                "This model already has a method installed: leave that `with` first."
            )
        with ExitStack() as stack:
            stack.enter_context(self.backbone.patched(lambda: self._pass))
            if self._grid != geometry.grid:
                stack.enter_context(self.backbone.resizable())
            handle = self.backbone.embed.register_forward_pre_hook(self._see_pixels)
            stack.callback(handle.remove)
            for index, block in enumerate(self.backbone.blocks):
                stack.enter_context(override(block, "forward", self._forward(index, block)))
            self._stack = stack.pop_all()
        return self.trace

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._pass = self._pixels = None

    def _input_grid(self) -> tuple[int, int]:
        """The grid of patches that the method resizes images to."""
        own, reducer = self.backbone.geometry.grid, self.reducer
        grid = reducer.grid(own)
        if reducer.needs or not all(1 <= n <= most for n, most in zip(grid, own, strict=True)):
            raise AsapEvalError(
                f"Method '{reducer.name}' acts on the input: it can read nothing, and its grid has "
                f"to be between 1 x 1 and {own[0]} x {own[1]} patches; it gives {grid}."
            )
        return grid

    def _see_pixels(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Remember the images as they came; the embedding is given them at the input's grid."""
        self._pixels = images = args[0]
        own, built = self.backbone.geometry.grid, self.backbone.image_size
        if self._grid == own:
            return None
        if images.shape[2:] != built:
            raise BadValueError(
                f"These images have {images.shape[2]} x {images.shape[3]} pixels; the model was "
                f"built for {built[0]} x {built[1]}. Build it for this image size (img_size=...)."
            )
        return resize(images, built, own, self._grid), *args[1:]

    def _forward(self, index: int, block: nn.Module) -> Callable[..., Tensor]:
        attention, mlp = self.backbone.halves(block)

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            given = [a for a in (*args, *kwargs.values()) if a is not None and a is not False]
            if given:
                raise UnsupportedModelError(
                    "Attention masks and extra block arguments cannot be combined with token "
                    f"reduction; block {index + 1} was given {len(given)}."
                )
            if index == 0:
                self._pass = Pass(
                    self.reducer, self.trace, self._batch(x), x, self.backbone.geometry.grid
                )
            if self._pass is None:
                raise AsapEvalError("A later block ran before the first one.")
            return self._pass.run(index + 1, x, attention, mlp)

        return forward

    def _batch(self, x: Tensor) -> Batch:
        geometry = self.backbone.geometry
        if self.backbone.model.training:
            raise BadValueError("Token reduction is for inference: call model.eval() first.")
        count, tokens = x.shape[:2]
        expected = geometry.prefix + self._grid[0] * self._grid[1]
        if tokens != expected:
            raise BadValueError(
                f"These images make {tokens} tokens; the model was built for {expected}. "
                "Build it for this image size (img_size=...)."
            )
        ids, pixels = self.trace.take_ids(count), self._pixels
        self._pixels = None

        def id_of(image: int) -> str:
            if ids is not None:
                return ids[image]
            if pixels is None:
                raise AsapEvalError("Images have no names: call trace.name_images(ids) first.")
            values = pixels[image].detach().float().cpu().numpy().tobytes()
            return hashlib.blake2b(values, digest_size=16).hexdigest()

        return Batch(
            count=count,
            tokens=tokens,
            prefix=geometry.prefix,
            depth=geometry.depth,
            has_cls=geometry.has_cls,
            grid=self._grid,
            seed=self.seed,
            device=x.device,
            id_of=id_of,
            dtype=x.dtype,
        )
