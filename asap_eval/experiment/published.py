"""What a paper prints in one row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from asap_eval.errors import BadValueError, unknown
from asap_eval.paper import paper_table
from asap_eval.paper.columns import TASKS

ROUNDING = 0.011
"""Points by which a printed difference may miss that of the two printed accuracies."""


@dataclass(frozen=True)
class Published:
    """Facts of one published row; whatever the paper does not print stays None.

    Attributes:
        row: the row's name in the paper. table, section: where it stands there (`asap_eval.paper`),
            for rows whose figures are cited; None where the figures are given.
        baseline, acc: top-1 in percent of the unpruned model and of the row.
        delta: their difference in points.
        macs, throughput: change in percent.
        gmacs: work. img_s: images per second.
        tokens: handed to the language model.
        prefill_ms, answer_ms: latency. tflops: operations (2 x MACs) in T. memory_gb: of the GPU.
        tasks: score by the name of a vision-language task. avg: their printed mean. rel: that
            mean as a percentage of the unpruned model's, as printed.
        not_comparable: why no verdict is possible, where none is.
    """

    row: str | None = None
    baseline: float | None = None
    acc: float | None = None
    delta: float | None = None
    macs: float | None = None
    throughput: float | None = None
    gmacs: float | None = None
    img_s: float | None = None
    tokens: float | None = None
    prefill_ms: float | None = None
    answer_ms: float | None = None
    tflops: float | None = None
    memory_gb: float | None = None
    tasks: dict[str, float] = field(default_factory=dict)
    avg: float | None = None
    rel: float | None = None
    not_comparable: str | None = None
    table: str | None = None
    section: str | None = None

    @property
    def change(self) -> float | None:
        """The difference to the unpruned model: as printed, or of the two printed accuracies."""
        if self.delta is None and self.acc is not None and self.baseline is not None:
            return round(self.acc - self.baseline, 2)
        return self.delta


TEXTS = ("row", "not_comparable", "table", "section")

CITED = {
    "baseline_acc": "baseline",
    "acc": "acc",
    "acc_delta": "delta",
    "flops_delta_pct": "macs",
    "throughput_delta_pct": "throughput",
    "flops_g": "gmacs",
    "throughput_img_s": "img_s",
    "tokens": "tokens",
    "avg": "avg",
    "rel_pct": "rel",
    "avg_rel_pct": "rel",
}
"""Name here of a column of the paper's tables."""


def published_from(value: Any, where: str) -> Published:
    """The facts under ``published:`` of a row.

    Raises:
        AsapEvalError: an unknown key, a value of the wrong type, or figures that contradict.
    """
    if not isinstance(value, Mapping) or not value:
        raise BadValueError(f"{where}: published={value!r}: give what the paper prints, by name.")
    value = _with_cited(value, where)
    known = [fact.name for fact in fields(Published)]
    for name, fact in value.items():
        if name not in known:
            raise unknown(f"published figure of {where}", str(name), known)
        kind, right = _kind(str(name), fact)
        if not right:
            raise BadValueError(f"{where}: published.{name}={fact!r}: give {kind}.")
    given: dict[str, Any] = {n: _converted(v) for n, v in value.items()}
    found = Published(**given)
    if found.delta is not None and found.acc is not None and found.baseline is not None:
        apart = found.acc - found.baseline
        if abs(apart - found.delta) > ROUNDING:
            raise BadValueError(
                f"{where}: published acc - baseline = {apart:+.2f}, but delta={found.delta:+.2f}: "
                "correct the one that was copied wrongly; if the paper itself contradicts, leave "
                "delta out."
            )
    return found


def _with_cited(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """With ``table`` (and ``section``, ``row``): that row's figures, beside what else is given.

    Raises:
        AsapEvalError: the paper has no such row, or a figure is given that it prints itself.
    """
    if "table" not in value:
        return value
    table = paper_table(str(value["table"]))
    cited = table.row(str(value.get("row")), value.get("section"))
    figures: dict[str, Any] = {
        name: figure
        for column, name in CITED.items()
        if (figure := cited.value(column)) is not None
    }
    if twice := [name for name in figures if name in value]:
        raise BadValueError(
            f"{where}: published.{twice[0]} stands in the row that table={table.name} cites: drop "
            "it here."
        )
    # Two columns may mean one task, of which a table has one.
    tasks = [(name, cited.value(column)) for column, name in TASKS.items()]
    if scores := {name: score for name, score in tasks if score is not None}:
        figures["tasks"] = scores
    return {**value, **figures, "table": table.name, "section": cited.section}


def _kind(name: str, fact: Any) -> tuple[str, bool]:
    """What a figure has to be, and whether it is."""
    if name in TEXTS:
        return "text", isinstance(fact, str)
    if name == "tasks":
        right = isinstance(fact, Mapping) and all(map(_is_number, fact.values()))
        return "{task: number}", bool(fact) and right
    return "a number", _is_number(fact)


def _converted(fact: Any) -> Any:
    if isinstance(fact, Mapping):
        return {str(task): float(score) for task, score in fact.items()}
    return fact if isinstance(fact, str) else float(fact)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
