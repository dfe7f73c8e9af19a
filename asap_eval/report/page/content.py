"""What stands on the page, gathered from records. How it looks, the template decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.data.named import short_name
from asap_eval.record import RunRecord
from asap_eval.report.layouts.overview import overview
from asap_eval.report.page.findings import findings
from asap_eval.report.page.headline import UNITS, Sentence, of_saliency
from asap_eval.report.page.paper import paper_sections
from asap_eval.report.page.provenance import Source, source_of
from asap_eval.report.page.section import Section, named
from asap_eval.report.pictures.figure import Figure
from asap_eval.report.pictures.keepmaps import KEEP_MAPS
from asap_eval.report.pictures.kinds import drawn

Kept = tuple[Path, RunRecord]
OWN = "One table for what may be compared."
OPEN = 3
"""Tables of the records above the fold, so that the pictures are not far below."""


@dataclass(frozen=True)
class Map:
    """One picture of the gallery.

    Attributes:
        title, caption, alt: what it shows, and in words. png: the file's bytes.
    """

    title: str
    png: bytes
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Page:
    """Everything on the page, in order.

    Attributes:
        facts: benchmark with model, and how many samples. run: name and text of when and on what.
        said: what stands out. own: the tables of all records.
        pictures: of the records. maps: the gallery.
        paper: what stands beside the paper; empty where no record is a row of its experiments.
        sources: of every record. problems: files that are no whole record.
    """

    facts: tuple[tuple[str, str], ...]
    run: tuple[tuple[str, str], ...]
    said: tuple[Sentence, ...]
    own: Section
    pictures: tuple[Figure, ...]
    maps: tuple[Map, ...]
    paper: tuple[Section, ...]
    sources: tuple[Source, ...]
    problems: tuple[str, ...]


def content(
    kept: Sequence[Kept],
    folder: Path,
    *,
    timing: Sequence[Mapping[str, Any]] = (),
    maps: Sequence[Map] = (),
    problems: Sequence[str] = (),
) -> Page:
    """The page of some records.

    Args:
        kept: at least one, with paths below ``folder``. timing: rows for the claim on clustering.
        maps, problems: shown as they are.
    """
    records = [record for _, record in kept]
    done = [record for record in records if record.status == "done"]
    tables = tuple(named("records", overview(records)))
    made, undrawn = drawn(kept)
    kept_maps = made.pop(KEEP_MAPS, [])
    return Page(
        facts=_data(records),
        run=_run(records),
        said=(*findings(records), *of_saliency(done)),
        own=Section("records", "Your records", OWN, tables, shown=OPEN),
        pictures=tuple(figure for found in made.values() for figure in found),
        maps=(*(Map(f.title, f.png, f.caption, f.alt) for f in kept_maps), *maps),
        paper=paper_sections(records, timing),
        sources=tuple(source_of(record, path.relative_to(folder)) for path, record in kept),
        problems=(*problems, *undrawn),
    )


def _run(records: Sequence[RunRecord]) -> tuple[tuple[str, str], ...]:
    status = {
        word: sum(r.status == word for r in records) for word in ("done", "failed", "running")
    }
    counts = [f"{n} {word}" for word, n in status.items() if n]
    machines = sorted({_machine(record) for record in records})
    started = sorted(record.provenance.started for record in records)
    torch = sorted({record.provenance.packages.get("torch", "") for record in records} - {""})
    facts = [
        ("records", ", ".join(counts)),
        ("run", " to ".join(dict.fromkeys((started[0][:10], started[-1][:10])))),
        ("machines", "; ".join(machines)),
        ("torch", ", ".join(torch)),
    ]
    return tuple((name, text) for name, text in facts if text)


def _data(records: Sequence[RunRecord]) -> tuple[tuple[str, str], ...]:
    """What each benchmark ran on: the data's name, and of several sets of it the largest."""
    sizes: dict[tuple[str, str, str], set[int]] = {}
    for record in records:
        about = record.provenance.data
        if record.status == "done":
            source = about.get("name") or short_name(about.get("source", record.job.data))
            at = (record.job.model, record.job.bench, source)
            sizes.setdefault(at, set()).add(int(about["n"]))
    return tuple(
        (
            f"{bench} on {model}",
            f"{'up to ' if len(n) > 1 else ''}{max(n)} {UNITS.get(bench, 'images')} of {source}",
        )
        for (model, bench, source), n in sorted(sizes.items())
    )


def _machine(record: RunRecord) -> str:
    about = record.provenance.machine
    parts = [about.get("gpu") or about.get("cpu"), about.get("cores") and f"{about['cores']} cores"]
    return ", ".join(str(part) for part in parts if part)
