"""The contract between a benchmark and the runner, and the registry of benchmarks.

A benchmark is a dataclass of options, in a file or folder of its own: it opens samples, measures
them batch by batch into rows, and says what all rows mean together. Three bases know more:
`ImageModelBench` (image_model_bench.py) takes image models, `ImageBench` (image_bench.py) measures
them image by image, `QuestionBench` (language/question_bench.py) asks vision-language models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from torch import nn

from asap_eval.bench.plan import Plan
from asap_eval.data.decoded import PictureCache
from asap_eval.data.subset import Sample
from asap_eval.errors import unknown
from asap_eval.hosts import Geometry
from asap_eval.method import Reducer
from asap_eval.models import ModelSpec, WeightsInfo
from asap_eval.options import checked, options
from asap_eval.record import (
    Baseline,
    Budget,
    Fired,
    Job,
    Macs,
    Metrics,
    Paired,
    Quantity,
    RunRecord,
    Tokens,
)
from asap_eval.record.journal import Row, Rows
from asap_eval.registry import BENCHES
from asap_eval.statistics import paired


class Loaded(Protocol):
    """What a run reads of a model of any kind: a `LoadedModel` or a `LoadedVlm`."""

    @property
    def model(self) -> nn.Module:
        """Where methods are installed."""
        ...

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> dict[str, Any]:
        """What else than its name says which model this is."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """What it was built from."""
        ...

    @property
    def weights(self) -> WeightsInfo: ...

    @property
    def placement(self) -> Mapping[str, Any]:
        """Where its parts lie, for a record's machine; {} = on one device."""
        ...


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

    def check(self, start: int, stop: int) -> None:
        """Raise `DataError` where samples ``start`` to ``stop`` are others than those that a
        listing is of (`asap_eval.data.listed`)."""
        ...

    def __len__(self) -> int: ...

    def calibration(self, count: int) -> tuple[Samples, bool]:
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


M = TypeVar("M", bound=Loaded)
G = TypeVar("G")
S = TypeVar("S", bound=Samples)
B = TypeVar("B")


class Bench(ABC, Generic[M, G, S, B]):
    """Base of every benchmark, by what it takes.

    M is the loaded model (`LoadedModel`, `LoadedVlm`), G what decides the work of one (`Geometry`,
    `LlavaGeometry`), S the samples and B one batch of them.

    A row is one sample: ``id`` and ``error`` (None, or why it could not be read) are always there;
    where ``budget=macs`` is served so are ``model_macs``, ``attention_macs`` and ``method_macs``,
    ``handed_to_llm`` and ``llm_layer_mean`` where ``budget=tokens`` is.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    """One line for the list of benchmarks."""
    accuracy: ClassVar[bool] = True
    """Whether rows have ``correct``: then a method is paired with the unpruned model, which is run
    first, and the record has ``metrics``."""
    budgets: ClassVar[Mapping[str, str]] = {}
    """Kinds of budget that this benchmark cannot meet, and why."""
    no_speed: ClassVar[str | None] = "it measures no speed"
    """Why ``speed=true`` is refused; None where it is served."""
    no_training: ClassVar[str | None] = "it measures models as they are"
    """Why ``stage=train`` is refused; None where the benchmark trains a head (`train.head`)."""
    vlm: ClassVar[bool] = False
    """Whether it takes vision-language models in place of image models."""
    images: ClassVar[Literal["labelled", "any"] | None] = None
    """Which images it goes over: those with a class of the model each, which a file may say
    (``labels``, `open_flat`), or any; None = it takes other samples. ImageNet serves both where
    ``data`` is left out."""
    own_data: ClassVar[str | None] = None
    """What ``data`` is where it is left out; None where it has to be given."""
    no_pieces: ClassVar[str | None] = None
    """Why its samples are not spread over workers: one of them then does them all. None where they
    are."""
    piece: ClassVar[int] = 64
    """Samples that a worker takes at once, where ``launch.piece`` says nothing; about a minute."""
    writes: ClassVar[bool] = False
    """Whether it writes files of its own beside the record (`begin`)."""
    strict: ClassVar[bool] = False
    """Whether the command line ends with an error where samples failed; the record is whole."""

    # Before anything is loaded.

    @property
    def packages(self) -> Sequence[str]:
        """Packages that compute here, beside those of the model: their versions are in the key."""
        return ()

    def accepts(self, reducer: Reducer) -> None:
        """Raise `BadValueError` where this benchmark cannot measure a method."""

    def check_budget(self, budget: Budget, spec: ModelSpec, method: type[Reducer]) -> None:
        """Raise `UnreachableError` where no setting of a method can meet a budget on a model."""

    def plan(self, job: Job, spec: ModelSpec, reducer: Reducer) -> Plan:
        """What can be said of a run; if this machine lacks something, nothing is loaded."""
        return Plan()

    # The model.

    def adapted(self, loaded: M) -> M:
        """The model as this benchmark runs it: the given one, which must stay as it is."""
        return loaded

    def check(self, loaded: M) -> None:
        """Raise `BadValueError` where the options do not fit, with each other or the model."""

    @abstractmethod
    def geometry(self, loaded: M) -> G:
        """What of the model decides its work."""

    @abstractmethod
    def acts_in(self, geometry: G, method: type[Reducer]) -> Geometry:
        """The part of the model that a method acts in."""

    @abstractmethod
    def check_convention(self, loaded: M, name: str) -> None:
        """Raise `BadValueError` where ``macs_convention=<name>`` cannot count this model."""

    # The samples.

    def look(self, data: str, labels: str | None) -> None:
        """Raise where the files that options name, or samples at an address, are surely not there.

        Asked before the model is loaded: nothing is fetched, and no folder is listed that may be
        large. `open` says the rest.
        """

    @abstractmethod
    def open(self, data: str, loaded: M, *, limit: int | None, sample: Sample) -> S:
        """The samples of an address: the first ``limit``, or as many spread over all."""

    def open_flat(
        self, data: str, labels: str, loaded: M, *, limit: int | None, sample: Sample
    ) -> S:
        """`open` for images that lie flat, with the file of their classes; called where `images` is
        "labelled"."""
        raise AssertionError(f"bench={self.name} reads no labels from a file")

    def notes(self, samples: S) -> Sequence[str]:
        """What a reader has to know of the samples, a line each: said, and kept in the record."""
        return ()

    def keeping(self, samples: S, cache: PictureCache) -> S:
        """The same samples, whose decoded pictures are kept if this benchmark can."""
        return samples

    @abstractmethod
    def unpruned_work(self, loaded: M, geometry: G, samples: S) -> str:
        """What the samples cost without a method, in a few words for a plan."""

    @property
    def images_per_sample(self) -> int:
        """Images that go through the model for one sample; ``batch_size`` counts images."""
        return 1

    def samples_per_batch(self, batch_size: int) -> int:
        """Samples in one batch of `batches`: as many as fill it, and at least one."""
        return max(1, batch_size // self.images_per_sample)

    def ends(self, samples: S, batch_size: int) -> Sequence[int]:
        """Where whole batches end, as the number of samples done by then.

        An interrupted run goes on after the last of these ends that it reached.
        """
        size = self.samples_per_batch(batch_size)
        return range(size, len(samples) + 1, size)

    @abstractmethod
    def batches(
        self,
        loaded: M,
        samples: S,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[B]:
        """Batches in the order of the samples, from position ``start`` up to ``stop``.

        Both are ends of batches (`ends`), 0 or the number of samples, so that the batches are those
        of the whole run; ``stop=None`` is the end.
        """

    # The run.

    def begin(self, stem: Path, done: int, piece: Path | None = None) -> None:
        """Called before the first batch, so that a benchmark can open a file of its own.

        Such a file holds what is too large for rows.

        Args:
            stem: path of that file; the benchmark adds an ending. done: samples whose rows are
                written already, 0 = a new run. piece: in place of ``stem`` for what is measured of
                a piece of the run; ``done`` is then of the piece.
        """

    def gather(self, stem: Path, pieces: Sequence[tuple[Path, int]]) -> None:
        """Called in place of `begin` where all rows are there, in pieces; `finish` comes next.

        What was kept of each piece is brought together, to the bytes that one process would have
        written. The pieces' files stay: this may be called again.

        Args:
            stem: of the whole. pieces: path that `begin` had of each, and its samples, in order.
        """

    @abstractmethod
    def evaluate(
        self, loaded: M, reducer: Reducer, batches: Iterable[B], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Rows of one batch after the other; the method is in the model until it is closed."""

    def calibrating(
        self, loaded: M, reducer: Reducer, batches: Iterable[B], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """`evaluate` while a knob is searched: rows need nothing but what `spent` reads."""
        return self.evaluate(loaded, reducer, batches, seed=seed)

    @abstractmethod
    def spent(self, quantity: Quantity, rows: Rows, geometry: G, convention: str) -> list[float]:
        """What a budget counts, for each readable sample.

        Args:
            quantity: ``macs``: the change of all MACs in percent, the method's own work included,
                as the convention counts them. Of image tokens in the language model: those
                ``handed`` to its first layer, or their ``layer_mean``.
        """

    def finish(self, rows: Rows, geometry: G) -> str | None:
        """Called with the rows of all samples: complete the file that `begin` opened.

        Called once more where a run stopped before its record was written.

        Returns:
            The file's name, for the record's ``arrays``; None = there is no file.
        """
        return None

    @abstractmethod
    def summarise(self, rows: Rows, geometry: G, convention: str) -> Summary:
        """What the rows of all samples say together."""

    def compare(
        self,
        record: RunRecord,
        unpruned: RunRecord,
        rows: Rows,
        before: Rows,
    ) -> None:
        """Put into a record what it is beside the unpruned model's, from the rows of both."""
        whole = unpruned.metrics
        assert whole is not None
        record.baseline = Baseline(unpruned.key, whole.top1, whole.top5, whole.n, whole.failed)
        found = paired([row["correct"] for row in before], [row["correct"] for row in rows])
        record.paired = Paired(found.delta_top1, list(found.ci95), found.mcnemar_p)

    def speed(
        self,
        loaded: M,
        reducer: Reducer,
        samples: S,
        *,
        batch_size: int,
        seed: int,
        rounds: int,
        progress: Callable[[], None],
    ) -> dict[str, Any]:
        """The ``speed`` block; called where `no_speed` is None."""
        raise AssertionError(f"bench={self.name} has no speed, and no_speed does not say why")


AnyBench = Bench[Any, Any, Any, Any]
"""A benchmark that was asked for by its name, which says nothing of its types. The runner hands a
benchmark only what the same benchmark gave; this is the one place where types are erased."""

C = TypeVar("C", bound=type[AnyBench])


def register(name: str, description: str) -> Callable[[C], C]:
    """Class decorator: the benchmark becomes ``bench=<name>`` everywhere."""

    def add(cls: C) -> C:
        BENCHES.add(name, cls)
        cls.name, cls.description = name, description
        return cls

    return add


def benches() -> dict[str, type[AnyBench]]:
    """All benchmarks by name."""
    return BENCHES.all()


def bench_class(name: str) -> type[AnyBench]:
    """The class of a benchmark; near names are suggested where there is none."""
    return BENCHES.get(name)


def build_bench(name: str, **params: Any) -> AnyBench:
    """A benchmark from its name and its options, each checked against its type."""
    cls = bench_class(name)
    known = {option: hint for option, hint, _ in options(cls)}
    for option, value in params.items():
        if option not in known:
            raise unknown(f"option of benchmark '{name}'", option, known)
        params[option] = checked(f"{name}.{option}", value, known[option])
    return cls(**params)
