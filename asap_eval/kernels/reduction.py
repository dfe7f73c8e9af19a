"""What becomes of a batch's tokens when they go into slots, in one pass over them."""

from __future__ import annotations

import torch
from torch import Tensor

from asap_eval.kernels.native import Moves, Survey, loaded, takes, workspace


def _check(group: Tensor, size: Tensor, *factors: Tensor | None) -> None:
    """The kernels trust addresses and counts: they are checked before.

    Raises:
        ValueError: slots that are no int64, or values of other tokens.
    """
    if group.dtype != torch.int64 or group.shape != size.shape:
        raise ValueError(
            f"Slots are {[*group.shape]} {group.dtype}; give {[*size.shape]} torch.int64."
        )
    for given in factors:
        if given is not None and given.shape != size.shape:
            raise ValueError(f"Factors are {[*given.shape]}; give {[*size.shape]}, one a token.")


def survey(group: Tensor, size: Tensor, share: Tensor | None = None) -> Tensor:
    """What a reduction does to each image, ``[3, B]`` int64: its slots; its tokens that share a
    slot with an earlier one, plus those whose size comes out other than 1; whether any
    token changes its place.

    Args:
        group: ``[B, N]`` int64 slots, -1 = dropped. size: ``[B, N]``, 0 = padding.
        share: ``[B, N]`` factors of sizes.
    """
    _check(group, size, share)
    if takes(size) and (share is None or takes(share)):
        found = loaded()
        group, size = group.contiguous(), size.contiguous()
        share = None if share is None else share.contiguous()
        out = torch.empty(3, len(group), dtype=torch.int64)
        call = Survey(
            group=group.data_ptr(),
            size=size.data_ptr(),
            share=None if share is None else share.data_ptr(),
            found=out.data_ptr(),
            count=group.shape[0],
            N=group.shape[1],
        )
        found.survey(call)
        return out
    place = torch.arange(group.shape[1], device=size.device)
    slots = group.amax(1) + 1
    left = group >= 0
    then = size if share is None else size * share
    sized = left.sum(1) - slots + (left & (then != 1)).sum(1)
    moved = (group != torch.where(size > 0, place, -1)).any(1)
    return torch.stack([slots, sized, moved])


def reduced(
    x: Tensor,
    places: tuple[Tensor, Tensor],
    group: Tensor,
    size: Tensor,
    source: Tensor,
    after: tuple[Tensor, Tensor],
    total: int,
    longest: int,
    weight: Tensor | None = None,
    share: Tensor | None = None,
    least: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens, sizes and patches of a batch after a reduction, where `takes` takes ``x, size``
    and what is given of ``weight`` and ``share``.

    An image's result depends on its own tokens alone, bit for bit. Sums run in the order of the
    tokens; a token alone in its slot with factor 1 is copied.

    Args:
        x: ``[T, D]`` tokens of all images. places: ``[B]`` first row and rows of each image.
        group: ``[B, N]`` int64 slots, -1 = dropped, all below ``longest``. size: ``[B, N]``.
        source: ``[B, P]`` int64 slot of each patch, -1 = lost.
        after: ``[B]`` first row and rows of each image in the result; rows that no token goes to
            are 0. total: rows of the result. longest: slots of sizes.
        weight: ``[B, N]`` factors; ``None`` = size over the size of the slot.
        share: ``[B, N]`` factors of sizes, whose sums are at least ``least``.

    Returns:
        ``[total, D]``, ``[B, longest]`` sizes and ``[B, P]`` slots of patches.
    """
    found = loaded()
    _check(group, size, weight, share)
    x = x if x.stride(1) == 1 else x.contiguous()
    group, size, source = group.contiguous(), size.contiguous(), source.contiguous()
    weight, share = (None if t is None else t.contiguous() for t in (weight, share))
    before, lengths, new_starts, new_rows = (t.contiguous() for t in (*places, *after))
    out = torch.empty(total, x.shape[1], dtype=torch.float32)
    new_size = torch.empty(len(group), longest, dtype=torch.float32)
    new_source = torch.empty_like(source)
    threads = torch.get_num_threads()
    memory = workspace(2 * threads * longest)
    call = Moves(
        x=x.data_ptr(),
        out=out.data_ptr(),
        starts=before.data_ptr(),
        lengths=lengths.data_ptr(),
        new_starts=new_starts.data_ptr(),
        new_rows=new_rows.data_ptr(),
        group=group.data_ptr(),
        size=size.data_ptr(),
        weight=None if weight is None else weight.data_ptr(),
        share=None if share is None else share.data_ptr(),
        source=source.data_ptr(),
        new_size=new_size.data_ptr(),
        new_source=new_source.data_ptr(),
        workspace=memory.data_ptr(),
        count=group.shape[0],
        N=group.shape[1],
        D=x.shape[1],
        x_token=x.stride(0),
        P=source.shape[1],
        longest=longest,
        least=least,
        threads=threads,
    )
    found.reduction(call)
    return out, new_size, new_source
