"""The seam between a model and a method: blocks run in two halves, tokens change between them.

A host describes its model as a `Backbone`: how each block's two residual halves run and where the
sequence is read afterwards. `Seam` overrides ``forward`` on the block *instances* while it is
entered, and takes everything back on exit, after an exception too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.hosts.attention import (
    Probe,
    attend,
    attend_with_maps,
    map_dtype,
    native,
)
from asap_eval.hosts.geometry import Geometry
from asap_eval.hosts.layout import Layout, by_token
from asap_eval.hosts.overriding import override
from asap_eval.hosts.resize import resize
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import (
    DROPPED,
    Reduction,
    combine,
    covering,
    fold_size,
    follow,
    select,
    slot_weight,
)
from asap_eval.trace import COUNTS, Trace
from asap_eval.transfer import Arriving, to_device

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Backbone:
    """A supported model, as the seam needs it.

    Attributes:
        model: the whole model. embed: the module whose input is the images ``[B, 3, H, W]``.
        blocks: the transformer blocks, in order.
        halves: ``halves(block) -> (attention half, MLP half)``, each ``[B, N, D] -> [B, N, D]``
            with its residual, exactly as the model's own forward computes it.
        geometry: what decides the model's work.
        patched: context in which the model may run with fewer tokens (a head that averages them,
            attention that must take the fused path); it is given ``current``, which returns the
            running pass or ``None``.
        image_size: height and width in pixels that the model was built for.
        resizable: context in which it takes images of other sizes: the position embedding is
            resampled as its own library does.
    """

    model: nn.Module
    embed: nn.Module
    blocks: Sequence[nn.Module]
    halves: Callable[[nn.Module], tuple[Half, Half]]
    geometry: Geometry
    patched: Callable[[Callable[[], Pass | None]], AbstractContextManager[None]]
    image_size: tuple[int, int]
    resizable: Callable[[], AbstractContextManager[None]]


class Pass:
    """One forward pass: the tokens on their way through the blocks."""

    def __init__(self, seam: Seam, x: Tensor, batch: Batch) -> None:
        self.reducer, self.trace = seam.reducer, seam.trace
        self.batch, own = batch, seam.backbone.geometry.grid
        self.layout = Layout((batch.tokens,) * batch.count)
        self.size = torch.ones(batch.count, batch.tokens, device=x.device)
        self.changed = self.folded = False
        self.everyone = torch.arange(batch.count, device=x.device)
        self.counts: dict[str, list[tuple[int, ...]]] = {name: [] for name in COUNTS}
        self.reducer.check(batch)
        self.state = self.reducer.begin(batch)
        source = to_device(batch.prefix + covering(own, batch.grid), x.device)
        self.trace.start(batch.depth, source.repeat(batch.count, 1), batch.patches)
        if batch.grid != own:
            self.trace.fired.fill_(1)

    def run(self, block: int, x: Tensor, attention: Half, mlp: Half) -> Tensor:
        """One block (from 1) with whatever the method does there; padded after the last."""
        watched = self._watched(block)
        site = self.reducer.site
        reads: dict[Need, Tensor] = {}
        if site == "before":
            x = self._reduce(block, x, watched, reads)
        self._count("attention_tokens")
        x = self._attention(block, x, attention, watched, reads)
        if site == "between":
            x = self._reduce(block, x, watched, reads)
        view = self._view(block, watched, reads) if site == "after" and watched else None
        if view is not None:
            self.reducer.observe(view, self.state)
        self._count("mlp_tokens")
        x = mlp(x)
        if site in ("after", "output"):
            x = self._reduce(block, x, watched, reads, view)
        self._count("lengths")
        if block < self.batch.depth:
            return x
        for name, counts in self.counts.items():
            getattr(self.trace, name)[:] = to_device(counts, self.size.device)
        return self.layout.padded(x)

    def _count(self, name: str) -> None:
        self.counts[name].append(self.layout.lengths)

    def _watched(self, block: int) -> list[int]:
        """Positions of the images the method looks at in this block, in its order."""
        if self.reducer.site == "input":
            return []
        if self.reducer.site == "output":
            return list(range(self.batch.count)) if block == self.batch.depth else []
        watched = self.reducer.watch(block, self.state)
        if isinstance(watched, bool):
            return list(range(self.batch.count)) if watched else []
        images: list[int] = watched.tolist()
        return images

    def _attention(
        self,
        block: int,
        x: Tensor,
        half: Half,
        watched: list[int],
        reads: dict[Need, Tensor],
    ) -> Tensor:
        """The attention half; offers the method what it declared to read."""
        bias = None
        if self.folded:
            bias = self.layout.flat_of_padded(self.size).log()
        needs = self.reducer.needs if watched else frozenset[Need]()
        replaced = self.reducer.attends(block, self.state)
        plain = self.layout.dense and bias is None and not needs & _FROM_ATTENTION and not replaced
        if plain and (self.reducer.idle or not native(x)):
            return half(x)

        layout = self.layout

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if replaced:
                return self.reducer.attend(q, k, v, bias, self.state)
            maps = needs & {Need.ATTENTION, Need.HEAD_ATTENTION}
            if maps:
                heads = Need.HEAD_ATTENTION in maps
                out, found = attend_with_maps(q, k, v, layout, bias, watched, heads)
                reads[Need.HEAD_ATTENTION if heads else Need.ATTENTION] = found
                if len(maps) == 2:
                    reads[Need.ATTENTION] = found.mean(1)
            else:
                out = attend(q, k, v, layout, bias)
            # Only what is declared: a view of k would keep all of q, k and v alive in the MLP.
            if Need.KEYS in needs:
                reads[Need.KEYS] = _heads_first(k, layout, watched)
            if Need.VALUES in needs:
                reads[Need.VALUES] = _heads_first(v, layout, watched)
            if Need.CLS_ROW in needs:
                _, rows = _rows(q, k, bias, layout, watched, None)
                reads[Need.CLS_ROW] = rows[:, :, 0]
            if needs & {Need.ROWS, Need.LOGITS}:
                lengths = to_device([layout.lengths[i] for i in watched], q.device)
                queries = self.reducer.rows(block, lengths, self.state)
                logits, rows = _rows(q, k, bias, layout, watched, queries)
                read = {Need.ROWS: rows, Need.LOGITS: logits}
                reads.update({need: read[need] for need in needs & read.keys()})
            return out

        with Probe(run) as probe:
            x = half(x)
        if probe.seen != 1:
            raise UnsupportedModelError(
                f"Block {block} called fused attention {probe.seen} times instead of once; "
                "its attention cannot be read or shortened."
            )
        return x

    def _view(self, block: int, watched: list[int], reads: dict[Need, Tensor]) -> View:
        """What the method sees of the watched images; what is read later is added to ``reads``."""
        images, size = self.everyone, self.size
        if watched != list(range(self.batch.count)):
            images = to_device(watched, size.device)
            size = size[images, : max(self.layout.lengths[i] for i in watched)]
        return View(block, images, size, self.batch.prefix, self.trace.note, reads)

    def _reduce(
        self,
        block: int,
        x: Tensor,
        watched: list[int],
        reads: dict[Need, Tensor],
        view: View | None = None,
    ) -> Tensor:
        """Ask the method where the tokens of the watched images go, and send them there."""
        if not watched:
            return x
        view = view or self._view(block, watched, reads)
        images, size = view.images, view.size
        if Need.FEATURES in self.reducer.needs:
            reads[Need.FEATURES] = self.layout.images(self.layout.flat(x), watched)
        self.trace.method_macs[images] += self.reducer.macs(view, self.state)
        reduction = self.reducer.decide(view, self.state)
        if reduction is None:
            return x
        moved = reduction.moved(size)
        acted = moved if reduction.acted is None else reduction.acted
        fired = self.trace.fired[images]
        self.trace.fired[images] = torch.where(acted & (fired == 0), block, fired)
        group, weight = self._of_batch(images, reduction, size)
        whole = Reduction(group, weight)
        # Patches that are left: more than slots where one of them holds several.
        held = torch.where(group >= 0, self.size, 0).sum(1)
        slots, patches = Arriving(torch.stack([whole.slots, held.long()])).list()
        if weight is None and tuple(slots) == self.layout.lengths and not bool(moved.any()):
            return x
        return self._apply(x, whole, tuple(slots), slots != patches)

    def _of_batch(
        self, images: Tensor, reduction: Reduction, size: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Group and weight of the whole batch: images that are not watched stay as they are."""
        if images is self.everyone:
            return reduction.group, reduction.weight
        group = Reduction.identity(self.size).group
        group[images] = DROPPED
        group[images, : size.shape[1]] = reduction.group
        weight = None
        if reduction.weight is not None:
            weight = torch.ones_like(self.size, dtype=reduction.weight.dtype)
            weight[images, : size.shape[1]] = reduction.weight
        return group, weight

    def _apply(
        self, x: Tensor, reduction: Reduction, slots: tuple[int, ...], folded: bool
    ) -> Tensor:
        """The sequence after a reduction, dense or packed as the new lengths allow.

        Args:
            slots: tokens of each image then. folded: whether one of them holds several patches.
        """
        after = Layout(slots)
        first = to_device(after.starts, x.device)[:, None]
        slot = torch.where(reduction.group >= 0, reduction.group + first, DROPPED)
        flat, into = self.layout.flat(x), self.layout.flat_of_padded(slot)
        if reduction.weight is None and not folded:
            flat = select(flat, into, after.total)
        else:
            weight = self.layout.flat_of_padded(slot_weight(reduction, self.size))
            flat = combine(flat, into, weight, after.total)
        self.size = fold_size(self.size, reduction, after.longest)
        self.trace.source = follow(self.trace.source, reduction)
        self.layout, self.changed = after, True
        # Where no token holds two patches the bias is zero: a mask would only cost time.
        self.folded = self.reducer.proportional and folded
        return after.shaped(flat)


_FROM_ATTENTION = {
    Need.KEYS,
    Need.VALUES,
    Need.CLS_ROW,
    Need.ATTENTION,
    Need.HEAD_ATTENTION,
    Need.ROWS,
    Need.LOGITS,
}


def _heads_first(t: Tensor, layout: Layout, watched: list[int]) -> Tensor:
    """``[b, H, N, d]`` of the watched images from ``[B, H, N, d]`` or ``[1, H, T, d]``."""
    return layout.images(by_token(t), watched).transpose(1, 2)


def _rows(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    layout: Layout,
    watched: list[int],
    queries: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Scores and attention of a few queries, both ``[b, H, R, N]`` fp32, computed again: the rest
    stays fused.

    Args:
        queries: ``[b, R]`` positions, -1 = none, and its row is 0; ``None`` = token 0 alone.
    """
    keys = _heads_first(k, layout, watched)
    lengths = to_device([layout.lengths[i] for i in watched], q.device)
    if queries is None:
        queries = torch.zeros_like(lengths)[:, None]
    starts = to_device([layout.starts[i] for i in watched], q.device)
    chosen = by_token(q)[starts[:, None] + queries.clamp(min=0)]
    dtype = map_dtype(q)
    logits = torch.einsum("brhd,bhnd->bhrn", chosen.to(dtype), keys.to(dtype))
    logits = logits * q.shape[-1] ** -0.5
    padding = (torch.arange(keys.shape[2], device=q.device) >= lengths[:, None])[:, None, None]
    if bias is not None:
        logits = logits + layout.images(bias, watched)[:, None, None]
    none = (queries < 0)[:, None, :, None]
    rows = logits.masked_fill(padding, -torch.inf).softmax(-1)
    return logits.masked_fill(padding | none, 0), rows.masked_fill(none, 0)


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
        early = self.reducer.needs & _FROM_ATTENTION
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
                self._pass = Pass(self, x, self._batch(x))
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
