"""What a run leaves: every key of a record with its unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from asap_eval.errors import BadValueError
from asap_eval.record.job import SCHEMA, Job

Status = Literal["running", "done", "failed"]


@dataclass
class Metrics:
    """Accuracy over all samples, failed ones included and counted as wrong."""

    top1: float
    """Percent of samples whose first class is right."""
    n: int
    """Samples in the denominator."""
    failed: int
    """Samples that could not be read."""
    top5: float | None = None
    """Percent whose class is among the first five; None below five classes."""


@dataclass
class Baseline:
    """The unpruned model on the same samples."""

    key: str
    """Key of its record."""
    top1: float | None
    """None where tasks have scores of their own (``tasks``)."""
    top5: float | None
    n: int
    failed: int


@dataclass
class Paired:
    """Method minus baseline, sample by sample."""

    delta_top1: float
    """Percentage points."""
    ci95: list[float]
    """Bounds of the 95 % interval over samples (`asap_eval.statistics`)."""
    mcnemar_p: float
    """Exact two-sided p."""

    def __post_init__(self) -> None:
        _bounds("ci95", self.ci95)


@dataclass
class Macs:
    """Work per image, a mean over the images that could be read."""

    baseline_g: float
    """GMACs of the unpruned model."""
    mean_g: float
    """GMACs of the model's own work."""
    method_g: float
    """GMACs of the method's own products."""
    reduction_pct: float
    """Change with both counted (negative = less work)."""
    reduction_model_pct: float
    """Change without the method's own products."""
    convention: str
    """``full`` (every product) or ``paper``: `asap_eval.work.convention`."""
    paper: Macs | None = None
    """The same work as the ASAP paper counts; None where its one decimal leaves nothing."""


@dataclass
class Tokens:
    """Patch and pooled slots, prefix excluded."""

    kept_min: int
    """After the last block."""
    kept_median: float
    kept_mean: float
    kept_max: int
    layer_mean: float
    """Mean over images of the mean over blocks of the slots after each block."""
    handed_to_llm: float | None = None
    """Image tokens that the language model's first layer gets, mean over the questions."""
    llm_layer_mean: float | None = None
    """Image tokens in a layer of the language model, mean over its layers and the questions."""
    cached_entries: float | None = None
    """Tokens of the prompt, text included, that the caches of its layers hold, in all."""
    cached_pct: float | None = None
    """The same in percent of the unpruned model's."""


@dataclass
class Fired:
    """The block (from 1) that first reduced an image, over the images that fired; 1 for images that
    were resized at the input."""

    mean: float | None
    min: int | None
    max: int | None
    never: int
    """Images that never fired."""
    histogram: dict[str, int]
    """Images by block, every block named."""


@dataclass
class Counted:
    """Something that a method counts (`Reducer.tallies`), over the samples that could be read."""

    says: str
    """What, in words behind the number."""
    total: int
    samples: int
    """Samples with any of it."""
    of: int
    """Samples that could be read."""


@dataclass
class Calibration:
    """How a budget found the knob."""

    knob: float
    """Value found."""
    reached: float
    """The budget's quantity on the calibration subset (percent for ``macs``)."""
    range: list[float]
    """Reachable values of that quantity, lowest first."""
    samples: int
    """Images it was searched on."""
    ids_digest: str
    """sha256 over the ids of those images."""
    disjoint: bool
    """Whether none of them is evaluated."""
    evaluations: int
    """Knob values tried."""
    evaluated: float | None = None
    """The quantity on the evaluated images."""
    evaluated_ci95: list[float] | None = None
    """Its 95 % interval over images; None of one image."""
    note: str | None = None
    """What a reader must know, such as steps too coarse for the target."""

    def __post_init__(self) -> None:
        if self.evaluated_ci95 is not None:
            _bounds("evaluated_ci95", self.evaluated_ci95)


@dataclass
class Provenance:
    """What is needed to believe the numbers, and to get them again."""

    command: str
    """Command line."""
    config: dict[str, Any]
    """Resolved configuration of the command line; empty from Python."""
    commit: str | None
    """Git commit of the checkout the package runs from; None outside one."""
    dirty: bool | None
    """Whether that checkout had uncommitted changes."""
    sources: str
    """Hash of the source files that can change the numbers."""
    packages: dict[str, str]
    """Versions."""
    machine: dict[str, Any]
    """System, processor, cores, threads; GPU and driver where one is used."""
    dtype: str
    kernels: dict[str, Any]
    """Attention backends switched on, instruction set."""
    seeds: dict[str, int]
    weights: dict[str, Any]
    """``name``, ``sha256``, ``trained`` (False = random: not comparable)."""
    data: dict[str, Any]
    """``source``, its short ``name``, ``ids_digest`` (sha256 over ids and labels), ``content``
    (hash of what is stored under them: pixels), ``n``; ``commits`` of the hub's data sets by their
    names ({} = none); ``notes``, what a reader has to know of the samples, a line each."""
    started: str
    """Time of the first start, UTC."""
    duration_s: float | None = None
    """Seconds that the process which ended the run worked on it."""
    method: dict[str, Any] = field(default_factory=dict)
    """Files the method runs from: their hash, and what they say of their training. Of a method of
    others ``package`` and ``version``, or ``file`` and its ``sha256``. {} = none of both."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """``id`` and ``message`` of every failed sample."""
    calibration: Calibration | None = None
    """How the budget was met."""
    workers: list[dict[str, Any]] = field(default_factory=list)
    """Where several processes computed the rows, each of them: ``host``, ``device`` (``cpu`` or the
    GPU's name), ``threads``, ``pieces`` and ``samples``. [] = the process that ``machine`` says."""


@dataclass
class RunRecord:
    """One run: written as ``running`` when it starts, replaced when it ends."""

    key: str
    """Hash of the job and of the sources that can change its numbers."""
    status: Status
    job: Job
    """As resolved."""
    provenance: Provenance
    error: str | None = None
    """Why a run failed."""
    metrics: Metrics | None = None
    """None where the benchmark measures no accuracy."""
    analysis: dict[str, Any] | None = None
    """What the benchmark measures beside accuracy and work, by name: JSON numbers, lists and
    blocks. Its module says what they are; shares are 0 to 1 and ``<name>_ci95`` is the 95 %
    interval of ``<name>`` over images."""
    tasks: dict[str, dict[str, Any]] | None = None
    """By task: ``metric: value``, split, scorer, n, failed, and the difference to the unpruned
    model (vision-language); `asap_eval.bench.language.scores` says each key."""
    baseline: Baseline | None = None
    """None for ``none`` itself."""
    paired: Paired | None = None
    macs: Macs | None = None
    tokens: Tokens | None = None
    fired: Fired | None = None
    counted: dict[str, Counted] | None = None
    """By the name of the method's note; None where the method counts nothing."""
    speed: dict[str, Any] | None = None
    """``fused_img_s fused_by matched_img_s method_img_s speedup{median p10 p90} ideal
    share_of_ideal rounds backend`` and the raw times; None where speed was not measured."""
    latency_ms: dict[str, dict[str, float]] | None = None
    """``prefill decode answer``, each ``median p10 p90``."""
    memory_gb: dict[str, float] | None = None
    """Peak by phase."""
    samples: str | None = None
    """Name of the per-sample file beside the record."""
    arrays: str | None = None
    """Name of a safetensors file beside the record; the benchmark's module says what is in it."""
    files: dict[str, str] | None = None
    """sha256 of these files by name, once the run is done."""
    schema: int = SCHEMA

    @property
    def stem(self) -> str:
        """File name without its ending: readable first, unique last."""
        return record_stem(self.job, self.key)

    @property
    def knob(self) -> float | None:
        """The knob that ran: given, default, or found by the budget."""
        found = self.provenance.calibration
        return self.job.k if found is None else found.knob


def _bounds(name: str, interval: list[float]) -> None:
    if len(interval) != 2:
        raise BadValueError(f"{name} has {len(interval)} numbers: an interval has two bounds.")


def record_stem(job: Job, key: str) -> str:
    """File name of a job's record, without ``.json``."""
    name = f"{job.model}-{job.method}-{key[:12]}"
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
