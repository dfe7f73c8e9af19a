"""Conventions of counting work: every product, or the mixture behind the ASAP paper's percentages.

``full`` is ours (`asap_eval.work.macs`). ``paper`` is what its published figures can be taken for:

* CLIP towers without the two products of attention: its 174.6 G are ViT-L/14 at 336 pixels with
  convolutions and linear layers alone, as counters give that do not know fused attention (190.96
  with the products); its DeiT and LV-ViT figures (17.6, 4.6, 1.3, 6.6 G) have them.
* Percentages are quotients of GMACs with one decimal: 4.6 to 2.8 is -39.13 %, whatever between
  2.75 and 2.85 the 2.8 was.
"""

from __future__ import annotations

from dataclasses import dataclass

from asap_eval.hosts import Geometry


@dataclass(frozen=True)
class Convention:
    """How a table counts.

    Attributes:
        clip_attention: whether the products of attention count in CLIP towers; elsewhere they do.
        decimals: of the GMACs that a percentage is a quotient of; None = unrounded.
    """

    clip_attention: bool
    decimals: int | None

    def counted(self, geometry: Geometry, macs: float, attention: float) -> float:
        """MACs that count, of ``macs`` whose ``attention`` are the two products."""
        return macs - attention if self.leaves_out_products(geometry) else macs

    def leaves_out_products(self, geometry: Geometry) -> bool:
        """Whether the products of attention do not count."""
        return geometry.clip and not self.clip_attention

    def change(self, macs: float, whole: float) -> float | None:
        """Percent from ``whole`` MACs to ``macs``; None where the decimals leave nothing of it."""
        if self.decimals is not None:
            macs, whole = (round(value / 1e9, self.decimals) for value in (macs, whole))
        return 100 * (macs / whole - 1) if whole else None


CONVENTIONS = {
    "full": Convention(clip_attention=True, decimals=None),
    "paper": Convention(clip_attention=False, decimals=1),
}
