"""Tokens and reductions as plain data: tensors only, no model, no configuration.

Letters: B images, N tokens, P original patches, D width, S slots (tokens after a reduction).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.kernels.native import takes
from asap_eval.kernels.reduction import reduced

DROPPED = -1
"""Slot of a token that does not survive; slot of padding."""

LEAST_SIZE = 1e-3
"""Of a token whose members' shares sum to less."""


@dataclass(frozen=True)
class Reduction:
    """Where every token goes. Pruning, merging, pooling and top-k are all this one object.

    Attributes:
        group: ``[B, N]`` int64, the slot each token goes to, ``-1`` = dropped. The slots of an
            image are ``0 .. S_b - 1`` without gaps and are the order of the new sequence.
        weight: ``[B, N]`` float, the factor of each token in the sum that makes its slot; ``None``
            = the size-weighted mean, which is the identity for a token alone in its slot.
        share: ``[B, N]`` float, the factor of each token's size in the size of its slot; ``None`` =
            1, so that sizes are the patches held. `Tokens.source` follows patches either way.
        acted: ``[B]`` bool, the images the method decided to reduce here; ``None`` = those whose
            ``group`` is not the identity. A pooled sink can leave the sequence as it was and the
            image has fired all the same.
        mix: ``[B, S, N]`` float, every slot as a sum of any tokens, where one goes into several
            slots; ``None`` = as ``weight`` says. ``group`` then says in which slot a token counts
            as held. Slots that an image does not have are rows of zeros.
    """

    group: Tensor
    weight: Tensor | None = None
    acted: Tensor | None = None
    share: Tensor | None = None
    mix: Tensor | None = None

    @property
    def copies(self) -> bool:
        """Whether every slot is one token as it was, where it holds one token."""
        return self.weight is None and self.mix is None and self.share is None

    @property
    def slots(self) -> Tensor:
        """``[B]`` tokens of each image after the reduction."""
        return self.group.amax(1) + 1

    def compiled(self, x: Tensor, size: Tensor) -> bool:
        """Whether the compiled kernel carries this out for tokens and sizes like these."""
        factors = [t for t in (self.weight, self.share) if t is not None]
        return self.mix is None and takes(x, size, *factors)

    def moved(self, size: Tensor) -> Tensor:
        """``[B]`` bool, images of which any token goes elsewhere. ``size`` is ``[B, N]``."""
        return (self.group != Reduction.identity(size).group).any(1)

    def within(self, images: Tensor, size: Tensor) -> Reduction:
        """The same of a whole batch, whose other images stay as they are.

        Args:
            images: ``[b]`` places of these images in the batch. size: ``[B, N]``, of all.
        """
        group = Reduction.identity(size).group
        group[images] = DROPPED
        group[images, : self.group.shape[1]] = self.group

        def whole(factors: Tensor | None) -> Tensor | None:
            if factors is None:
                return None
            found = torch.ones_like(size, dtype=factors.dtype)
            found[images, : factors.shape[1]] = factors
            return found

        mix = None
        if self.mix is not None:
            slots = int(group.amax()) + 1
            mix = F.one_hot(group.clamp(min=0), slots).mT * (group >= 0)[:, None]
            mix = mix.to(self.mix.dtype)
            mix[images] = 0
            mix[images, : self.mix.shape[1], : self.mix.shape[2]] = self.mix
        return Reduction(group, whole(self.weight), share=whole(self.share), mix=mix)

    @staticmethod
    def identity(size: Tensor) -> Reduction:
        """Every token keeps its place. ``size`` is ``[B, N]``, 0 = padding."""
        place = torch.arange(size.shape[1], device=size.device).expand(size.shape)
        return Reduction(torch.where(size > 0, place, DROPPED))

    @staticmethod
    def keep(mask: Tensor, pool: Tensor | None = None) -> Reduction:
        """Keep the tokens of a mask in their order; gather others in one last slot.

        Args:
            mask: ``[B, N]`` bool, tokens that stay (padding must be False).
            pool: ``[B, N]`` bool, tokens averaged (by size) into one slot after the last kept
                one; ``None`` or an all-False row = no such slot.
        """
        kept = mask.sum(1, keepdim=True)
        group = torch.where(mask, mask.long().cumsum(1) - 1, DROPPED)
        if pool is not None:
            group = torch.where(pool & ~mask, kept, group)
        return Reduction(group)


@dataclass(frozen=True)
class Tokens:
    """The sequence of a batch, padded at the end.

    Attributes:
        x: ``[B, N, D]`` features.
        size: ``[B, N]`` fp32, patches folded into each token as `Reduction.share` counts them; 0 =
            padding, so ``log(size)`` is at once the bias of proportional attention and the padding
            mask.
        source: ``[B, P]`` int64, slot (prefix included) that holds each original patch, -1 = lost.
        prefix: number of class, distillation and register tokens at the front.
    """

    x: Tensor
    size: Tensor
    source: Tensor
    prefix: int

    @staticmethod
    def start(x: Tensor, prefix: int) -> Tokens:
        """What enters the first block: every token of size 1. ``x`` is ``[B, N, D]``."""
        batch, count = x.shape[:2]
        size = torch.ones(batch, count, device=x.device)
        source = torch.arange(prefix, count, device=x.device).expand(batch, -1)
        return Tokens(x, size, source, prefix)

    @property
    def lengths(self) -> Tensor:
        """``[B]`` valid tokens of each image, prefix included."""
        return (self.size > 0).sum(1)

    def apply(self, reduction: Reduction) -> Tokens:
        """The reduced sequence, padded to the longest image of the batch."""
        batch, count, width = self.x.shape
        longest = int(reduction.slots.max())
        if reduction.compiled(self.x, self.size):
            before, after = (
                (torch.arange(batch) * rows, torch.full((batch,), rows))
                for rows in (count, longest)
            )
            flat = self.x.flatten(0, 1)
            x, size, source = send(
                flat, before, self.size, self.source, reduction, after, batch * longest, longest
            )
            return replace(self, x=x.view(batch, longest, width), size=size, source=source)
        first = torch.arange(batch, device=self.x.device)[:, None] * longest
        slot = torch.where(reduction.group >= 0, reduction.group + first, DROPPED)
        weight = slot_weight(reduction, self.size)
        if reduction.mix is not None:
            x = mixed(self.x, reduction.mix)[:, :longest]
        else:
            x = combine(self.x.flatten(0, 1), slot.flatten(), weight.flatten(), batch * longest)
        return replace(
            self,
            x=x.reshape(batch, longest, width),
            size=fold_size(self.size, reduction, longest),
            source=follow(self.source, reduction),
        )


def send(
    x: Tensor,
    places: tuple[Tensor, Tensor],
    size: Tensor,
    source: Tensor,
    reduction: Reduction,
    after: tuple[Tensor, Tensor],
    total: int,
    longest: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """A whole batch into its slots by the compiled kernel, where `Reduction.compiled` says so.

    Args and results as those of `reduced`.
    """
    return reduced(
        x,
        places,
        reduction.group,
        size,
        source,
        after,
        total,
        longest,
        reduction.weight,
        reduction.share,
        LEAST_SIZE,
    )


def select(x: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Tokens in new places, none of them changed: `combine` where each slot holds one token.

    Args:
        x: ``[T, D]``. slot: ``[T]`` int64, -1 = dropped. slots: rows of the result, no gaps.
    """
    token = (slot >= 0).nonzero().flatten()
    member = token.new_empty(slots).index_copy_(0, slot.index_select(0, token), token)
    return x.index_select(0, member)


def combine(x: Tensor, slot: Tensor, weight: Tensor, slots: int) -> Tensor:
    """Sum weighted tokens into slots; the one place where features change in a reduction.

    A token alone in its slot with weight 1 is copied exactly; sums run in the order of the tokens,
    in fp32 (fp64 in fp64).

    Args:
        x: ``[T, D]`` tokens of the whole batch.
        slot: ``[T]`` int64 slot in the result, -1 = dropped.
        weight: ``[T]`` factors.
        slots: number of rows of the result; rows that no token goes to are zero.

    Returns:
        ``[slots, D]`` in the dtype of ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    ordered, token = slot.sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(slots, device=x.device))
    dropped = int(starts[0])
    token = token[dropped:]
    # One call that gathers and sums: many small ones take longer than the work itself. Another
    # layout in memory (a batch of one image may have one) would round the sums in another way.
    out = F.embedding_bag(
        token,
        x.to(wide).contiguous(),
        starts - dropped,
        mode="sum",
        per_sample_weights=weight.index_select(0, token).to(wide),
    )
    return out.to(x.dtype)


def mixed(x: Tensor, mix: Tensor) -> Tensor:
    """``[B, S, D]``: slots of several tokens each, a token in any number of slots.

    As in `combine`, a slot of one token with factor 1 is a copy, and sums run in fp32 at least.

    Args:
        x: ``[B, N, D]``. mix: ``[B, S, N]`` factors; a row of zeros gives zeros.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    image, slot, token = mix.nonzero().unbind(1)
    slots = image * mix.shape[1] + slot
    starts = torch.searchsorted(slots, torch.arange(len(mix) * mix.shape[1], device=x.device))
    out = F.embedding_bag(
        image * x.shape[1] + token,
        x.flatten(0, 1).to(wide).contiguous(),
        starts,
        mode="sum",
        per_sample_weights=mix[image, slot, token].to(wide),
    )
    return out.view(len(mix), mix.shape[1], -1).to(x.dtype)


def reduce_run(group: Tensor, run: Tensor, slot: Tensor) -> None:
    """Give neighbouring tokens slots of their own; the tokens behind them move up.

    Args:
        group: ``[N]`` slot of each token of one sample, until here its place; changed in place.
        run: ``[n]`` places of the neighbours. slot: ``[n]`` theirs from 0, -1 = dropped.
    """
    first, behind = run[0], int(run[-1]) + 1
    group[run] = torch.where(slot >= 0, first + slot, DROPPED)
    after = group[behind:]
    after[after >= 0] -= len(run) - (int(slot.max()) + 1)


def slot_weight(reduction: Reduction, size: Tensor) -> Tensor:
    """``[B, N]`` factors: the given ones, or size over the total size of the slot."""
    if reduction.weight is not None:
        return reduction.weight
    group = reduction.group
    total = torch.zeros_like(size).scatter_add_(
        1, group.clamp(min=0), torch.where(group >= 0, size, 0)
    )
    return size / total.gather(1, group.clamp(min=0)).clamp(min=torch.finfo(size.dtype).tiny)


def fold_size(size: Tensor, reduction: Reduction, longest: int) -> Tensor:
    """``[B, longest]`` sizes after a reduction: the sum over each slot, 0 = padding.

    With factors (`Reduction.share`) a sum may come out at 0 or below, where it would be padding: it
    is at least `LEAST_SIZE`.
    """
    group = reduction.group
    added = size if reduction.share is None else size * reduction.share
    out = torch.zeros(size.shape[0], longest, dtype=added.dtype, device=size.device)
    out.scatter_add_(1, group.clamp(min=0), torch.where(group >= 0, added, 0))
    if reduction.share is None:
        return out
    there = torch.arange(longest, device=size.device) < reduction.slots[:, None]
    return torch.where(there, out.clamp(min=LEAST_SIZE), 0)


def covering(own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """``[P]`` int64: of a smaller grid, the patch that covers the centre of each original one.

    Patches are counted row by row. Every patch of the smaller grid covers at least one centre.

    Args:
        own: original patches down and across. grid: those of the resized image, at most ``own``.
    """
    rows, columns = (
        (2 * torch.arange(before) + 1) * after // (2 * before)
        for before, after in zip(own, grid, strict=True)
    )
    return (rows[:, None] * grid[1] + columns).flatten()


def follow(source: Tensor, reduction: Reduction) -> Tensor:
    """``[B, P]`` the ``source`` map after a reduction: lost patches stay lost."""
    moved = reduction.group.gather(1, source.clamp(min=0))
    return torch.where(source >= 0, moved, DROPPED)
