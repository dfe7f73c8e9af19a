"""Figures that stand in two places of the paper."""

from __future__ import annotations

from asap_eval.audit.finding import Check, Finding, figure, finding
from asap_eval.paper import COLUMNS, PaperRow, claims, paper_table
from asap_eval.paper.columns import BENCHMARKS

Place = tuple[str, str, str, str]
"""Table, section, row, column."""


def _pairs() -> list[tuple[Place, Place]]:
    """Places that have to hold the same figure: one model, method, setting and benchmark."""
    pairs: list[tuple[Place, Place]] = []
    for section, ours in (("DeiT-Base", "Ours (pool.)"), ("LV-ViT-S", "Ours")):
        for column in ("acc", "throughput_delta_pct"):
            pairs.append((("2", section, "Attention Sink", column), ("1", section, ours, column)))
    pairs.append(
        (("alpha", "DeiT-Base", "alpha 0.5", "acc"), ("1", "DeiT-Base", "Ours (pool.)", "acc"))
    )
    full = ("576 tokens", "LLaVA (Full)")
    pairs.append((("4", "", "LLaVA (Full)", "pope_acc"), ("5", *full, "pope")))
    for row in ("SparseVLM", "VisionZip", "PruneSID"):
        pairs.append((("4", "", row, "pope_acc"), ("5", "64 tokens", row, "pope")))
    hybrid = ("64 tokens", "ASAP (Ours) + Hybrid")
    pairs.append((("4", "", "ASAP (Ours)", "pope_acc"), ("5", *hybrid, "pope")))
    next_full = ("2880 tokens", "LLaVA-Next (Full)")
    pairs.append((("8", "", "LLaVA-NeXT (Full)", "pope_acc"), ("6", *next_full, "pope")))
    for row in ("VisionZip", "PruneSID", "ASAP (Ours)"):
        pairs.append((("8", "", row, "pope_acc"), ("6", "160 tokens", row, "pope")))
    for column in (*BENCHMARKS, "avg", "rel_pct"):
        pairs.append((("10", "", "LLaVA (Full)", column), ("5", *full, column)))
        mixed = "+ ASAP + VisPruner (ASAP Hybrid)"
        pairs.append((("10", "", mixed, column), ("5", *hybrid, column)))
    for column in ("gqa", "pope", "mme", "sqa_img"):
        sink = ("11", "", "Attention Sink (Ours)", column)
        pairs.append((sink, ("6", "160 tokens", "ASAP (Ours)", column)))
    return pairs


def same_figures() -> Check:
    """Figures printed twice."""
    found = []
    pairs = _pairs()
    for first, second in pairs:
        (row, column), (other, where) = _at(first), _at(second)
        if float(row.printed[column]) != float(other.printed[where]):
            table = paper_table(first[0])
            how = (
                f"{paper_table(second[0]).label}, {other.name}, {COLUMNS[where].head}: the same "
                "model, method and benchmark"
            )
            found.append(
                finding(
                    table,
                    row,
                    column,
                    other.printed[where],
                    how,
                    "contradicts",
                )
            )
    return Check("a figure printed twice is printed alike", len(pairs), tuple(found))


def throughputs() -> Check:
    """Images per second against the changes that other tables print."""
    alpha = paper_table("alpha").row("alpha 0.5")
    base = figure(paper_table("7").row("DeiT-B"), "throughput_img_s")
    ours = paper_table("1").row("Ours (pool.)", "DeiT-Base")
    rate, change = figure(alpha, "throughput_img_s"), figure(ours, "throughput_delta_pct")
    found = []
    expected = base * (1 + change / 100)
    if round(expected) != round(rate):
        how = (
            f"{base:g} img/s (Table 7) x {1 + change / 100:.4f} (Table 1, Ours (pool.): "
            f"{change:+.2f} %, the same setting); {rate:g} is {100 * (rate / base - 1):+.2f} %"
        )
        found.append(
            finding(
                paper_table("alpha"),
                alpha,
                "throughput_img_s",
                f"{expected:.0f}",
                how,
                "contradicts",
            )
        )
    checked = 1
    for table, row in [(t, row) for t in map(paper_table, ("1", "3")) for row in t.rows]:
        speed, work = row.value("throughput_delta_pct"), row.value("flops_delta_pct")
        if speed is None or work is None:
            continue
        checked += 1
        ideal = 100 * (1 / (1 + work / 100) - 1)
        if speed > ideal:
            how = f"the most that {work:+.2f} % FLOPs allow"
            found.append(
                finding(
                    table,
                    row,
                    "throughput_delta_pct",
                    f"{ideal:+.2f}",
                    how,
                    "contradicts",
                )
            )
    return Check("throughputs agree, and none exceeds what its FLOPs allow", checked, tuple(found))


def timers() -> Check:
    """Times of LLaVA-NeXT in Tables 8 and 9."""
    eight, nine = paper_table("8"), paper_table("9")
    pairs = (
        (nine.row("LLaVA-NeXT"), eight.row("LLaVA-NeXT (Full)"), "inference_ms"),
        (nine.row("+ ASAP Stage 2"), eight.row("ASAP (Ours)"), "prefill_ms"),
    )
    found = []
    for row, other, column in pairs:
        mine, theirs = float(row.printed["cuda_ms"]), float(other.printed[column])
        if mine != theirs:
            part = "the whole answer"
            if column == "prefill_ms":
                part = f"prefill alone (the whole answer: {other.printed['inference_ms']})"
            how = f"Table 8, {other.name}: {part} of the same model and tokens on the same GPU"
            found.append(
                finding(
                    nine,
                    row,
                    "cuda_ms",
                    other.printed[column],
                    how,
                    "contradicts",
                )
            )
    return Check("Tables 8 and 9 time the same thing", len(pairs), tuple(found))


def twins() -> Check:
    """Rows of other methods with the same FLOPs and the same throughput to the last digit."""
    found = []
    table = paper_table("1")
    rows = table.rows
    for at, row in enumerate(rows):
        for other in rows[:at]:
            same = all(
                row.printed[c] and row.printed[c] == other.printed[c]
                for c in ("flops_delta_pct", "throughput_delta_pct")
            )
            if same and row.section == other.section:
                how = f"the figure of {other.name}, another method; so is the change of its FLOPs"
                found.append(
                    finding(
                        table,
                        row,
                        "throughput_delta_pct",
                        other.printed["throughput_delta_pct"],
                        how,
                        "printed again",
                    )
                )
    return Check("different methods have speeds of their own", len(rows), tuple(found))


def text() -> Check:
    """Figures of the text and the plots against the tables."""
    said = claims()
    five, first = paper_table("5"), paper_table("1")
    pairs = (
        ("prunesid64_pope", five.row("PruneSID", "64 tokens"), "pope", "Table 5"),
        ("fig6_default", first.row("Ours (pool.)", "DeiT-Base"), "acc", "Table 1"),
        ("fig8_robust_high", first.row("Ours", "ViT-AugReg"), "acc", "Table 1"),
    )
    found = []
    for name, row, column, table in pairs:
        claim = said[name]
        if claim.value != row.value(column):
            found.append(
                Finding(
                    claim.source,
                    claim.about,
                    column,
                    f"{claim.value:g}",
                    row.printed[column],
                    f"{table}, {row.name}",
                    "contradicts",
                )
            )
    return Check("the text says what the tables say", len(pairs), tuple(found))


def _at(place: Place) -> tuple[PaperRow, str]:
    table, section, row, column = place
    return paper_table(table).row(row, section), column
