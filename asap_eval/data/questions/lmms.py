"""lmms-eval as a library: prompts and scorers of its own tasks, over documents that we read.

Its runner is not used: it keeps no journal, and its model for LLaVA takes every exception for an
empty answer. Nothing here needs a network: all scorers work by rules.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from PIL import Image

from asap_eval.data.questions.documents import Documents
from asap_eval.data.questions.tasks import Document, Task
from asap_eval.errors import DataError, UnsupportedModelError

VERSION = "0.7.3"

SUBMISSION = "submission"
"""Metric under which a task writes answers for a server to score; left out here."""


def check_lmms_eval() -> None:
    """Raise `UnsupportedModelError` where lmms-eval is missing, or another release than tried."""
    try:
        found = version("lmms-eval")
        importlib.import_module("lmms_eval.api.metrics")  # registers what tasks name
    except (PackageNotFoundError, ImportError) as error:
        raise UnsupportedModelError(
            f"bench=vlm needs lmms-eval {VERSION}, its tasks' prompts and scorers ({error}): "
            "pip install 'asap-eval[vlm]'."
        ) from error
    if found != VERSION:
        raise UnsupportedModelError(
            f"lmms-eval {found} is installed; prompts and scorers are those of {VERSION} here: "
            "pip install 'asap-eval[vlm]'."
        )


class LmmsTask(Protocol):
    """What is used of a task of lmms-eval, whose classes come without types."""

    @property
    def config(self) -> Any:
        """Its YAML file, as attributes."""
        ...

    def doc_to_text(self, doc: dict[str, Any]) -> str: ...

    def doc_to_visual(self, doc: dict[str, Any]) -> Sequence[Image.Image]: ...

    def process_results(self, doc: dict[str, Any], results: list[str]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Judge:
    """One task of lmms-eval.

    Attributes:
        task: as this package describes it. own: lmms-eval's object, without documents.
    """

    task: Task
    own: LmmsTask

    def prompt(self, document: Document) -> str:
        """The question as the model reads it, without a chat template."""
        return str(self.own.doc_to_text(dict(document)))

    def picture(self, document: Document, picture: Image.Image) -> Image.Image:
        """The picture as the task shows it.

        Raises:
            DataError: the task shows none or several.
        """
        shown = self.own.doc_to_visual({**document, "image": picture})
        if len(shown) != 1:
            raise DataError(f"task {self.task.name} shows {len(shown)} pictures; one is allowed")
        return shown[0]

    @cached_property
    def new_tokens(self) -> int:
        """Most tokens of an answer."""
        return int(self._generation.get("max_new_tokens") or self.task.new_tokens or 0)

    @cached_property
    def until(self) -> list[str]:
        """Texts at which an answer ends."""
        until = self._generation.get("until") or []
        return [until] if isinstance(until, str) else list(until)

    @property
    def _generation(self) -> Mapping[str, Any]:
        return self.own.config.generation_kwargs or {}

    def cut(self, text: str) -> str:
        """An answer up to the first text that ends it."""
        ends = [text.find(end) for end in self.until if end and end in text]
        return text[: min(ends)].strip() if ends else text

    def scored(self, document: Document, answer: str) -> dict[str, Any]:
        """What the task says of one answer, by metric: JSON, input of `Totals.aggregate`."""
        with _quiet():
            # A copy of all of it: TextVQA's scorer writes into the list of answers.
            found = self.own.process_results(copy.deepcopy(dict(document)), [answer])
        return {name: _plain(value) for name, value in found.items() if name != SUBMISSION}

    def wrong(self, document: Document) -> dict[str, Any]:
        """What `scored` gives a sample that got no answer: wrong, whatever the right one is."""
        return {name: _wrong(value) for name, value in self.scored(document, "").items()}

    def share(self, scored: Mapping[str, Any]) -> float:
        """How right an answer is, 0 to 1."""
        value = next(iter(scored.values()))
        if isinstance(value, dict):  # MMBench judges when it aggregates
            return float(value["score"] if "score" in value else _mmbench(value))
        return float(value)


def _wrong(value: Any) -> Any:
    if not isinstance(value, dict):
        return 0.0
    value = {**value, "score": 0.0}
    if "ground_truth" in value:
        # POPE's F1 leaves out what is neither yes nor no; a failed sample stays in it.
        value["prediction"] = "no" if value["ground_truth"] == "yes" else "yes"
    return value


def _mmbench(item: dict[str, Any]) -> int:
    """Whether one answer of MMBench is right, by the rules that its aggregation follows."""
    import pandas as pd
    from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

    answers = {item["index"]: item["answer"]}
    with _quiet():
        return int(mmbench_evaluator.eval_sub_data(pd.DataFrame([item]), answers, static_only=True))


@dataclass(frozen=True)
class Totals:
    """How a task of lmms-eval makes its numbers out of what `Judge.scored` says of all samples.

    Attributes:
        task: as this package describes it. functions: by metric, those for servers left out.
    """

    task: Task
    functions: Mapping[str, Any]

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """One metric, in the task's own unit."""
        function = self.functions[metric]
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            if "args" in inspect.signature(function).parameters:
                # MMBench writes what it counted; into ./submissions unless it is told where.
                return float(function(list(values), SimpleNamespace(output_path=folder)))
            return float(function(list(values)))


def _mean_of_scores(items: list[dict[str, Any]]) -> float:
    return statistics.fmean(item["score"] for item in items)


@lru_cache(maxsize=16)
def totals_of(task: Task) -> Totals:
    """A task's totals; errors as `judge_of`."""
    check_lmms_eval()
    from lmms_eval.api.registry import get_aggregation

    found = {entry["metric"]: entry["aggregation"] for entry in _config(task)["metric_list"]}
    if task.by_share:
        found = dict.fromkeys(found, _mean_of_scores)
    return Totals(
        task,
        {
            name: get_aggregation(made) if isinstance(made, str) else made
            for name, made in found.items()
            if name != SUBMISSION
        },
    )


def judge_of(documents: Documents) -> Judge:
    """A task of lmms-eval as it comes, prompts, bounds and scorers, over our documents.

    Raises:
        UnsupportedModelError: lmms-eval is missing or of another release.
    """
    check_lmms_eval()
    from lmms_eval.api.task import ConfigurableTask

    class WithOurDocuments(ConfigurableTask):
        """Replaces its own loading, which asks the hub: for GQA even where files are given."""

        def download(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {self.config.test_split: documents.without_pictures}
            self.dataset_no_image = self.dataset

    return Judge(documents.task, WithOurDocuments(config=_config(documents.task)))


def _config(task: Task) -> dict[str, Any]:
    """The task's YAML with its functions."""
    import lmms_eval
    from lmms_eval.api.task import eval_logger
    from lmms_eval.utils import load_yaml_config

    for name in ("lmms_eval", "utils", "en_utils"):  # as its YAML files name their modules
        eval_logger.disable(name)  # pages of debugging
    assert lmms_eval.__file__ is not None
    path = Path(lmms_eval.__file__).parent / "tasks" / task.file
    config: dict[str, Any] = load_yaml_config(str(path), mode="full")
    return config


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Scorers print tables of their own."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _plain(value: Any) -> Any:
    """A value as JSON has it; not-a-number becomes None, which pandas takes for the same."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
