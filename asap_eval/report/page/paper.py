"""What of the page stands beside the paper: nothing where no record is a row of its experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asap_eval.audit import audit
from asap_eval.experiment import Experiment, experiments, load
from asap_eval.paper import TABLES, paper_table
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import Found, on_models
from asap_eval.report.experiment.tables import experiment_frame, experiment_tables
from asap_eval.report.page.headline import Sentence, of_claims, of_table
from asap_eval.report.page.section import Section, named
from asap_eval.report.paper.audit import audit_sheet
from asap_eval.report.paper.claims import EVIDENCE, claims, verdicts
from asap_eval.report.paper.sheets import table_sheet
from asap_eval.report.sheet import Sheet


def paper_sections(
    records: Sequence[RunRecord], timing: Sequence[Mapping[str, Any]]
) -> tuple[Section, ...]:
    """Tables, claims and the audit, from records of trained models that the paper uses.

    Args:
        timing: rows for the claim on clustering.
    """
    every = {name: load(name) for name in experiments()}
    own = _of_the_paper(every, records)
    tables = {paper_table(name).experiment: paper_table(name) for name in TABLES}
    beside: list[Sheet] = []
    asked: list[Sheet] = []
    said: list[Sentence] = []
    for name, whole in every.items():
        found = [pair for pair in on_models(whole, own) if _ran(whole, pair[1])]
        if name in (EVIDENCE, "example") or not found:
            continue
        if name in tables:
            beside.append(table_sheet(tables[name], own))
        for experiment, rows in found:
            if name not in tables:
                sheets = _sheets(name, experiment, rows, own)
                (beside if experiment.about.paper else asked).extend(sheets)
            if experiment.compares:
                lines = experiment_frame(experiment, rows, own).to_dict("records")
                said += of_table(experiment.about.paper or name, lines)
    fared = [
        sentence
        for model in sorted({record.job.model for record in own})
        for sentence in of_claims(model, verdicts(model, own, timing))
    ]
    if not (beside or asked or fared):
        return ()
    sections = (
        Section(
            "paper",
            "Against the paper",
            "Published figures beside measured ones.",
            tuple(beside),
            said=tuple(said),
        ),
        Section(
            "claims",
            "Claims about the walk",
            "What the paper says of its random walk over attention, one verdict each.",
            named("claims", claims(own, timing)) if fared else (),
            said=tuple(fared),
        ),
        Section(
            "ours",
            "Our own questions",
            "What the paper does not ask, on the same images.",
            tuple(asked),
        ),
        Section(
            "audit",
            "The paper against itself",
            "Every derived figure recomputed, every figure printed twice compared.",
            (audit_sheet(audit()),),
            shown=0,
        ),
    )
    return tuple(section for section in sections if section.sheets)


def _of_the_paper(every: Mapping[str, Experiment], records: Sequence[RunRecord]) -> list[RunRecord]:
    """Records of the models in the paper's experiments, with trained weights."""
    models = {entry.model for each in every.values() if each.about.paper for entry in each.entries}
    return [
        record
        for record in records
        if record.job.model in models and record.provenance.weights.get("trained")
    ]


def _ran(experiment: Experiment, found: Sequence[Found]) -> bool:
    """Whether rows finished; the unpruned model alone counts where no row is of another method."""
    methods = {each.entry.method for each in found if each.record}
    return bool(methods - {"none"} or {e.method for e in experiment.entries} == methods)


def _sheets(
    name: str, experiment: Experiment, found: Sequence[Found], records: Sequence[RunRecord]
) -> tuple[Sheet, ...]:
    here = [
        r for r in records if any(f.record and f.record.job.model == r.job.model for f in found)
    ]
    return named(name, experiment_tables(experiment, found, here))
