"""Layout of ``bench=latency``: times by phase beside the unpruned model's, work, memory."""

from __future__ import annotations

from dataclasses import replace

from asap_eval.report.layouts.columns import (
    CHANGE,
    FIRED,
    GMACS,
    IDEAL,
    LLM_COST,
    METHOD,
    SAMPLES,
    SETTINGS,
    Column,
    Row,
    number,
    part,
    present,
    speedup,
)
from asap_eval.report.sheet import DASH


def _published(form: str, name: str) -> Column:
    """A figure of the paper; only an experiment's rows have one."""
    unit = {"tokens": "tokens", "tflops": "T", "memory_gb": "GB"}.get(name, name.replace("_", " "))
    return Column(
        f"published {unit}",
        lambda row: number(row.get(f"published_{name}"), form),
        wide=True,
    )


def _both(phase: str) -> Column:
    """Median of the unpruned model and of the method."""

    def cell(row: Row) -> str:
        plain = part(row, "analysis").get("unpruned_ms")
        if plain is None or not present(row[f"{phase}_ms"]):
            return DASH
        return f"{plain[phase]['median']:.1f} / {row[f'{phase}_ms']:.1f}"

    return Column(f"{phase} ms: unpruned / method", cell)


def _new_tokens(row: Row) -> str:
    return number(part(row, "analysis").get("new_tokens_mean"), "{:.1f}")


def _operations(row: Row) -> str:
    """2 x MACs of what ran to the first logits, and of that the method's own."""
    if not present(row["mean_g"]):
        return DASH
    own = row["method_g"]
    return f"{2 * (row['mean_g'] + own) / 1e3:.3g} ({2 * own / 1e3:.2g})"


def _memory(row: Row) -> str:
    plain = part(row, "analysis").get("unpruned_memory_gb", {})
    if not present(row["answer_gb"]) or "answer" not in plain:
        return DASH
    return f"{row['weights_gb']:.3g} + {plain['answer']:.3g} / {row['answer_gb']:.3g}"


def _comparable(row: Row) -> str:
    why = row.get("published_not_comparable")
    return f"not comparable: {why}" if present(why) else DASH


LATENCY = [
    Column("row of the paper", lambda row: row.get("published_row") or DASH, "text", wide=True),
    METHOD,
    replace(SETTINGS, kind="number", measured=False),  # the two columns before it name a row
    SAMPLES,
    Column("verdict", _comparable, "verdict", wide=True),
    *LLM_COST,
    _published("{:g}", "tokens"),
    FIRED,
    replace(_both("encode"), wide=True),
    _both("prefill"),
    _published("{:g}", "prefill_ms"),
    speedup("prefill speed-up", "speedup"),
    IDEAL,
    _both("answer"),
    _published("{:g}", "answer_ms"),
    speedup("answer speed-up", "answer_speedup"),
    Column("tokens generated", _new_tokens, wide=True),
    GMACS,
    CHANGE,
    Column("operations T, of them the method's", _operations, wide=True),
    _published("{:g}", "tflops"),
    Column("GB: weights + peak of the answer, unpruned / method", _memory, wide=True),
    _published("{:g}", "memory_gb"),
]
