"""The rows of `reduction_cost.py`: every registered method, and where each does its work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from asap_eval.method import method_class
from asap_eval.methods import (
    asap,
    capa_reading,
    cdpruner,
    dart,
    divprune,
    dynamicvit,
    fastv,
    fna_decoder,
    holov,
    prumerge,
    prunesid,
    pyramiddrop,
    scope,
    shift_reading,
    sparsevlm,
    spot,
    todre_reading,
    tome,
    topv_reading,
    visionzip,
    vispruner,
    vtc_cls,
)
from asap_eval.methods.parts import clip_text, nystroem

USED = 23
"""Blocks whose output LLaVA reads; the 24th runs in the unpruned model alone."""

FIRES = 12
"""ASAP's block here; the paper's figure has 11 to 13."""

NEVER = 1e9
"""Bins, or a threshold, beyond what any image has."""

EXCEPT = {
    "none": "the identity: it does nothing that could be timed",
}
"""Registered methods without a row, and why."""


@dataclass(frozen=True)
class Contender:
    """A row: a method with its options, and the part of the model it has to run through.

    Attributes:
        blocks: of the tower, from the first (a method on the output runs in the last alone).
        looks: used blocks, the last one among them, that a method on the output looks at.
        layers: of the language model, for a method that acts there.
        acts: places at which it acts in its authors' setting; 0 = those that are timed.
    """

    label: str
    method: str
    k: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    blocks: int = USED
    layers: int = 0
    acts: int = 0
    looks: int = 1

    @property
    def in_language(self) -> bool:
        return method_class(self.method).tower == "language"


def contenders(budget: int, patches: int, crops: int = 1) -> list[Contender]:
    """Every method but those of `EXCEPT`, at ``budget`` of ``patches`` left of each crop."""
    return [*_in_tower(budget, patches), *_in_language(budget * crops)]


def _in_tower(budget: int, patches: int) -> list[Contender]:
    here: dict[str, Any] = {"tau": NEVER, "never": f"block:{FIRES}"}
    share = budget / patches
    third = share ** (1 / 3)
    most, more = divmod(patches - budget, USED)
    schedule = [most + (block < more) for block in range(USED)]
    return [
        Contender("walk, all layers", "asap", 8, {"tau": NEVER}),
        Contender("walk, early stop", "asap", NEVER, here | {"normalise": "with_sink"}, FIRES),
        Contender("asap, pooling", "asap", 8, here, FIRES),
        Contender("asap, pooling + stride", "asap", 8, here | {"n": budget}, FIRES),
        Contender(
            "asap, hybrid",
            "asap",
            8,
            here | {"n": budget, "stage2": "algorithm2"},
            FIRES,
        ),
        Contender("tome", "tome", None, {"r": schedule}),
        Contender("visionzip", "visionzip", budget),
        Contender("vispruner", "vispruner", budget),
        Contender("scope", "scope", budget),
        # Seven blocks, the authors' 16 to 22 from 0.
        Contender("vtc_cls", "vtc_cls", budget, {"start": 0}, looks=7),
        Contender("prumerge", "prumerge"),
        Contender("prumerge, plus", "prumerge", None, {"plus": True}),
        Contender("cdpruner, seeded CLIP", "cdpruner", budget),
        Contender("prunesid", "prunesid", budget),
        Contender("average_pool", "average_pool", budget),
        Contender("no_visual_tokens", "no_visual_tokens"),
        # The stem alone: every block then runs on the smaller image.
        Contender("downsample", "downsample", share, blocks=1),
        # Three blocks act: a third of the way each, in tokens or in share.
        Contender("ppt", "ppt", (patches - budget + 2) // 3),
        Contender("evit", "evit", third),
        Contender("dynamicvit, seeded predictors", "dynamicvit", third + 1e-6),
        Contender("spot, seeded predictors", "spot", third + 1e-6),
        Contender("ats", "ats", budget),
        Contender("zero_tprune, our reading", "zero_tprune", 1.0),
        # The authors' blocks of CLIP ViT-L/14 (13 to 23 from 0) that LLaVA runs.
        Contender(f"fna, {budget} landmarks", "fna", budget, {"blocks": list(range(13, USED))}),
        *_of_classifiers(budget, patches),
        Contender("mass", "mass", share, {"layer": FIRES}, FIRES),
        Contender("topk_cls", "topk_cls", share, {"layer": FIRES}, FIRES),
        Contender("random", "random", share, {"layer": FIRES}, FIRES),
        Contender("stride", "stride", share, {"layer": FIRES}, FIRES),
    ]


def _of_classifiers(budget: int, patches: int) -> list[Contender]:
    """Methods whose authors ran them in image classifiers alone, at about the budget where it
    steers them."""
    each = (budget / patches) ** (1 / USED)
    left = [1 + round(patches * each**block) for block in range(1, USED + 1)]  # with the class's
    return [
        Contender("pitome", "pitome", each),
        Contender("tofu", "tofu", each),
        Contender("mctf", "mctf", (patches - budget) / USED),
        Contender("diffrate", "diffrate", None, {"prune": [patches + 1] * USED, "merge": left}),
        Contender("atc", "atc", (budget / patches) ** (1 / 3) + 1e-6),
        Contender("ailurus, our reading", "ailurus_reading", budget),
        Contender("atm, our reading", "atm_reading"),
        Contender("asvit", "asvit"),
        Contender("sparsifiner, by attention", "sparsifiner", 0.25, {"by": "attention"}),
        Contender("tosa, our reading", "tosa_reading", 0.5),
    ]


def _in_language(budget: int) -> list[Contender]:
    """They act in the first layers instead of their authors': what a layer costs there depends on
    the tokens it gets, and those are the same. One more layer gets the shorter prompt."""
    kept = sparsevlm.KEEP.get(budget)
    if kept is None:  # a crop count or a test's size: their list of 64 in proportion
        kept = [max(1, n * budget // 64) for n in sparsevlm.KEEP[64]]
    return [
        Contender("divprune", "divprune", budget, layers=1),
        Contender("dart", "dart", budget, {"layer": 1}, layers=2),
        Contender(
            "pyramiddrop",
            "pyramiddrop",
            None,
            {"layers": [1, 2, 3], "ratios": [0.5, 0.25, 0.125]},
            layers=4,
        ),
        Contender("holov", "holov", budget, layers=1),
        Contender("todre, our reading", "todre_reading", budget, {"layer": 1}, layers=2),
        Contender(
            "topv, our reading", "topv_reading", budget, {"layer": 1, "recover": 0}, layers=2
        ),
        # Three layers act where it lists none.
        Contender(
            "capa, our reading",
            "capa_reading",
            None,
            {"layers": [0], "keep": [budget]},
            layers=2,
            acts=3,
        ),
        Contender("fastv", "fastv", budget, {"layer": 1}, layers=2),
        Contender("sparsevlm", "sparsevlm", None, {"keep": kept, "layers": [0, 1, 2]}, layers=4),
        Contender("shift_reading, our reading", "shift_reading", budget, {"layer": 1}, layers=2),
        # The first layer's attention is never replaced; theirs are layers 12 to 31 from 0.
        Contender(
            "fna_decoder, 256 landmarks", "fna_decoder", 256, {"blocks": [1, 2]}, layers=3, acts=20
        ),
    ]


OWN: dict[str, list[tuple[Any, str, str]]] = {
    "asap": [
        (asap.ASAP, "_step", "walk"),
        (asap.ASAP, "_mass", "masses"),
        (asap.ASAP, "_sink", "sink"),
        (asap.ASAP, "_distances", "distances"),
        (asap.ASAP, "_scaled", "distances"),
        (asap, "spread", "stage 2"),
        (asap.ASAP, "_ingredients", "stage 2"),
        (asap.ASAP, "_thin", "stage 2"),
    ],
    "tome": [(tome, "match", "matching")],
    "visionzip": [(visionzip, "compress", "selection and assignment")],
    "vispruner": [(vispruner, "important_and_diverse", "selection")],
    "divprune": [(divprune, "cosines", "cosines"), (divprune, "farthest", "selection")],
    "scope": [(scope, "cosines", "cosines"), (scope, "covering", "selection")],
    "vtc_cls": [(vtc_cls, "most_attended", "sum and selection")],
    "prumerge": [(prumerge, "class_attention", "attention row"), (prumerge, "merged", "merging")],
    "cdpruner": [
        (clip_text.TextSide, "embed", "question read"),
        (clip_text.TextSide, "embed_patches", "CLIP's projection"),
        (cdpruner, "relevance", "relevance"),
        (cdpruner, "cosines", "cosines"),
        (cdpruner, "conditional", "selection"),
    ],
    "holov": [(holov, "by_windows", "quotas and selection")],
    "todre_reading": [(todre_reading, "diverse", "selection")],
    "topv_reading": [
        (topv_reading.TopVReading, "cost", "costs"),
        (topv_reading, "moved", "transport"),
    ],
    "capa_reading": [(capa_reading, "contribution", "contributions")],
    "prunesid": [
        (prunesid, "loadings", "decomposition"),
        (prunesid, "similarities", "cosines"),
        (prunesid, "suppress", "suppression"),
        (prunesid, "ranking", "quotas"),
        (prunesid, "quotas", "quotas"),
    ],
    "dynamicvit": [(dynamicvit.FeaturePredictor, "forward", "predictor")],
    "spot": [
        (spot.RelevancePredictor, "forward", "predictor"),
        (spot, "attention_statistics", "statistics"),
    ],
    "fna": [
        (nystroem, "farthest_points", "landmarks"),
        (nystroem, "pseudo_inverse", "inverse"),
    ],
    "dart": [(dart, "largest", "pivots"), (dart, "unlike", "selection")],
    "pyramiddrop": [(pyramiddrop, "most_attended", "selection")],
    "fastv": [(fastv, "most_attended", "selection")],
    "sparsevlm": [(sparsevlm, "raters", "raters"), (sparsevlm, "cluster", "clustering")],
    "shift_reading": [
        (shift_reading, "salience_of", "salience"),
        (shift_reading, "soft_attention", "attention under the mask"),
        (shift_reading, "keep_and_merge", "merging"),
    ],
    "fna_decoder": [
        (fna_decoder.FNADecoder, "_landmarks", "landmarks"),
        (nystroem, "pseudo_inverse", "inverse"),
    ],
}
"""Parts of a method's own decision: owner, function, name; what is in none is ``decision``."""

ONCE = frozenset({"prompt laid out", "raters", "landmarks"})
"""Parts that a pass has once, however many layers act."""
