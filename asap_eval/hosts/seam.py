"""The seam between a model and a method: blocks run in two halves, tokens change between them.

A host describes its model as a `Backbone`: how each block's two residual halves run and where the
sequence is read afterwards. `Seam` overrides ``forward`` on the block *instances* while it is
entered, and takes everything back on exit, after an exception too.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.hosts.backbone import Backbone, Half
from asap_eval.hosts.forward import BEHIND, FROM_ATTENTION, INSIDE, READABLE, Pass
from asap_eval.hosts.hooks import hooked, inner_hook
from asap_eval.hosts.overriding import Function, check_free, override
from asap_eval.hosts.resize import resize
from asap_eval.method import Batch, Need, Reducer
from asap_eval.token_map import TokenMap
from asap_eval.trace import Trace

IGNORED = frozenset({"output_hidden_states", "return_dict"})
"""Arguments that Hugging Face hands to every layer, and that none of them reads."""


class _Here(threading.local):
    """What one thread is doing with the model.

    Attributes:
        running: its pass. pixels: the images of the pass to come.
        entered: whether it is inside a call of the model, and the pass is that call's.
        unread: whether nobody looks at what blocks hand to each other.
        sample, questions: of the pass to come, see `Batch`.
    """

    running: Pass | None = None
    pixels: Tensor | None = None
    entered = unread = False
    sample: Tensor | None = None
    questions: tuple[str, ...] | None = None


class Seam(AbstractContextManager[Trace]):
    """Installs a method on a backbone for as long as it is entered."""

    def __init__(self, backbone: Backbone, reducer: Reducer, seed: int) -> None:
        self.backbone, self.reducer, self.seed = backbone, reducer, seed
        self.trace = Trace(reducer.tallies)
        self._here = _Here()
        self._grid = backbone.geometry.grid
        self._stack = ExitStack()

    def __enter__(self) -> Trace:
        self._check()
        backbone = self.backbone
        with ExitStack() as stack:
            stack.enter_context(backbone.fused())
            stack.enter_context(backbone.patched(self))
            if self._grid != backbone.geometry.grid:
                stack.enter_context(backbone.resizable())
            parts = [(backbone.model, self.entered), (backbone.embed, self._embedding)]
            parts += [(backbone.chain, self._chain)] if backbone.chain is not None else []
            parts += [(backbone.norm, self._norm)] if backbone.norm is not None else []
            for module, make in parts:
                stack.enter_context(override(module, "forward", make))
            for index in range(len(backbone.blocks)):
                stack.enter_context(self._installed(index))
            self._stack = stack.pop_all()
        return self.trace

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._here = _Here()

    def _check(self) -> None:
        """Refuse what cannot run faithfully, before anything is touched."""
        geometry = self.backbone.geometry
        if self.reducer.tower != "vision":
            raise UnsupportedModelError(
                f"Method '{self.reducer.name}' acts in a language model, and this "
                f"{geometry.family} has none. Choose a vision-language model."
            )
        self._check_needs()
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
        for number, block in enumerate(self.backbone.blocks, 1):
            check_free(block, f"Block {number}")

    def _check_needs(self) -> None:
        reducer, behind = self.reducer, self.backbone.behind
        elsewhere: dict[str, set[Need]] = {"output": READABLE | BEHIND, "inside": INSIDE}
        offered = elsewhere.get(reducer.site, READABLE)
        if unreadable := reducer.needs - offered:
            raise UnsupportedModelError(
                f"Method '{reducer.name}' declares {_listed(unreadable)}; in a vision tower a "
                f"method reads, at the site '{reducer.site}': {_listed(offered)}."
            )
        wanted = reducer.needs & BEHIND
        if wanted and (
            behind is None or (behind.queries_and_keys is None and wanted != {Need.PROJECTED})
        ):
            raise UnsupportedModelError(
                f"Method '{reducer.name}' reads {_listed(wanted)} behind the tower's last used "
                "block, and this model has nothing there. Choose a vision-language model that "
                "leaves its tower's last block unused, as LLaVA does."
            )
        if Need.PROJECTED in wanted and reducer.hands_cls:
            raise AsapEvalError(
                f"Method '{reducer.name}' acts behind the projector, where there is no class token "
                "to hand on."
            )

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

    # --- what a vision-language host says and asks -----------------------------------------------

    def expect(self, sample: Tensor, questions: tuple[str, ...] | None) -> None:
        """Whose crops the images of this thread's next pass are, and what is asked of them."""
        self._here.sample, self._here.questions = sample, questions

    @property
    def running(self) -> Pass:
        """This thread's pass."""
        assert self._here.running is not None
        return self._here.running

    # --- what a host may ask: see `Installed` ----------------------------------------------------

    def entered(self, before: Function) -> Function:
        def forward(*args: Any, **kwargs: Any) -> Any:
            here = self._here
            outer, here.entered = here.entered, True
            try:
                return before(*args, **kwargs)
            finally:
                here.entered = outer
                if not outer:
                    here.running = here.pixels = None

        return forward

    def map_of(self, x: Tensor) -> TokenMap | None:
        known = self.trace.known(x)
        if known is not None or not self._here.entered:
            return known
        latest = self.latest()
        return latest if latest is not None and latest.size.shape == x.shape[:2] else None

    def latest(self) -> TokenMap | None:
        running = self._here.running
        return running.seen.maps[-1] if running is not None and running.seen.maps else None

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Blocks that run here hand to each other what nobody else looks at."""
        here = self._here
        outer, here.unread = here.unread, True
        try:
            yield
        finally:
            here.unread = outer

    # --- what stands in the model's place ---------------------------------------------------------

    def _embedding(self, before: Function) -> Function:
        """Remembers the images as they came, and embeds them at the input's grid."""
        own, built = self.backbone.geometry.grid, self.backbone.image_size

        def forward(images: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._here.pixels = images
            if self._grid != own:
                if not len(images):
                    raise BadValueError("Images are resized here, and this batch holds none.")
                height, width = images.shape[2:]
                if (height, width) != built:
                    raise BadValueError(
                        f"These images have {height} x {width} pixels; the model was built for "
                        f"{built[0]} x {built[1]}. Build it for this image size (img_size=...)."
                    )
                images = resize(images, built, own, self._grid)
            return before(images, *args, **kwargs)

        return forward

    def _chain(self, before: Function) -> Function:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with self.unread():
                return before(*args, **kwargs)

        return forward

    def _norm(self, before: Function) -> Function:
        """Padding stays zero, as whoever averages these features expects."""

        def forward(x: Tensor) -> Tensor:
            out: Tensor = before(x)
            tokens = self.map_of(x)
            if tokens is None:
                return out
            if tokens.changed:
                out = out.masked_fill(~tokens.mask[..., None], 0)
            self.trace.know(out, tokens)
            return out

        return forward

    @contextmanager
    def _installed(self, index: int) -> Iterator[None]:
        """Block ``index`` (from 0) with the method."""
        block = self.backbone.blocks[index]
        inner = [(name, module) for name, module in block.named_modules() if name]
        attention, mlp = (self._unseen(index, inner, half) for half in self.backbone.halves(block))

        def make(_before: Function) -> Function:
            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                self._check_call(index, args, kwargs)
                here = self._here
                if index == 0:
                    backbone = self.backbone
                    own, behind = backbone.geometry.grid, backbone.behind
                    here.running = Pass(self.reducer, self.trace, self._batch(x), x, own, behind)
                running = here.running
                if running is None:
                    raise AsapEvalError("A later block ran before the first one.")
                inner = self.backbone.attention(block)
                return running.run(index + 1, x, attention, mlp, inner, self._is_read(index))

            return forward

        with override(block, "forward", make):
            yield

    def _unseen(self, index: int, inner: Sequence[tuple[str, nn.Module]], half: Half) -> Half:
        """Half of a block, refused where a hook on one of its modules would see a packed batch."""

        def run(x: Tensor) -> Tensor:
            running = self._here.running
            if running is not None and not running.layout.dense and (name := inner_hook(inner)):
                raise UnsupportedModelError(
                    f"A hook on '{name}' of block {index + 1} would see images of different "
                    "numbers of tokens packed end to end. Put it on the block, whose output is "
                    "padded, or run one image at a time."
                )
            return half(x)

        return run

    def _is_read(self, index: int) -> bool:
        """Whether somebody may see what block ``index`` hands on."""
        return not self._here.unread or any(map(hooked, self.backbone.blocks[index : index + 2]))

    def _check_call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.jit.is_tracing():
            raise BadValueError(
                "A model with a method installed cannot be traced: which tokens go depends on the "
                "images."
            )
        if kwargs.get("output_attentions"):
            raise UnsupportedModelError(
                "output_attentions cannot be had with token reduction: its attention is fused, "
                "over other tokens in each block. Read trace.source, or run without a method."
            )
        named = (value for name, value in kwargs.items() if name not in IGNORED)
        given = [a for a in (*args, *named) if a is not None and a is not False]
        if given:
            raise UnsupportedModelError(
                "Attention masks and extra block arguments cannot be combined with token "
                f"reduction; block {index + 1} was given {len(given)}."
            )

    def _batch(self, x: Tensor) -> Batch:
        geometry, model = self.backbone.geometry, self.backbone.model
        if model.training:
            raise BadValueError("Token reduction is for inference: call model.eval() first.")
        if torch.is_grad_enabled() and getattr(model, "grad_checkpointing", False):
            raise BadValueError(
                "Gradient checkpointing runs blocks a second time, when their tokens are gone: "
                "call model.set_grad_checkpointing(False)."
            )
        count, tokens = x.shape[:2]
        expected = geometry.prefix + self._grid[0] * self._grid[1]
        if tokens != expected:
            raise BadValueError(
                f"These images make {tokens} tokens; the model was built for {expected}. "
                "Build it for this image size (img_size=...)."
            )
        here = self._here
        ids, pixels = self.trace.take_ids(count), here.pixels
        sample, questions = here.sample, here.questions
        here.pixels = here.sample = here.questions = None

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
            width=geometry.width,
            sample=sample,
            questions=questions,
        )


def _listed(needs: Collection[Need]) -> str:
    return ", ".join(sorted(need.value for need in needs))
