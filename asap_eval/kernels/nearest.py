"""Which token is most like which, and where tokens go when the most similar pairs are merged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.kernels.native import Nearest, Pairs, loaded, takes, workspace


def mean_over_heads(keys: Tensor) -> Tensor:
    """``[b, N, d]`` from ``[b, H, N, d]``, in fp32 (fp64 stays): a mean rounded to 16 bits is moved
    by the last bit of its keys, and near-ties with it."""
    return keys.to(torch.promote_types(keys.dtype, torch.float32)).mean(1)


def nearest(
    x: Tensor, sources: Tensor, targets: Tensor, protected: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    """The most similar target of every source by cosine; among equals the first.

    In fp32 on a CPU a compiled kernel does it where there is one, without a matrix of similarities
    in memory; an image's result then depends, bit for bit, neither on the others nor on threads.

    Args:
        x: ``[b, H, N, d]`` tokens, compared as means over heads, in fp32 at least. A token of zeros
            has cosine 0 with all.
        sources, targets: ``[b, S]`` and ``[b, T]`` int64, tokens of each image.
        protected: how many at the front of the sources look for nobody, and how many at the front
            of the targets nobody finds; S' and T' are the others, T' > 0. Authors' codes compute
            their cosines, and so does torch's way here: a ledger counts S x T products.

    Returns:
        ``[b, S']`` cosines, and the places of these targets among the T'.
    """
    for listed in (sources, targets):
        if listed.dtype != torch.int64 or listed.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"Tokens are listed as {[*listed.shape]} {listed.dtype}; give torch.int64, a row "
                f"for each of {len(x)} images."
            )
    first, start = protected
    if targets.shape[1] <= start:
        raise ValueError("There is no target to be nearest to.")
    if x.stride(-1) == 1 and takes(x):
        return _natively(x, sources[:, first:], targets[:, start:])
    unit = F.normalize(mean_over_heads(x), dim=-1)
    rows, columns = (unit.take_along_dim(at[..., None], 1) for at in (sources, targets))
    best, partner = (rows @ columns.mT)[:, first:, start:].max(-1)
    return best, partner


def _natively(x: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    found = loaded()
    count, heads, _, width = x.shape
    sources, targets = (t if t.stride(1) == 1 else t.contiguous() for t in (sources, targets))
    best = torch.empty(sources.shape, dtype=torch.float32)
    partner = torch.empty(sources.shape, dtype=torch.int64)
    threads = torch.get_num_threads()
    memory = workspace(threads * found.nearest_workspace(width, targets.shape[1]))
    call = Nearest(
        x=x.data_ptr(),
        x_image=x.stride(0),
        x_head=x.stride(1),
        x_token=x.stride(2),
        sources=sources.data_ptr(),
        targets=targets.data_ptr(),
        sources_image=sources.stride(0),
        targets_image=targets.stride(0),
        best=best.data_ptr(),
        partner=partner.data_ptr(),
        workspace=memory.data_ptr(),
        count=count,
        H=heads,
        d=width,
        S=sources.shape[1],
        T=targets.shape[1],
        threads=threads,
    )
    found.nearest(call)
    return best, partner


def paired(best: Tensor, partner: Tensor, r: int, prefix: int, tokens: int) -> Tensor:
    """Where tokens go when ``r`` of the sources are merged into their partners.

    Behind the prefix sources stand at the even positions of the sequence, targets at the odd ones.

    Args:
        best: ``[b, S]`` fp32 or fp64 cosine of each source and its partner. partner: ``[b, S]``
            places among the targets. r: sources with the best partner that are merged, at most S.
        prefix: tokens at the front, which stay there. tokens: N.

    Returns:
        ``[b, N]`` int64 slots: prefix, sources that are left, targets. Sources keep their order, or
        stand by falling cosine where there is no prefix.
    """
    images, sources = best.shape
    first = prefix % 2  # of the sources behind the prefix; the targets begin at the other one
    group = torch.empty(images, tokens, dtype=torch.int64, device=best.device)
    if best.dtype == torch.float32 and takes(best):
        found = loaded()
        threads = torch.get_num_threads()
        memory = torch.empty(2 * threads * sources, dtype=torch.int64)
        best, partner = best.contiguous(), partner.contiguous()
        call = Pairs(
            best=best.data_ptr(),
            partner=partner.data_ptr(),
            group=group.data_ptr(),
            workspace=memory.data_ptr(),
            count=images,
            S=sources,
            N=tokens,
            prefix=prefix,
            merged=r,
            source_first=first == 0,
            by_order=prefix > 0,
            threads=threads,
        )
        found.pairs(call)
        return group
    place = torch.arange(tokens, device=best.device)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :r], order[:, r:]
    if prefix:
        left = left.sort(dim=1).values
    after = prefix + sources - r
    of_source = torch.empty_like(partner)
    of_source.scatter_(1, left, (prefix + place[: sources - r]).expand(images, -1))
    of_source.scatter_(1, merged, after + partner.gather(1, merged))
    group[:, :prefix] = place[:prefix]
    group[:, prefix + first :: 2] = of_source
    group[:, prefix + 1 - first :: 2] = after + place[: tokens - prefix - sources]
    return group
