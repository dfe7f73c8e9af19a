"""Lines of an experiment's table: a row of the frame, what was published for it, the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asap_eval.experiment import Entry, Published
from asap_eval.report.experiment.match import Found
from asap_eval.report.experiment.verdict import JUDGED, NOT_COMPARABLE, unlike, verdict, word_of
from asap_eval.report.layouts.columns import Row, part, present

MARK = "†"
"""Mark of a verdict on other images than the published figure's."""

MEANS = (
    *("top1", "top5", "delta_top1", "delta_low", "delta_high"),
    *("mean_g", "method_g", "reduction_pct", "reduction_model_pct", "budget_evaluated"),
    *("paper_pct", "paper_model_pct", "video_g", "video_method_g"),
    *("kept_mean", "layer_mean", "fired_mean"),
    *("fused_img_s", "matched_img_s", "method_img_s", "speedup", "share_of_ideal"),
    *("fused_videos_s", "matched_videos_s", "method_videos_s", "decode_frames_s"),
    *("fused_decoded_s", "matched_decoded_s", "method_decoded_s"),
)
"""Columns that are averaged over seeds."""

FACTS = (
    *("row", "baseline", "acc", "change", "macs", "throughput", "gmacs", "img_s"),
    *("tokens", "prefill_ms", "answer_ms", "tflops", "memory_gb", "not_comparable"),
)


def line_of(
    found: Sequence[Found], rows: Mapping[str, Row], samples: int | None, blank: Row
) -> Row:
    """One line: the mean over its seeds, with the published facts beside it.

    Args:
        found: entries that differ in their seed alone. rows: of the frame, by the record's key.
        samples: images behind the published figures. blank: a row of the frame without values.
    """
    ran = [f for f in found if f.record is not None]
    entry = found[0].entry
    row = over_seeds([rows[f.record.key] for f in ran if f.record] or [asked(entry, blank)])
    row |= {"line": entry.line, "seeds": len(ran), "seeds_asked": len(found)} | facts(
        entry.published
    )
    row["difference"] = _difference(entry, row)
    row["other_images"] = any(_other_images(f, samples) for f in ran)
    row["verdict"] = judged(entry, row, samples) if ran else found[0].verdict
    return row


def over_seeds(rows: Sequence[Row]) -> Row:
    """The first of some rows with means in place of its measured values, and their spread."""
    row = dict(rows[0])
    for name in ("top1", "delta_top1"):
        values = [r[name] for r in rows if present(r[name])] if len(rows) > 1 else []
        row[f"{name}_least"] = min(values, default=None)
        row[f"{name}_most"] = max(values, default=None)
    if len(rows) == 1:
        return row
    for name in MEANS:
        values = [r[name] for r in rows if present(r[name])]
        row[name] = sum(values) / len(values) if values else None
    # A knob that was found anew for every seed is no single number.
    row["k"] = row["k"] if len({str(r["k"]) for r in rows}) == 1 else None
    row["mcnemar_p"] = row["budget_low"] = row["budget_high"] = None
    row["counted"] = _counted(rows)
    row["failed"] = max(r["failed"] or 0 for r in rows)
    row["below_random"] = bool(present(row["random_top1"]) and row["top1"] < row["random_top1"])
    row["below_random"] &= row["method"] != "random"
    return row


def _counted(rows: Sequence[Row]) -> str | None:
    """What the method counted in all of these rows together."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, more in part(row, "counted").items():
            before = found.get(name, {})
            sums = {key: before.get(key, 0) + more[key] for key in ("total", "samples", "of")}
            found[name] = more | sums
    return json.dumps(found) if found else None


def asked(entry: Entry, blank: Row) -> Row:
    """What a row that did not run was to be."""
    given = {key: value for key, value in entry.overrides.items() if key.startswith("method.")}
    k = entry.overrides.get("k")
    if isinstance(k, str):  # a word, an option like any other
        given, k = {"method.k": k, **given}, None
    return {
        **blank,
        "method": entry.method,
        "k": k,
        "options": json.dumps({key.partition(".")[2]: value for key, value in given.items()}),
        "seed": 0,
        "budget": entry.overrides.get("budget"),
        "target": entry.overrides.get("target"),
        "status": "done",
        "below_random": False,
    }


def facts(published: Published | None) -> Row:
    """Columns ``published_<fact>``."""
    return {f"published_{name}": getattr(published, name, None) for name in FACTS}


def judged(entry: Entry, row: Row, samples: int | None) -> str | None:
    """The verdict of a line that ran; None where nothing was published to compare.

    Args:
        samples: images behind the published figures.
    """
    published = entry.published
    if published is not None and row["model"] != entry.model:
        return f"{NOT_COMPARABLE}: published for {entry.model}"
    if published is None or published.change is None or not present(row["delta_low"]):
        return None
    found = verdict(
        published,
        delta=row["delta_top1"],
        low=row["delta_low"],
        high=row["delta_high"],
        macs=row["reduction_pct"] if present(row["reduction_pct"]) else None,
        n=row["n"],
        samples=samples,
    )
    marked = row["other_images"] and word_of(found) in JUDGED
    return f"{found} {MARK}" if marked else found


def images_note(found: Iterable[Found], samples: int | None) -> str | None:
    """Which images a table stands on, where they are not those of the published figures."""
    for f in found:
        if f.record and f.record.metrics and _other_images(f, samples):
            parts = [f"{MARK} on {f.record.metrics.n} images"]
            if samples:
                parts.append(f"the published figures are on {samples}")
            whole, before = f.record.baseline, f.entry.published and f.entry.published.baseline
            if whole and whole.top1 is not None and before:
                parts.append(
                    f"the unpruned model reaches {whole.top1:.2f} % here, {before:.2f} % there"
                )
            return "; ".join(parts) + ". Differences are compared, accuracies are not."
    return None


def _other_images(found: Found, samples: int | None) -> bool:
    """Whether a record's images are a part of the published ones, or seem to be others."""
    record, published = found.record, found.entry.published
    if record is None or record.metrics is None or published is None:
        return False
    if record.job.model != found.entry.model:
        return False
    if samples is not None and record.metrics.n != samples:
        return True
    if record.baseline is None or record.baseline.top1 is None or published.baseline is None:
        return False
    return unlike(record.baseline.top1, published.baseline, record.metrics.n)


def _difference(entry: Entry, row: Row) -> float | None:
    change = entry.published.change if entry.published else None
    if change is None or not present(row["delta_top1"]) or row["model"] != entry.model:
        return None
    return float(row["delta_top1"] - change)
