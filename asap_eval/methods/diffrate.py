"""DiffRate: Differentiable Compression Rate for Efficient Vision Transformers (arXiv 2305.17997).

In every block, between attention and MLP, the patches that the class token attends to least are
pruned, then the least attended of the rest are merged into their most similar tokens. How many of
each is a list of counts that the authors learnt on ImageNet with the backbone frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asap_eval.errors import BadValueError
from asap_eval.files.digests import file_sha256
from asap_eval.kernels.nearest import nearest
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.learnt_counts import Counts, budget, limits, made, of_shape
from asap_eval.tokens import DROPPED, Reduction


@register(
    "diffrate",
    Card(
        paper="DiffRate: Differentiable Compression Rate for Efficient Vision Transformers, "
        "arXiv 2305.17997",
        licence="none in the authors' repository; the counts are figures",
        training="counts learnt by the authors on ImageNet, weights untouched; `asap-eval train` "
        "learns others",
        knob="k",
        knob_meaning="GMACs of the whole model whose published counts are used; between and beyond "
        "published budgets counts are interpolated (ours)",
        fixed_count=True,
        deviations="distillation and register tokens are protected (theirs knows the class token "
        "alone); a size that similarities bring below 0.001 stays there; similarities in fp32; "
        "another model of the same shape takes the counts of DeiT",
    ),
)
@dataclass
class DiffRate(Reducer):
    """Prune and merge by learnt counts; tokens end up in the order of falling importance.

    Importance is the class token's attention, mean over heads; similarity is the cosine of the
    tokens themselves. A target becomes the plain mean of itself and its sources, and its size grows
    by the sizes of its sources, each times its similarity. Attention is proportional to sizes.

    Attributes:
        k: budget in GMACs; ``None`` = the published one next to 65 % of the work.
        counts: whose learnt counts: deit_tiny, deit_small, deit_base, mae_base, mae_large,
            mae_huge, or a .json file that `asap-eval train` wrote; ``None`` = of the first with the
            model's shape.
        prune, merge: tokens left after pruning and after merging, block by block, prefix included;
            given, they stand in place of the learnt ones. A count above what is there does nothing,
            and behind the end of a list nothing happens.
    """

    k: float | None = None
    counts: str | None = None
    prune: list | None = None
    merge: list | None = None
    site = "between"
    proportional = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.FEATURES})

    def look(self) -> None:
        if self._file is not None:
            made(self._file)

    @property
    def _file(self) -> str | None:
        return self.counts if self.counts is not None and self.counts.endswith(".json") else None

    def check(self, batch: Batch) -> None:
        if self.prune is None and self.merge is None:
            self.begin(batch)
            return
        if self.k is not None or self.counts is not None:
            raise BadValueError("diffrate: prune and merge are counts already: leave k out.")
        for name, given in (("prune", self.prune), ("merge", self.merge)):
            fits = isinstance(given, list) and len(given) <= batch.depth
            if not fits or not all(type(n) is int and n > batch.prefix for n in given or []):
                raise BadValueError(
                    f"diffrate: {name}={given}: give prune and merge, each up to {batch.depth} "
                    f"whole numbers of tokens, greater than the prefix of {batch.prefix}."
                )

    def begin(self, batch: Batch) -> Counts | None:
        """``None`` where no block removes anything."""
        if self.prune is not None and self.merge is not None:
            rest = [batch.tokens] * batch.depth
            prune, merge = ((given + rest)[: batch.depth] for given in (self.prune, self.merge))
            counts = Counts(tuple(prune), tuple(merge))
        else:
            counts = budget(of_shape(self.counts, batch), self.k, batch.prefix)
        return counts if counts.least < batch.tokens else None

    def watch(self, block: int, state: Counts | None) -> bool:
        """Every block sorts its tokens, also where it removes none."""
        return state is not None

    def _steps(self, view: View, state: Counts) -> tuple[int, int]:
        """Tokens left after pruning and after merging."""
        kept = min(state.prune[view.block - 1], view.size.shape[1])
        return kept, min(state.merge[view.block - 1], kept)

    def macs(self, view: View, state: Counts) -> int:
        kept, left = self._steps(view, state)
        return (kept - left) * (left - view.prefix) * view.features.shape[-1]

    def decide(self, view: View, state: Counts) -> Reduction:
        kept, left = self._steps(view, state)
        images, tokens = view.size.shape
        importance = view.cls_row.mean(1)[:, view.prefix :]
        order = importance.argsort(dim=1, descending=True, stable=True) + view.prefix
        front = torch.arange(view.prefix, device=order.device).expand(images, -1)
        order = torch.cat([front, order], 1)
        sources, targets = order[:, left:kept], order[:, view.prefix : left]
        cosine, target = nearest(view.features[:, None], sources, targets)
        target = target + view.prefix

        slots = torch.arange(left, device=order.device).expand(images, -1)
        dropped = order.new_full((images, tokens - kept), DROPPED)
        group = torch.cat([slots, target, dropped], 1)
        members = torch.ones_like(slots).scatter_add_(1, target, torch.ones_like(target))
        weight = 1 / members.to(cosine.dtype).gather(1, group.clamp(min=0))
        share = torch.ones_like(weight)
        share[:, left:kept] = cosine
        place = order.argsort(dim=1)  # from the order of importance back to that of the tokens
        acted = torch.full((images,), left < tokens, device=order.device)
        return Reduction(
            group.gather(1, place), weight.gather(1, place), acted, share.gather(1, place)
        )

    def origin(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        file = Path(self._file).expanduser()
        return {"counts": self._file, "sha256": file_sha256(file), **made(self._file)}

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        if self.prune is not None:
            raise BadValueError("diffrate: a budget turns k: leave prune and merge out.")
        return limits(of_shape(self.counts, batch))
