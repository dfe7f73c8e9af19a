"""What stands on the page, gathered from records. How it looks, the template decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asap_eval.audit import audit
from asap_eval.data.named import short_name
from asap_eval.experiment import Experiment, experiments, load
from asap_eval.paper import TABLES, paper_table
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import Found, on_models
from asap_eval.report.experiment.tables import experiment_frame, experiment_tables
from asap_eval.report.layouts.overview import overview
from asap_eval.report.page.headline import UNITS, Sentence, of_claims, of_saliency, of_table
from asap_eval.report.page.provenance import Source, source_of
from asap_eval.report.paper.audit import audit_sheet
from asap_eval.report.paper.claims import EVIDENCE, claims, verdicts
from asap_eval.report.paper.sheets import table_sheet
from asap_eval.report.pictures.figure import Figure
from asap_eval.report.pictures.keepmaps import KEEP_MAPS
from asap_eval.report.pictures.kinds import drawn
from asap_eval.report.sheet import Sheet

Kept = tuple[Path, RunRecord]


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
class Section:
    """Tables under one heading, open at once or behind a fold."""

    name: str
    title: str
    lead: str
    sheets: tuple[Sheet, ...]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """Everything on the page, in order.

    Attributes:
        facts: benchmark with model, and how many samples. run: name and text of when and on what.
        said: the headline. sections: tables.
        pictures: of the records. maps: the gallery. sources: of every record. problems: files that
            are no whole record.
    """

    facts: tuple[tuple[str, str], ...]
    run: tuple[tuple[str, str], ...]
    said: tuple[Sentence, ...]
    sections: tuple[Section, ...]
    pictures: tuple[Figure, ...]
    maps: tuple[Map, ...]
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
    said: list[Sentence] = []
    tables = {paper_table(name).experiment: paper_table(name) for name in TABLES}
    paper = [table_sheet(table, records) for table in tables.values()]
    ours: list[Sheet] = []
    for name in _experiments():
        for experiment, found in on_models(load(name), records):
            if name not in tables:
                sheets = _sheets(name, experiment, found, records)
                (paper if experiment.about.paper else ours).extend(sheets)
            if experiment.compares:
                lines = experiment_frame(experiment, found, records).to_dict("records")
                said += of_table(experiment.about.paper or name, lines)
    models = sorted({record.job.model for record in records})
    for model in models:
        said += of_claims(model, verdicts(model, records, timing))
    said += of_saliency(done)
    judged = _named("claims", claims(records, timing))
    ran = [sheet for sheet in paper if any(line.commands for line in sheet.rows)]
    left = [sheet for sheet in paper if sheet not in ran]
    every = _named("records", overview(records))
    sections = (
        Section(
            "paper", "Against the paper", "Published figures beside measured ones.", tuple(ran)
        ),
        Section(
            "claims",
            "Claims about the walk",
            "What the paper says of its random walk over attention, one verdict each.",
            tuple(judged),
        ),
        Section(
            "ours",
            "Our own questions",
            "What the paper does not ask, on the same images.",
            tuple(ours),
        ),
        Section(
            "audit",
            "The paper against itself",
            "Every derived figure recomputed, every figure printed twice compared.",
            (audit_sheet(audit()),),
            True,
        ),
        Section(
            "open",
            "The paper's other tables",
            "Nothing of these was run here: published figures alone.",
            tuple(left),
            True,
        ),
        Section(
            "records", "All records", "One table for what may be compared.", tuple(every), True
        ),
    )
    made, undrawn = drawn(kept)
    kept_maps = made.pop(KEEP_MAPS, [])
    return Page(
        facts=_data(records),
        run=_run(records),
        said=tuple(said),
        sections=tuple(section for section in sections if section.sheets),
        pictures=tuple(figure for found in made.values() for figure in found),
        maps=(*(Map(f.title, f.png, f.caption, f.alt) for f in kept_maps), *maps),
        sources=tuple(source_of(record, path.relative_to(folder)) for path, record in kept),
        problems=(*problems, *undrawn),
    )


def _experiments() -> list[str]:
    """Those with tables of their own."""
    return [name for name in experiments() if name not in (EVIDENCE, "example")]


def _sheets(
    name: str, experiment: Experiment, found: Sequence[Found], records: Sequence[RunRecord]
) -> list[Sheet]:
    here = [
        r for r in records if any(f.record and f.record.job.model == r.job.model for f in found)
    ]
    return _named(name, experiment_tables(experiment, found, here))


def _named(name: str, sheets: Sequence[Sheet]) -> list[Sheet]:
    """Sheets with a name of their own on the page."""
    return [replace(sheet, name=f"{name}-{at}") for at, sheet in enumerate(sheets, 1)]


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
