"""How each method is drawn, the same in every picture: colour, marker and fill by its name.

A method is told from the others without its colour: no two share marker and fill. Colours are Okabe
and Ito's, which readers with colour-blindness tell apart; controls are grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from asap_eval.method import methods
from asap_eval.report.pictures.figure import COLOURS

CONTROL = "control"
"""``Card.paper`` of the methods that a row has to beat."""

BLUE, VERMILION, GREEN, PURPLE, BLACK, ORANGE, SKY = COLOURS
GREY = "0.35"

OPEN, SOLID, SHADED = "white", "", "0.75"
"""Fills of a marker: white, its own colour, grey."""

LOOKS = {
    "none": (BLACK, "*", SOLID),
    "asap": (BLUE, "o", OPEN),
    "mass": (VERMILION, "s", OPEN),
    "tome": (GREEN, "v", OPEN),
    "evit": (PURPLE, "^", OPEN),
    "ppt": (ORANGE, "P", OPEN),
    "zero_tprune": (SKY, "X", OPEN),
    "dynamicvit": (VERMILION, ">", OPEN),
    "ats": (GREEN, "<", OPEN),
    "spot": (PURPLE, "p", OPEN),
    "fna": (BLUE, "h", OPEN),
    "topk_cls": (ORANGE, "d", OPEN),
    "shift_reading": (SKY, "8", OPEN),
    "fastv": (BLUE, "s", SOLID),
    "sparsevlm": (VERMILION, "o", SOLID),
    "visionzip": (GREEN, "^", SOLID),
    "vispruner": (PURPLE, "v", SOLID),
    "prunesid": (ORANGE, "X", SOLID),
    "divprune": (BLUE, ">", SOLID),
    "scope": (VERMILION, "<", SOLID),
    "vtc_cls": (GREEN, "h", SOLID),
    "prumerge": (PURPLE, "p", SOLID),
    "cdpruner": (ORANGE, "d", SOLID),
    "holov": (SKY, "8", SOLID),
    "todre_reading": (BLUE, "H", SOLID),
    "topv_reading": (VERMILION, "H", OPEN),
    "capa_reading": (GREEN, "H", SHADED),
    "dart": (GREEN, "d", SHADED),
    "pyramiddrop": (PURPLE, "p", SHADED),
    "pitome": (GREEN, "^", SHADED),
    "tofu": (PURPLE, ">", SHADED),
    "mctf": (ORANGE, "P", SHADED),
    "atc": (BLUE, "h", SHADED),
    "diffrate": (SKY, "8", SHADED),
    "sparsifiner": (VERMILION, "$f$", SOLID),
    "asvit": (GREEN, "$v$", SOLID),
    "ailurus_reading": (PURPLE, "$w$", SOLID),
    "atm_reading": (ORANGE, "$t$", SOLID),
    "tosa_reading": (BLUE, "$o$", SOLID),
    "fna_decoder": (SKY, "P", SOLID),
    "random": (GREY, "X", SHADED),
    "stride": (GREY, "<", SHADED),
    "downsample": (GREY, "v", SHADED),
    "average_pool": (GREY, "s", SHADED),
    "no_visual_tokens": (GREY, "o", SHADED),
}
"""Colour, marker and fill of every method of this package. ``D`` is left to published figures."""

FREE = ("*", "$a$", "$b$", "$c$", "$e$", "$m$", "$n$", "$s$", "$u$", "$x$", "$z$")
"""Markers for methods that are not in the table: a plugin's."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn.

    Attributes:
        colour: of edge and line. marker: matplotlib's. fill: of the marker.
    """

    colour: str
    marker: str
    fill: str

    @property
    def mark(self) -> dict[str, Any]:
        """Arguments of `Axes.plot` for a marker alone."""
        edge = {"markeredgecolor": self.colour, "markerfacecolor": self.fill}
        return {"marker": self.marker, "ls": "", "mew": 1.1, **edge}


def look_of(method: str) -> Look:
    """The look of a method; of one that is not in the table the same in every picture too."""
    if method in LOOKS:
        colour, marker, fill = LOOKS[method]
    else:
        at = int.from_bytes(sha256(method.encode()).digest()[:4], "big")
        colour = GREY if is_control(method) else COLOURS[at % len(COLOURS)]
        marker, fill = FREE[at // len(COLOURS) % len(FREE)], OPEN
    return Look(colour, marker, fill or colour)


def is_control(method: str) -> bool:
    """Whether a row has to beat it."""
    known = methods().get(method)
    return known is not None and known.card.paper == CONTROL
