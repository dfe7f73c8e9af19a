"""What the contract tests run of every method: at least one set of options that does nothing and
one that reduces. A new method adds its rows here; a test fails for one that has none.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import asap_eval
from asap_eval.hosts.forward import BEHIND
from asap_eval.method import Reducer, build
from asap_eval.methods.parts.learned import Learned
from asap_eval.testing.clip import Shape, write_clip
from asap_eval.testing.subject import Images, Trial
from asap_eval.trace import Trace


@dataclass(frozen=True)
class Case:
    """One set of options of one method.

    Attributes:
        method: registered name. options: for `asap_eval.reduce`.
        effect: ``tokens`` = at least one image of `batch` is reduced on every host; ``attention`` =
            tokens stay, their attention is replaced; ``nothing`` = the model's own output.
        conserves: whether no patch is dropped: all live on in some token.
        empties: whether no patch is left: models that average patches have nothing to read.
        places: for methods with trained predictors: a checkpoint of random ones is made for so
            many of them.
        clip: for methods that read the question: a small CLIP checkpoint is made.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    effect: Literal["tokens", "attention", "nothing"] = "tokens"
    conserves: bool = True
    empties: bool = False
    places: int = 0
    clip: bool = False

    def __str__(self) -> str:
        listed = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.method}({listed})"

    @property
    def params(self) -> dict[str, Any]:
        return self.params_for(32, 2)

    def params_for(self, width: int, heads: int) -> dict[str, Any]:
        """Options, with predictors made for a model of this shape where the method has them."""
        if self.clip:
            return {**self.options, "clip": small_clip()}
        if not self.places:
            return self.options
        history = self.options.get("history", 2)
        made = checkpoint(self.places, self.method, history, width, heads)
        return {**self.options, "checkpoint": made}

    @property
    def declared(self) -> Reducer:
        """What it says of itself, before any file is made for it."""
        return build(self.method, **self.options)

    @property
    def chooses(self) -> bool:
        """Whether it chooses tokens by what it reads; others resize images, or replace attention
        alone."""
        cls = type(self.declared)
        if self.effect == "attention":
            return cls.runs is not Reducer.runs
        return self.effect == "tokens" and cls.site != "input"

    def build(self) -> Reducer:
        return build(self.method, **self.params)


_FOLDER = tempfile.TemporaryDirectory(prefix="asap_eval_test_")


@functools.cache
def checkpoint(
    places: int, method: str = "dynamicvit", history: int = 2, width: int = 32, heads: int = 2
) -> str:
    """A file of random predictors, by default for the tiny hosts; removed with the process."""
    values = {"dynamicvit": (width,), "spot": (width, 6 * heads * history)}[method]
    inputs = (torch.ones(1, 1), *(torch.zeros(1, 1, size) for size in values))
    g = torch.Generator().manual_seed(places)
    predictors = {place: trainable(method).untrained(inputs) for place in range(places)}
    for predictor in predictors.values():
        for value in predictor.parameters():
            value.data = torch.randn(value.shape, generator=g)
    path = f"{_FOLDER.name}/{method}{places}-{history}-{width}.safetensors"
    tensors = {
        f"score_predictor.{place}.{key}": value
        for place, predictor in predictors.items()
        for key, value in predictor.state_dict().items()
    }
    save_file(tensors, path)  # says nothing of itself, as the authors' files
    return path


@functools.cache
def small_clip() -> str:
    """A folder with CLIP's towers and a tokenizer; images' is as wide as the small LLaVA's."""
    shape = Shape(image=64, text=32, heads=2, mlp=48, layers=2, context=20, joint=24)
    return write_clip(Path(_FOLDER.name) / "clip", shape)


def trainable(method: str) -> Learned:
    built = build(method)
    assert isinstance(built, Learned)
    return built


ZERO_TPRUNE: dict[str, Any] = {"after": [2], "iterations": [5]}

CASES = (
    Case("none", effect="nothing"),
    Case("random", {"k": 1.0}, effect="nothing"),
    Case("random", {"k": 0.5, "layer": 2}),
    Case("random", {"k": 0.3, "layer": 1, "rest": "drop"}, conserves=False),
    Case("stride", {"k": 1.0}, effect="nothing"),
    Case("stride", {"k": 0.5, "layer": 3}),
    Case("stride", {"k": 0.4, "layer": 5, "rest": "drop"}, conserves=False),
    Case("downsample", {"k": 1.0}, effect="nothing"),
    Case("downsample", {"k": 0.55}),
    Case("mass", {"k": 1.0}, effect="nothing"),
    Case("mass", {"k": 0.5, "layer": 2}),
    Case("mass", {"k": 0.4, "layer": 3, "of": "walk", "rest": "drop"}, conserves=False),
    Case("topk_cls", {"k": 1.0}, effect="nothing"),
    Case("topk_cls", {"k": 0.5, "layer": 2}),
    Case("topk_cls", {"k": 0.4, "layer": 3, "rest": "drop"}, conserves=False),
    Case("asap", {"tau": 1e9}, effect="nothing"),
    Case("asap", {"k": 2.0, "tau": 2.2, "never": "block:4"}),
    Case("asap", {"k": 2.0, "tau": 2.2, "never": "block:4", "anchor": "mass"}),
    Case(
        "asap",
        {"k": 3.0, "tau": 2.0, "never": "block:5", "reduce": "prune", "anchor": "random"},
        conserves=False,
    ),
    Case(
        "asap",
        {"k": 5.0, "tau": 2.2, "never": "block:3", "anchor": "pca", "n": 11, "accumulate": False},
        conserves=False,
    ),
    Case(
        "asap",
        {"k": 4.0, "tau": 2.2, "never": "block:3", "n": 9, "stage2": "algorithm2"},
        conserves=False,
    ),
    Case(
        "asap",
        {
            "k": 4.0,
            "tau": 2.2,
            "never": "block:3",
            "n": 10,
            "stage2": "vispruner",
            "importance": "cls_attention",
            "redundancy": "features",
        },
        conserves=False,
    ),
    Case("asap", {"tau": "jump:1e9", "k": "gap"}, effect="nothing"),
    Case("asap", {"tau": "jump:1.1", "k": "otsu", "never": "block:4"}),
    Case(
        "asap",
        {"tau": "quantile:0.9", "k": "gap", "never": "block:3", "reduce": "prune"},
        conserves=False,
    ),
    Case("asap", {"k": 1.9, "tau": 1e9, "never": "block:3", "normalise": "rank"}),
    Case(
        "asap",
        {"k": 2.0, "tau": 2.2, "never": "block:4", "anchor": "corner", "distance": "squared"},
    ),
    Case("asap", {"k": 2.0, "tau": 2.2, "never": "block:4", "identity": False}),
    Case("tome", {"r": 0}, effect="nothing"),
    Case("tome", {"r": 5}),
    Case("tome", {"r": 4.0, "inflection": -1.0, "proportional": False}),
    Case("ppt", {"r": 0}, effect="nothing"),
    Case("ppt", {"r": 8, "threshold": 1e9}),  # always pools
    Case("ppt", {"r": 8, "threshold": 0.0, "blocks": [0, 2]}, conserves=False),  # always prunes
    Case("ppt", {"r": 6, "threshold": 8e-4}, conserves=False),  # both, image by image
    Case("evit", {"k": 1.0}, effect="nothing"),
    Case("evit", {"k": 0.6}),
    Case("evit", {"k": 0.5, "fuse": False, "blocks": [0, 3]}, conserves=False),
    Case("ats", {"blocks": []}, effect="nothing"),
    Case("ats", {"k": 20}, conserves=False),
    Case("ats", {"k": 24, "blocks": [1, 2, 4], "rule": "padded"}, conserves=False),
    Case("asvit", {"k": 0.0}, effect="nothing"),
    Case("asvit", {"thresholds": [0.012, 0.015, 0.02]}, conserves=False),
    Case("asvit", {"k": 0.5, "thresholds": [0.02, 0.04], "blocks": [1, 4]}, conserves=False),
    Case("sparsifiner", {"k": 1.0, "by": "local"}, effect="nothing"),
    Case("sparsifiner", {"k": 0.3, "by": "attention"}, effect="attention"),
    Case("sparsifiner", {"k": 0.4, "by": "local", "keep": 0.7}, effect="attention"),
    Case("tosa_reading", {"k": 1.0}, effect="nothing"),
    Case("tosa_reading", {"k": 0.5}, effect="attention"),
    Case("mctf", {"r": 0}, effect="nothing"),
    Case("mctf", {"r": 6}),
    Case("mctf", {"r": 0.3, "blocks": [1, 3], "both": False, "pool": "size"}),
    Case("mctf", {"r": 3.5, "ahead": "precise"}),
    Case("mctf", {"r": 5, "ahead": "none"}),
    Case("pitome", {"k": 1.0}, effect="nothing"),
    Case("pitome", {"k": 0.8}),
    Case("pitome", {"k": 0.9, "proportional": True}),
    Case("tofu", {"k": 1.0}, effect="nothing"),
    Case("tofu", {"k": 0.85}, conserves=False),
    Case("tofu", {"k": 0.8, "norm": "baseline"}, conserves=False),
    Case("atc", {"k": 1.0}, effect="nothing"),
    Case("atc", {"k": 0.7}),
    Case("atc", {"k": 0.5, "blocks": [1, 3], "linkage": "average", "proportional": False}),
    Case("atc", {"r": 5.5, "linkage": "single"}),
    Case("atm_reading", {"k": 1.1, "theta_min": 1.1}, effect="nothing"),
    Case("atm_reading", {"k": 0.75, "beta": 0.05}),
    Case("atm_reading", {"k": 0.8, "beta": 0.03, "theta_min": 0.4, "split_after": 1}),
    Case("ailurus_reading", {"m": 36}, effect="nothing"),
    Case("ailurus_reading", {"m": 20}),
    Case(
        "ailurus_reading",
        {"m": 9, "after": 1, "nearest": 12, "neighbours": 3, "proportional": False},
    ),
    Case("diffrate", {"prune": [99] * 5, "merge": [99] * 5}, effect="nothing"),
    Case("diffrate", {"prune": [99] * 5, "merge": [34, 30, 99, 22, 18]}),
    Case(
        "diffrate",
        {"prune": [99, 30, 26, 99, 14], "merge": [36, 28, 99, 20, 12]},
        conserves=False,
    ),
    Case("tome", {"r": [9, 0, 6]}),
    Case("ppt", {"r": 6, "threshold": 4e-3}, conserves=False),  # some of each on every host
    Case("zero_tprune", ZERO_TPRUNE | {"rates": [1.0], "similar": 0}, effect="nothing"),
    Case("zero_tprune", ZERO_TPRUNE | {"rates": [0.6], "similar": 4}, conserves=False),
    Case("zero_tprune", ZERO_TPRUNE | {"rates": [0.5], "similar": 0}, conserves=False),
    Case("visionzip", {"k": 37, "contextual": 0}, effect="nothing"),
    Case("visionzip", {"k": 12}),
    Case("visionzip", {"k": 9, "contextual": 0}, conserves=False),
    Case("vispruner", {"k": 36}, effect="nothing"),
    Case("vispruner", {"k": 9}, conserves=False),
    Case("vispruner", {"k": 20, "ratio": 0.25}, conserves=False),
    Case("scope", {"k": 36}, effect="nothing"),
    Case("scope", {"k": 9}, conserves=False),
    Case("scope", {"k": 12, "alpha": 2.0}, conserves=False),
    Case("prunesid", {"k": 37}, effect="nothing"),
    Case("prunesid", {"k": 13}, conserves=False),
    Case("average_pool", {"k": 36}, effect="nothing"),
    Case("average_pool", {"k": 8}),
    Case("no_visual_tokens", conserves=False, empties=True),
    Case("fastv", {"r": 0.0}, effect="nothing"),
    Case("fastv", {"k": 20, "layer": 3}, conserves=False),
    Case("fastv", {"k": 100, "budget": "mean", "layer": 1}, conserves=False),
    Case("pyramiddrop", {"ratio": 1.0}, effect="nothing"),
    Case("pyramiddrop", {"ratio": 0.6}, conserves=False),
    Case("pyramiddrop", {"ratios": [0.4, 0.1], "layers": [0, 9]}, conserves=False),
    Case("dart", {"k": 10**6}, effect="nothing"),
    Case("dart", {"k": 40}, conserves=False),
    Case("dart", {"r": 0.8, "layer": 5, "pivot_image": 2, "pivot_text": 3}, conserves=False),
    Case("divprune", {"k": 10**6}, effect="nothing"),
    Case("divprune", {"r": 0.1}, conserves=False),
    Case("divprune", {"k": 40}, conserves=False),
    Case("shift_reading", {"k": 10**6}, effect="nothing"),
    Case("shift_reading", {"k": 30, "threshold": 1.0}, conserves=False),
    Case(
        "shift_reading", {"k": 40, "threshold": 0.3, "salience": "all", "layer": 4}, conserves=False
    ),
    Case("sparsevlm", {"layers": [], "keep": []}, effect="nothing"),
    Case("sparsevlm", {"keep": [60, 30, 12]}, conserves=False),
    Case("sparsevlm", {"keep": [50, 20], "layers": [9, 1], "noise": True}, conserves=False),
    Case("vtc_cls", {"k": 36, "start": 2}, effect="nothing"),
    Case("vtc_cls", {"k": 9, "start": 1}, conserves=False),
    Case("prumerge"),
    Case("prumerge", {"plus": True}),
    Case("cdpruner", {"k": 144}, clip=True, effect="nothing"),
    Case("cdpruner", {"k": 20}, clip=True, conserves=False),
    Case("holov", {"k": 10**6}, effect="nothing"),
    Case("holov", {"k": 30, "windows": 5}, conserves=False),
    Case("todre_reading", {"k": 10**6, "tau": 0.0}, effect="nothing"),
    Case("todre_reading", {"k": 30, "tau": 1.0}, conserves=False),
    Case("topv_reading", {"k": 10**6}, effect="nothing"),
    Case("topv_reading", {"k": 30, "recover": 4, "layer": 3}, conserves=False),
    Case("capa_reading", {"k": 10**6}, effect="nothing"),
    Case("capa_reading", {"keep": [90, 40], "layers": [2, 9]}, conserves=False),
    Case("dynamicvit", {"k": 1.0}, places=3, effect="nothing"),
    Case("dynamicvit", {"k": 0.7}, places=3, conserves=False),
    Case("dynamicvit", {"k": 0.5, "blocks": [0, 4]}, places=2, conserves=False),
    Case("spot", {"k": 1.0, "blocks": [2]}, places=1, effect="nothing"),
    Case("spot", {"k": 0.6, "blocks": [2, 3]}, places=2, conserves=False),  # histories overlap
    Case("spot", {"k": 0.5, "blocks": [1, 3], "history": 1}, places=2, conserves=False),
    Case("fna", {"m": 8, "blocks": []}, effect="nothing"),
    Case("fna", {"m": 8}, effect="attention"),
    Case("fna_decoder", {"blocks": []}, effect="nothing"),
    Case("fna_decoder", {"m": 60}, effect="attention"),
    Case(
        "fna_decoder",
        {"m": 20, "causal": False, "mixed": True, "blocks": [3, 9]},
        effect="attention",
    ),
)

VISION = tuple(
    case for case in CASES if case.declared.tower == "vision" and not case.declared.needs & BEHIND
)
"""Methods that run in any vision tower; the others need a vision-language model."""


def pairs(*effects: str) -> list[tuple[str, Case]]:
    """Every host with every case it can run: methods that read the class token need one."""
    return [
        (host, case)
        for host in tiny.HOSTS
        for case in VISION
        if case.effect in effects
        and not (host in tiny.WITHOUT_CLS and case.build().requires_cls)
        and not (host == "avg_with_cls" and case.empties)
    ]


def batch() -> Tensor:
    """``[5, 3, 24, 24]`` images for every tiny host."""
    return tiny.images(5, seed=2)


@functools.cache
def subject(name: str) -> Images:
    """A tiny host with the batch; its copies in other dtypes are made once."""
    return Images(tiny.HOSTS[name](), batch(), name)


def trial(name: str, case: Case) -> Trial:
    """A case on a tiny host, for the checks of `asap_eval.testing.contract`."""
    return Trial(subject(name), case.build, case.effect, case.conserves, str(case))


def run(model: nn.Module, case: Case, x: Tensor, seed: int = 0) -> tuple[Tensor, Trace]:
    with asap_eval.reduce(model, case.method, seed=seed, **case.params) as trace:
        return tiny.output(model, x), trace
