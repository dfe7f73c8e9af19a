"""One forward pass with a method: what it reads in each block, and where tokens go."""

from __future__ import annotations

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.hosts.attention import attend, attend_with_maps, map_dtype
from asap_eval.hosts.attention_rows import attention_rows, heads_first
from asap_eval.hosts.backbone import Behind, Half
from asap_eval.hosts.layout import Layout
from asap_eval.hosts.probe import Probe
from asap_eval.hosts.projections import Only, fuse_maps
from asap_eval.kernels import takes
from asap_eval.kernels.reduction import survey
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.token_map import TokenMap
from asap_eval.tokens import (
    DROPPED,
    Reduction,
    Tokens,
    combine,
    covering,
    fold_size,
    follow,
    mixed,
    select,
    send,
    slot_weight,
)
from asap_eval.trace import Trace
from asap_eval.transfer import Arriving, to_device

FROM_ATTENTION = {
    Need.KEYS,
    Need.VALUES,
    Need.CLS_ROW,
    Need.ATTENTION,
    Need.HEAD_ATTENTION,
    Need.ROWS,
    Need.LOGITS,
    Need.HEAD_NORMS,
}
"""What only a block's attention can give."""

BEHIND = {Need.NEXT_QUERIES, Need.NEXT_KEYS, Need.PROJECTED}
"""What can be read at the site ``output`` alone, of what a vision-language model has there."""

READABLE = {Need.FEATURES, *FROM_ATTENTION}
"""What can be read in the blocks of any tower."""

INSIDE = {Need.FEATURES, Need.HEAD_ATTENTION}
"""What can be read between softmax and V."""


class _Read(Exception):
    """Queries and keys have been read: the rest of the attention is not wanted."""


class Pass:
    """One forward pass: the tokens on their way through the blocks.

    Args:
        x: ``[B, N, D]`` as the first block gets it. own: the grid the model was built for.
        behind: what stands behind the tower.

    Attributes:
        projected: ``[B, N, D']`` what the tower hands on, the prefix 0, where a method acts behind
            the projector.
    """

    projected: Tensor | None = None

    def __init__(
        self,
        reducer: Reducer,
        trace: Trace,
        batch: Batch,
        x: Tensor,
        own: tuple[int, int],
        behind: Behind | None = None,
    ) -> None:
        self.reducer, self.trace, self.batch, self.own = reducer, trace, batch, own
        self.behind = behind
        self.layout = Layout((batch.tokens,) * batch.count)
        self.size = torch.ones(batch.count, batch.tokens, device=x.device)
        self.changed = self.folded = False
        self.everyone = torch.arange(batch.count, device=x.device)
        self.padded = False
        self.reducer.check(batch)
        # An empty batch has nothing to decide about.
        self.state = self.reducer.begin(batch) if batch.count else None
        source = to_device(batch.prefix + covering(own, batch.grid), x.device)
        self.seen = trace.start(batch.depth, source.repeat(batch.count, 1), batch.patches)
        if batch.grid != own:
            self.seen.fired.fill_(1)

    def run(
        self, block: int, x: Tensor, attention: Half, mlp: Half, inner: nn.Module, read: bool
    ) -> Tensor:
        """One block (from 1) with whatever the method does there.

        Args:
            x: what the block before handed on. inner: the block's attention module.
            read: whether anything but the next block may see what this one hands on. Then it is
                padded, as it always is after the last block.

        Returns:
            ``[B, N, D]``; where it is not padded maybe ``[1, T, D]``, see `Layout`.
        """
        self._check_order(block, x)
        if self.padded:
            x = self.layout.packed(x)
        x = self._block(block, x, attention, mlp, inner)
        self.padded = read or block == self.batch.depth
        if not self.padded:
            return x
        x = self.layout.padded(x)
        self.trace.know(x, self.seen.maps[-1])
        return x

    def _check_order(self, block: int, x: Tensor) -> None:
        """Each block runs once, in order, on what the one before handed on."""
        if block != self.seen.done + 1:
            raise AsapEvalError(
                f"Block {block} ran after block {self.seen.done}: with token reduction blocks run "
                "once each, in their order."
            )
        images, longest = self.size.shape
        packed = (1, self.layout.total) if not (self.padded or self.layout.dense) else None
        if x.shape[:2] != (packed or (images, longest)):
            raise BadValueError(
                f"Block {block} was given {[*x.shape]}, and the block before it left "
                f"[{images}, {longest}, D]: tokens that a hook changes keep their number."
            )

    def _block(self, block: int, x: Tensor, attention: Half, mlp: Half, inner: nn.Module) -> Tensor:
        if not self.batch.count:
            self._count("attention_tokens")
            self._count("mlp_tokens")
            self._end(block)
            return mlp(attention(x))
        watched = self._watched(block)
        site = self.reducer.site
        reads: dict[Need, Tensor] = {}
        chosen = self.reducer.runs(block, self.state)
        if chosen is not None:
            if watched:
                raise AsapEvalError(f"Block {block} is watched, and some of its tokens skip it.")
            return self._partly(block, x, attention, mlp, chosen)
        if site == "before":
            x = self._reduce(block, x, watched, reads)
        if site == "inside" and watched:
            x = self._inside(block, x, attention, inner, watched)
        else:
            self._count("attention_tokens")
            x = self._attention(block, x, attention, watched, reads)
        if site == "between":
            x = self._reduce(block, x, watched, reads)
        # At the site `output` views of earlier blocks are for `observe` alone.
        looks = site == "after" or (site == "output" and self.reducer.observes(block, self.state))
        view = self._view(block, watched, reads) if looks and watched else None
        if view is not None:
            self.reducer.observe(view, self.state)
        self._count("mlp_tokens")
        x = mlp(x)
        if site == "after" or (site == "output" and block == self.batch.depth):
            x = self._reduce(block, x, watched, reads, view)
        self._end(block)
        return x

    def _partly(self, block: int, x: Tensor, attention: Half, mlp: Half, chosen: Tensor) -> Tensor:
        """A block that the tokens ``chosen [B, K]`` run among themselves; the others skip it."""
        if not self.layout.dense:
            raise AsapEvalError(f"Tokens can skip block {block} where all images have one length.")
        layout, size = self.layout, self.size
        self.layout = Layout((chosen.shape[1],) * self.batch.count)
        self.size = size.gather(1, chosen)
        at = chosen[..., None].expand(-1, -1, x.shape[-1])
        self._count("attention_tokens")
        part = self._attention(block, x.gather(1, at), attention, [], {})
        self._count("mlp_tokens")
        part = mlp(part)
        self.layout, self.size = layout, size
        self._end(block)
        return x.scatter(1, at, part)

    def _inside(
        self, block: int, x: Tensor, half: Half, inner: nn.Module, watched: list[int]
    ) -> Tensor:
        """The attention half of a method that acts between softmax and V."""
        if len(watched) < self.batch.count or not self.layout.dense:
            raise AsapEvalError(
                f"Method '{self.reducer.name}' acts inside the attention of block {block}, where "
                "all images have to be watched and to have one length."
            )
        size = self.size
        maps = self._maps(block, x, half, inner)
        reads = dict.fromkeys(self.reducer.needs & {Need.HEAD_ATTENTION}, maps)
        decision = self._decision(block, x, watched, reads)
        if decision is not None:
            reduction, slots, folded = decision
            if len(set(slots)) > 1:
                raise AsapEvalError(f"Block {block}: maps can be fused to one length only.")
            if self.reducer.fuses and reduction.mix is not None:
                raise AsapEvalError(
                    f"Block {block}: maps cannot be fused by a mix. Give a weight, or set "
                    f"fuses = False in method '{self.reducer.name}'."
                )
            x = self._apply(x, reduction, slots, folded)
        self._count("attention_tokens")
        if decision is not None and not self.reducer.fuses:
            return self._attention(block, x, half, [], {})
        if decision is not None:
            weight = slot_weight(reduction, size)
            maps = fuse_maps(maps, reduction.group, weight, slots[0])
        with Only(inner, "v"), Probe(lambda _q, _k, v: maps.to(v.dtype) @ v) as probe:
            x = half(x)
        self._check_seen(block, probe)
        return x

    def _maps(self, block: int, x: Tensor, half: Half, inner: nn.Module) -> Tensor:
        """``[B, H, N, N]`` attention of every head in fp32, without values and output."""
        maps: list[Tensor] = []

        def read(q: Tensor, k: Tensor, _v: Tensor) -> Tensor:
            dtype = map_dtype(q)
            logits = q.to(dtype) @ k.to(dtype).mT * q.shape[-1] ** -0.5
            if self.folded:
                logits = logits + self.size.log()[:, None, None].to(dtype)
            maps.append(logits.softmax(-1))
            raise _Read

        with Only(inner, "qk"), Probe(read) as probe, suppress(_Read):
            half(x)
        self._check_seen(block, probe)
        return maps[0]

    def _check_seen(self, block: int, probe: Probe) -> None:
        if probe.seen != 1:
            raise UnsupportedModelError(
                f"Block {block} called fused attention {probe.seen} times instead of once; "
                "its attention cannot be read or shortened."
            )

    def _count(self, name: str) -> None:
        self.seen.counts[name].append(self.layout.lengths)

    def _end(self, block: int) -> None:
        self._count("lengths")
        self.seen.maps.append(
            TokenMap(block, self.batch.prefix, self.own, self.size, self.seen.source, self.changed)
        )
        self.seen.done = block

    def _watched(self, block: int) -> list[int]:
        """Positions of the images the method looks at in this block, in its order."""
        if self.reducer.site == "input":
            return []
        if self.reducer.site == "output":
            looks = block == self.batch.depth or self.reducer.observes(block, self.state)
            return list(range(self.batch.count)) if looks else []
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
        plain = self.layout.dense and bias is None and not needs & FROM_ATTENTION and not replaced
        if plain and (self.reducer.idle or not takes(x)):
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
                reads[Need.KEYS] = heads_first(k, layout, watched)
            if Need.VALUES in needs:
                reads[Need.VALUES] = heads_first(v, layout, watched)
            if Need.CLS_ROW in needs:
                _, rows = attention_rows(q, k, bias, layout, watched, None)
                reads[Need.CLS_ROW] = rows[:, :, 0]
            if Need.HEAD_NORMS in needs:
                heads_out = heads_first(out, layout, watched)
                reads[Need.HEAD_NORMS] = heads_out.to(map_dtype(q)).norm(dim=-1)
            if needs & {Need.ROWS, Need.LOGITS}:
                lengths = to_device([layout.lengths[i] for i in watched], q.device)
                queries = self.reducer.rows(block, lengths, self.state)
                logits, rows = attention_rows(q, k, bias, layout, watched, queries)
                read = {Need.ROWS: rows, Need.LOGITS: logits}
                reads.update({need: read[need] for need in needs & read.keys()})
            return out

        with Probe(run) as probe:
            x = half(x)
        self._check_seen(block, probe)
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
        decision = self._decision(block, x, watched, reads, view) if watched else None
        return x if decision is None else self._apply(x, *decision)

    def _decision(
        self,
        block: int,
        x: Tensor,
        watched: list[int],
        reads: dict[Need, Tensor],
        view: View | None = None,
    ) -> tuple[Reduction, tuple[int, ...], bool] | None:
        """What the method decides for the batch, as `_apply` takes it; ``None`` = nothing moves."""
        view = view or self._view(block, watched, reads)
        images = view.images
        here = slice(None) if images is self.everyone else images
        if Need.FEATURES in self.reducer.needs:
            reads[Need.FEATURES] = self.layout.images(self.layout.flat(x), watched)
        if self.reducer.needs & BEHIND:
            self._read_behind(x, reads)
        self.seen.method_macs[here] += self.reducer.macs(view, self.state)
        reduction = self.reducer.decide(view, self.state)
        if reduction is None:
            return None
        whole = reduction if images is self.everyone else reduction.within(images, self.size)
        found = survey(whole.group, self.size, whole.share)
        acted = found[2, here] > 0 if reduction.acted is None else reduction.acted
        fired = self.seen.fired[here]
        self.seen.fired[here] = torch.where(acted & (fired == 0), block, fired)
        # Tokens that share their slot, or whose size is not 1: then sizes matter from here on.
        slots, uneven, moved = Arriving(found).list()
        if whole.copies and not any(moved):
            return None
        return whole, tuple(slots), any(uneven)

    def _read_behind(self, x: Tensor, reads: dict[Need, Tensor]) -> None:
        """What comes after the tower's last used block; every image still has all its tokens."""
        behind, needs, prefix = self.behind, self.reducer.needs, self.batch.prefix
        assert behind is not None  # the seam refuses a method that needs what is not there
        if Need.PROJECTED in needs:
            reads[Need.PROJECTED] = behind.projector(x[:, prefix:])
            self.projected = F.pad(reads[Need.PROJECTED], (0, 0, prefix, 0))
        if needs & {Need.NEXT_QUERIES, Need.NEXT_KEYS}:
            assert behind.queries_and_keys is not None
            q, k = behind.queries_and_keys(x)
            read = {Need.NEXT_QUERIES: q, Need.NEXT_KEYS: k}
            reads.update({need: read[need] for need in needs & read.keys()})
            self.seen.method_macs.add_(x.shape[1] * behind.next_token)

    def _apply(
        self, x: Tensor, reduction: Reduction, slots: tuple[int, ...], folded: bool
    ) -> Tensor:
        """The sequence after a reduction, dense or packed as the new lengths allow.

        Args:
            slots: tokens of each image then. folded: whether the size of one is not 1.
        """
        after, device = Layout(slots), x.device
        if self.projected is not None:
            tokens = Tokens(self.projected, self.size, self.seen.source, self.batch.prefix)
            self.projected = tokens.apply(reduction).x
        self.changed = True
        # Where all sizes are 1 the bias is zero: a mask would only cost time.
        self.folded = self.reducer.proportional and folded
        if reduction.compiled(x, self.size):
            flat, self.size, self.seen.values["source"] = send(
                self.layout.flat(x),
                self.layout.places(device),
                self.size,
                self.seen.source,
                reduction,
                after.places(device),
                after.total,
                after.longest,
            )
            self.layout = after
            return after.shaped(flat)
        first = after.places(device)[0][:, None]
        slot = torch.where(reduction.group >= 0, reduction.group + first, DROPPED)
        flat, into = self.layout.flat(x), self.layout.flat_of_padded(slot)
        if reduction.mix is not None:
            x = mixed(self.layout.padded(x), reduction.mix)
            flat = after.flat(after.packed(x[:, : after.longest]))
        elif reduction.weight is None and not folded:
            flat = select(flat, into, after.total)
        else:
            weight = self.layout.flat_of_padded(slot_weight(reduction, self.size))
            flat = combine(flat, into, weight, after.total)
        self.size = fold_size(self.size, reduction, after.longest)
        self.seen.values["source"] = follow(self.seen.source, reduction)
        self.layout = after
        return after.shaped(flat)
