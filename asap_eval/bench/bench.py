"""The contract between a benchmark file and the runner, and the registry of benchmarks.

A benchmark is a dataclass of options, in one file of this folder: it opens samples, measures them
batch by batch into rows, and says what all rows mean together. Image benchmarks derive from
`ImageBench` (image_bench.py) and add only what they measure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from asap_eval.bench.plan import Plan
from asap_eval.errors import AsapEvalError, unknown
from asap_eval.hosts import Geometry, geometry_of
from asap_eval.method import Reducer
from asap_eval.models import ModelSpec
from asap_eval.options import checked, options
from asap_eval.record import Baseline, Fired, Job, Macs, Metrics, Paired, RunRecord, Tokens
from asap_eval.record.journal import Row
from asap_eval.statistics import paired
from asap_eval.work.macs import unpruned_macs
from asap_eval.work.rows import check_convention, macs_change


class Samples(Protocol):
    """What a run goes over, in a fixed order."""

    @property
    def ids(self) -> Sequence[str]:
        """One name each; seeds of random choices derive from it."""
        ...

    @property
    def digest(self) -> str:
        """Hash that changes with the samples and what is known of them (labels)."""
        ...

    @property
    def commits(self) -> Mapping[str, str]:
        """Commits of the hub's data sets that they are from, by their names."""
        ...

    def content(self) -> str:
        """Hash of what is stored of them (pixels), read from the disk whenever it is asked for."""
        ...

    def __len__(self) -> int: ...

    def calibration(self, count: int) -> tuple[Any, bool]:
        """At most ``count`` others to search a knob on, and whether none of them is in this set."""
        ...


@dataclass(frozen=True)
class Summary:
    """The blocks of a record that rows decide, as `RunRecord` describes them."""

    macs: Macs
    tokens: Tokens
    fired: Fired
    metrics: Metrics | None = None
    tasks: dict[str, dict[str, Any]] | None = None
    analysis: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None
    latency_ms: dict[str, dict[str, float]] | None = None
    memory_gb: dict[str, float] | None = None


S = TypeVar("S", bound=Samples)
B = TypeVar("B")


class Bench(ABC, Generic[S, B]):
    """Base of every benchmark; S is its samples, B one batch of them. ``loaded`` is a `LoadedModel`
    (or `LoadedVlm`), ``geometry`` what `geometry` makes of it.

    A row is one sample: ``id`` and ``error`` (None, or why it could not be read) are always there;
    where ``budget=macs`` is served so are ``model_macs``, ``attention_macs`` and ``method_macs``,
    and ``handed_to_llm`` where ``budget=tokens`` is.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    """One line for the list of benchmarks."""
    accuracy: ClassVar[bool] = True
    """Whether rows have ``correct``: then a method is paired with the unpruned model, which is run
    first, and the record has ``metrics``."""
    budgets: ClassVar[dict[str, str]] = {
        "tokens": "it counts tokens handed to a language model, and there is none here",
    }
    """Budgets this benchmark cannot meet, and why."""
    no_speed: ClassVar[str | None] = None
    """Why ``speed=true`` is refused; None where it is served."""
    no_training: ClassVar[str | None] = "it measures models as they are"
    """Why ``stage=train`` is refused; None where the benchmark trains a head (`runner.head`)."""

    vlm: ClassVar[bool] = False
    """Whether it takes vision-language models (`LoadedVlm`) in place of image models."""
    own_data: ClassVar[str | None] = None
    """What ``data`` is where it is left out; None where it has to be given."""
    strict: ClassVar[bool] = False
    """Whether the command line ends with an error where samples failed; the record is whole."""

    def adapted(self, loaded: Any) -> Any:
        """The model as this benchmark runs it: the given one, which must stay as it is."""
        return loaded

    @property
    def packages(self) -> Sequence[str]:
        """Packages that compute here, beside those of the model: their versions are in the key."""
        return ()

    @property
    def images_per_sample(self) -> int:
        """Images that go through the model for one sample; ``batch_size`` counts images."""
        return 1

    def geometry(self, loaded: Any) -> Any:
        """What of the model decides its work."""
        return geometry_of(loaded.model)

    def check_convention(self, loaded: Any, name: str) -> None:
        """Raise `BadValueError` where ``macs_convention=<name>`` cannot count this model."""
        check_convention(self.geometry(loaded), name)

    def acts_in(self, geometry: Any, method: type[Reducer]) -> Geometry:
        """What a method sees of the model: the part it acts in."""
        own: Geometry = geometry
        return own

    def unpruned_work(self, loaded: Any, geometry: Any, samples: S) -> str:
        """What the unpruned model would do, in a few words."""
        work = unpruned_macs(geometry) / 1e9
        whole = work * len(samples) * self.images_per_sample
        return f"{work:.3f} GMACs per image unpruned, {whole:.0f} GMACs in all"

    def plan(self, job: Job, spec: ModelSpec, reducer: Reducer) -> Plan:
        """What a plan says before anything is loaded; if something is missing, nothing will be."""
        return Plan()

    def ends(self, samples: S, batch_size: int) -> Sequence[int]:
        """Samples that are done after each whole batch but the last: an interrupted run goes on
        behind one of them."""
        size = self.samples_per_batch(batch_size)
        return range(size, len(samples) + 1, size)

    def samples_per_batch(self, batch_size: int) -> int:
        """Samples in one batch of `batches`: as many as fill it, and at least one."""
        return max(1, batch_size // self.images_per_sample)

    def check(self, loaded: Any) -> None:
        """Raise `BadValueError` where the options do not fit, with each other or the model."""

    def accepts(self, reducer: Reducer) -> None:
        """Raise `BadValueError` where this benchmark cannot measure a method."""

    def begin(self, stem: Path, done: int) -> None:
        """Called before the first batch: a file for what rows cannot hold is named ``stem`` and an
        ending of its own; ``done`` samples are in the per-sample file already (0 = a new run)."""

    def finish(self, rows: Sequence[Row], geometry: Any) -> str | None:
        """Called when all rows are there: puts away what `begin` spoke of.

        May be called again after a stop. Returns the name of the file for the record's ``arrays``.
        """
        return None

    @abstractmethod
    def open(self, data: str, loaded: Any, *, limit: int | None, sample: Any) -> S:
        """The samples of an address: the first ``limit``, or as many spread over all."""

    def notes(self, samples: S) -> Sequence[str]:
        """What a reader has to know of the samples, a line each: said, and kept in the record."""
        return ()

    @abstractmethod
    def batches(
        self,
        loaded: Any,
        samples: S,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
    ) -> Iterator[B]:
        """Batches in the order of the samples, from position ``start`` on."""

    @abstractmethod
    def evaluate(
        self, loaded: Any, reducer: Reducer, batches: Iterable[B], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Rows of one batch after the other; the method is in the model until it is closed."""

    def calibrating(
        self, loaded: Any, reducer: Reducer, batches: Iterable[B], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """`evaluate` while a knob is searched: rows need nothing but what `spent` reads."""
        return self.evaluate(loaded, reducer, batches, seed=seed)

    def spent(self, kind: str, rows: Sequence[Row], geometry: Any, convention: str) -> list[float]:
        """What a budget counts of each readable sample: ``macs`` = total change in percent as the
        convention has it, the method's own work included; ``tokens`` = tokens handed to the
        language model."""
        if kind == "macs":
            return macs_change(rows, geometry, convention)
        return [float(row["handed_to_llm"]) for row in rows if row["error"] is None]

    @abstractmethod
    def summarise(self, rows: Sequence[Row], geometry: Any, convention: str) -> Summary:
        """What the rows of all samples say together."""

    def compare(
        self,
        record: RunRecord,
        unpruned: RunRecord,
        rows: Sequence[Row],
        before: Sequence[Row],
    ) -> None:
        """Put into a record what it is beside the unpruned model's, from the rows of both."""
        whole = unpruned.metrics
        assert whole is not None
        record.baseline = Baseline(unpruned.key, whole.top1, whole.top5, whole.n, whole.failed)
        found = paired([row["correct"] for row in before], [row["correct"] for row in rows])
        record.paired = Paired(found.delta_top1, list(found.ci95), found.mcnemar_p)

    def speed(
        self,
        loaded: Any,
        reducer: Reducer,
        samples: S,
        *,
        batch_size: int,
        seed: int,
        rounds: int,
        progress: Callable[[], None],
    ) -> dict[str, Any]:
        """The ``speed`` block; never called where `no_speed` says why."""
        raise NotImplementedError


C = TypeVar("C", bound=type[Bench[Any, Any]])
_BENCHES: dict[str, type[Bench[Any, Any]]] = {}


def register(name: str, description: str) -> Callable[[C], C]:
    """Class decorator: the benchmark becomes ``bench=<name>`` everywhere."""

    def add(cls: C) -> C:
        if name in _BENCHES:
            raise AsapEvalError(f"Two benchmarks are called '{name}'.")
        cls.name, cls.description = name, description
        _BENCHES[name] = cls
        return cls

    return add


def benches() -> dict[str, type[Bench[Any, Any]]]:
    """All registered benchmarks by name."""
    return dict(sorted(_BENCHES.items()))


def bench_class(name: str) -> type[Bench[Any, Any]]:
    """The class of a benchmark; near names are suggested where there is none."""
    if name not in _BENCHES:
        raise unknown("benchmark", name, _BENCHES)
    return _BENCHES[name]


def build_bench(name: str, **params: Any) -> Bench[Any, Any]:
    """A benchmark from its name and its options, each checked against its type."""
    cls = bench_class(name)
    known = {option: hint for option, hint, _ in options(cls)}
    for option, value in params.items():
        if option not in known:
            raise unknown(f"option of benchmark '{name}'", option, known)
        params[option] = checked(f"{name}.{option}", value, known[option])
    return cls(**params)
