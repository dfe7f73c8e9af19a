"""What was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from asap_eval.errors import BadValueError
from asap_eval.files.fingerprint import content_of

SCHEMA = 1
Count = Literal["handed", "layer_mean"]
"""Image tokens in the language model: those its first layer gets, or the mean over all layers."""
Quantity = Literal["macs", "handed", "layer_mean"]
"""What a budget counts."""
LAYER_MEAN: Count = "layer_mean"
SAMPLES_SUFFIX = ".samples.jsonl"


@dataclass(frozen=True)
class Budget:
    """A target that the method's knob is searched for.

    Attributes:
        kind: ``macs`` = total MACs change; ``tokens`` = image tokens in the language model.
        target: percent (negative = less work) for ``macs``, a count for ``tokens``.
        samples: images of the calibration subset.
        count: of ``tokens``: the ``layer_mean``, which is meant where none is named, or those
            ``handed`` to the first layer; equal without a method inside the language model.
    """

    kind: Literal["macs", "tokens"]
    target: float
    samples: int = 64
    count: Count | None = None

    @property
    def quantity(self) -> Quantity:
        """What is counted."""
        return "macs" if self.kind == "macs" else self.count or LAYER_MEAN

    @property
    def said(self) -> str:
        """Kind, count and target in a few words."""
        count = f" ({self.count})" if self.count else ""
        return f"{self.kind}{count} {self.target:g}"

    def __post_init__(self) -> None:
        if self.kind == "macs" and self.count is not None:
            raise BadValueError(
                f"budget.count={self.count} counts tokens: it is for budget=tokens."
            )
        if self.kind == "tokens" and self.count is None:
            object.__setattr__(self, "count", LAYER_MEAN)  # frozen: a default that kind decides
        if self.samples < 1:
            raise BadValueError(f"budget.samples={self.samples}: give a number of images >= 1.")
        if self.kind == "macs" and not -100 < self.target < 0:
            raise BadValueError(
                f"target={self.target:g} with budget=macs is a change of the MACs in percent: "
                "give a value between -100 and 0, for instance target=-35."
            )


@dataclass(frozen=True)
class Job:
    """Everything that decides the numbers of one run; what cannot change them stays out.

    Attributes:
        model: our name of the model, or a timm name. model_params: its other options, resolved.
        weights: checkpoint as it was given, None = the model's own.
        method: registered name. k: the method's knob; None where it has none or a budget finds it.
        params: every other option of the method, defaults filled in; the knob too where it is no
            number: a schedule, or a word such as ASAP's ``otsu``.
        bench: benchmark. bench_params: its options, defaults filled in.
        data: where the samples are, as it was given. limit: number of samples, None = all.
        sample: ``first`` n in order, or n ``spread`` evenly over it.
        budget: target the knob is searched for. batch_size, device, dtype, seed: of the forward.
        speed: whether speed is measured. macs_convention: how MACs are counted, by the record's
            ``macs`` block and by a budget: ``full``, or as the ASAP ``paper`` has them.
        labels: file with the classes of images that lie flat, as it was given.
    """

    model: str
    method: str = "none"
    data: str = ""
    weights: str | None = None
    model_params: dict[str, Any] = field(default_factory=dict)
    k: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    bench: str = "imagenet"
    bench_params: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    sample: Literal["first", "spread"] = "first"
    budget: Budget | None = None
    batch_size: int = 32
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    speed: bool = False
    macs_convention: Literal["full", "paper"] = "full"
    labels: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadValueError(
                f"limit={self.limit}: give a number of samples >= 1, or leave it out for all."
            )
        if self.batch_size < 1:
            raise BadValueError(f"batch_size={self.batch_size}: give a number >= 1.")
        if self.budget is not None and self.k is not None:
            raise BadValueError(
                f"k={self.k:g} and budget={self.budget.kind} both set the knob of "
                f"'{self.method}': leave one of them out."
            )

    def baseline(self) -> Job:
        """The otherwise equal job of the unpruned model. Nothing in it is random: its seed is 0."""
        return dataclasses.replace(
            self, method="none", k=None, params={}, budget=None, seed=0, speed=False
        )


def job_key(
    job: Job,
    *,
    weights_sha256: str,
    data_digest: str,
    content: str,
    searched: str | None,
    sources: str,
    versions: Mapping[str, str],
) -> str:
    """64 hex digits that change exactly when the numbers of a job can change.

    The addresses of weights and data give way to their content.

    Args:
        data_digest: of names and labels. content: of what is stored under them. searched: of the
            samples that a budget is searched on. sources: of our code. versions: of what computes.
    """
    resolved = dataclasses.asdict(job)
    resolved["weights"] = weights_sha256
    resolved["data"] = content
    del resolved["labels"]  # what the file says is in the digest of the data
    for part, given in (("params", job.params), ("bench_params", job.bench_params)):
        for name, value in given.items():
            if not isinstance(value, str):
                continue
            if (file := Path(value).expanduser()).is_file():
                resolved[part][name] = hashlib.sha256(_content(file)).hexdigest()
            elif (file / "config.json").is_file():  # a checkpoint's folder
                resolved[part][name] = content_of(sorted(file.iterdir()))
    if head := job.model_params.get("head"):
        file = Path(head).expanduser()
        resolved["model_params"]["head"] = hashlib.sha256(file.read_bytes()).hexdigest()
    resolved.update(
        data_digest=data_digest,
        searched=searched,
        sources=sources,
        versions=dict(versions),
        schema=SCHEMA,
    )
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def _content(path: Path) -> bytes:
    """What of a file named by an option can change numbers: of a record, its samples."""
    samples = path.with_name(path.stem + SAMPLES_SUFFIX)
    return samples.read_bytes() if samples.is_file() else path.read_bytes()


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 over sample ids, one per line."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
