"""The audit finds every inconsistency that is known of the paper, and by the right figures."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

import asap_eval
from asap_eval.audit import Check, Finding, arithmetic, audit, crossings, ledger, work
from asap_eval.hosts import geometry_of
from asap_eval.paper import paper_table
from asap_eval.report.paper.audit import audit_sheet
from asap_eval.work.macs import macs_of, model_macs

pytest.importorskip("transformers")

KNOWN = [
    # table, row, column, recomputed: shares and accuracies that do not follow from their cells
    ("Table 5", "64 tokens: ToMe", "rel_pct", "68.6"),
    ("Table 5", "64 tokens: FastV", "rel_pct", "68.9"),
    ("Table 5", "64 tokens: SparseVLM", "rel_pct", "83.7"),
    ("Table 5", "64 tokens: ToMe", "avg", "49.74"),
    ("Table 5", "64 tokens: ASAP (Ours) + Hybrid", "avg", "70.52"),
    ("Table 10", "+ ASAP + VisPruner (ASAP Hybrid)", "avg", "70.52"),
    ("Table 5", "64 tokens: VisionZip", "rel_pct", "93.3"),
    ("Table 10", "Only Pooling", "rel_pct", "99.6"),
    ("Table 10", "+ VisPruner", "avg", "69.23"),
    ("Table 10", "+ VisPruner (Diffusion Dist)", "avg", "69.96"),
    ("Table 11", "Random", "avg_rel_pct", "87.6"),
    ("Table 11", "PCA Center", "avg_rel_pct", "87.6"),
    ("Table 11", "Attention Sink (Ours)", "avg_rel_pct", "93.6"),
    # work
    ("Table 1", "DeiT-Base: Ours (pool.)", "flops_delta_pct", "-35.4 to -34.8"),
    ("Table 1", "DeiT-Tiny: ToMe, PPT, Ours", "flops_delta_pct", "-40.2 to -32.2"),
    ("Table 3", "ClipViT-Large: ToMe", "flops_delta_pct", "-34.08"),
    ("Table 3", "ClipViT-Large: Ours (pool.)", "flops_delta_pct", "-35.24"),
    ("Table 7", "ClipViT-L: ClipViT-L", "flops_g", "191.0"),
    ("Table 7", "ClipViT-L: + Lazy Random Walk", "flops_g", "195.6 (+4.61)"),
    ("Table 9", "+ Lazy Random Walk (All layers)", "flops_t", "+0.046"),
    ("Table 1", "DeiT-Base: Ours (prun.)", "flops_delta_pct", "-32.95"),
    ("Table 1", "DeiT-Base: Ours (pool.)", "flops_delta_pct", "-32.95"),
    ("Table 1", "DeiT-Base: Ours (w/o accumulation)", "flops_delta_pct", "-32.95"),
    ("Figure 6", "DeiT-Base: FLOPs at the default point", "flops_delta_pct", "-32.95"),
    # figures printed twice
    ("Table 4", "VisionZip", "pope_acc", "77.1"),
    ("Table 9", "LLaVA-NeXT", "cuda_ms", "268"),
    ("Table 9", "+ ASAP Stage 2", "cuda_ms", "78"),
    ("Appendix E.2", "LLaVA-1.5: PruneSID at 64 tokens on POPE", "pope", "84.1"),
    ("Appendix J", "DeiT-Base: alpha 0.5", "throughput_img_s", "1788"),
    # what others published
    ("Table 1", "ViT-AugReg: ToMe", "baseline_acc", "84.57"),
    ("Table 1", "DeiT-Base: DynamicViT", "acc", "30 epochs"),
    ("Table 7", "DeiT-B: DeiT-B", "throughput_img_s", "2847.84"),
    ("Table 4", "LLaVA (Full)", "pope_acc", "an F1"),
    ("Table 5", "576 tokens: LLaVA (Full)", "vizwiz", "50"),
]


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return audit()


@pytest.fixture(scope="module")
def findings(checks: list[Check]) -> list[Finding]:
    return [finding for check in checks for finding in check.findings]


@pytest.mark.parametrize(("table", "row", "column", "recomputed"), KNOWN)
def test_it_is_found(
    table: str, row: str, column: str, recomputed: str, findings: list[Finding]
) -> None:
    found = [f for f in findings if (f.table, f.row, f.column) == (table, row, column)]
    assert [f.recomputed for f in found if f.recomputed == recomputed] == [recomputed]


def test_every_rule_ran_on_every_cell(checks: list[Check]) -> None:
    assert not any(check.missing for check in checks)
    by_rule = {check.rule: check for check in checks}
    deltas = by_rule["Δ top-1 is the difference of the two printed accuracies"]
    assert (deltas.cells, deltas.findings) == (27, ())
    assert by_rule["Avg is the mean of the row's benchmarks, MME * 100 / 2000"].cells == 33


def test_the_denominator_of_the_three_rows_is_named(findings: list[Finding]) -> None:
    rows = [f for f in findings if f.column == "rel_pct" and f.kind == "does not recompute"]
    assert len(rows) == 3
    assert all("needs 69.0 as denominator" in f.how for f in rows)


def test_what_can_be_right_is_not_accused(findings: list[Finding]) -> None:
    """Finer quotients than one decimal, and Rel of the cells instead of the printed averages."""
    accused = {(f.table, f.row, f.column) for f in findings}
    assert ("Table 1", "ViT-AugReg: Ours", "flops_delta_pct") not in accused
    rounded = {f.row for f in findings if f.table == "Table 1" and f.kind == "last digit"}
    assert not any("w/o accumulation" in row for row in rounded)  # a finer quotient
    assert ("Table 1", "DeiT-Base: ToMe", "flops_delta_pct") not in accused  # acts in every block
    assert ("Table 6", "320 tokens: ASAP (Ours)", "rel_pct") not in accused
    assert ("Table 6", "160 tokens: PruneSID", "rel_pct") not in accused
    assert ("Table 10", "+ VisPruner", "rel_pct") not in accused


def test_a_change_to_a_cell_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule reads the figures it speaks of: a wrong one shows, a corrected one is silent."""

    def printed(name: str, row: str, section: str, **figures: str) -> None:
        table = paper_table(name)
        old = table.row(row, section)
        new = dataclasses.replace(old, printed={**old.printed, **figures})
        rows = tuple(new if r is old else r for r in table.rows)
        changed = dataclasses.replace(table, rows=rows)
        for module in (arithmetic, work, crossings):
            monkeypatch.setattr(
                module, "paper_table", lambda n: changed if n == name else paper_table(n)
            )

    printed("1", "ToMe", "DeiT-Small", acc_delta="-0.80")
    assert [(f.row, f.recomputed) for f in arithmetic.deltas().findings] == [
        ("DeiT-Small: ToMe", "-0.70")
    ]
    printed("7", "+ Lazy Random Walk", "ClipViT-L", flops_g="179.2")
    kinds = {f.row: f.kind for f in work.walk().findings}
    assert kinds["ClipViT-L: + Lazy Random Walk"] == "last digit"
    printed("1", "Ours (pool.)", "DeiT-Base", flops_delta_pct="-32.39")
    rows = [f.row for f in work.late().findings]
    assert rows[:2] == ["DeiT-Base: Ours (prun.)", "DeiT-Base: Ours (w/o accumulation)"]
    printed("4", "VisionZip", "", pope_acc="77.1")
    assert crossings.same_figures().findings == ()


def test_the_walk_is_what_the_method_counts_as_its_own() -> None:
    """The ledger's ``N^3`` a block, against the trace of a run that accumulates over all blocks."""
    model = tiny.vit()
    with asap_eval.reduce(model, "asap", tau=1e9) as trace, torch.no_grad():
        model(tiny.images(1))
    geometry = geometry_of(model)
    assert float(trace.method_macs[0]) == geometry.depth * geometry.tokens**3


def test_nothing_saves_more_than_dropping_every_patch() -> None:
    """The bound against a run that keeps the class token alone, block by block."""
    model = tiny.vit()
    geometry = geometry_of(model)
    for block in range(1, geometry.depth):
        with asap_eval.reduce(model, "random", k=1e-9, layer=block) as trace, torch.no_grad():
            model(tiny.images(1))
        left = float(model_macs(geometry, trace)[0])
        kept = [geometry.tokens] * block + [geometry.prefix] * (geometry.depth - block)
        assert macs_of(geometry, kept) <= left
    assert ledger.most_saved("deit_base", 12) == 0
    assert ledger.most_saved("deit_base", 8) < 100 * 4 / 12
    assert ledger.most_saved("deit_base", 7) > 36.36 > ledger.most_saved("deit_base", 8)


@pytest.mark.parametrize(
    ("model", "gmacs"),
    [("deit_base", 17.564), ("deit_small", 4.599), ("deit_tiny", 1.254), ("lvvit_s", 6.551)],
)
def test_the_ledger_has_the_known_work(model: str, gmacs: float) -> None:
    assert ledger.gmacs(model) == pytest.approx(gmacs, abs=6e-4)


def test_the_sheet_lists_tables_in_order(checks: list[Check]) -> None:
    sheet = audit_sheet(checks)
    sections = list(dict.fromkeys(line.section for line in sheet.rows))
    numbers = [int(s.split()[1]) for s in sections if s.startswith("Table")]
    assert numbers == sorted(numbers)
    assert sections[-3:] == ["Appendix E.2", "Appendix J", "Figure 6"]
    assert len(sheet.rows) == sum(len(check.findings) for check in checks)
