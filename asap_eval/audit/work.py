"""Printed work against our own ledger."""

from __future__ import annotations

from asap_eval.audit import ledger
from asap_eval.audit.finding import Check, Finding, Kind, figure, finding
from asap_eval.paper import PaperRow, claims, paper_table

OPERATIONS = 2
"""Of one multiply-accumulate: what Table 9 counts, where Table 7 counts MACs."""
CROPS = 5
"""Of a LLaVA-NeXT image with 2880 tokens."""


def quotients() -> Check:
    """Changes of the FLOPs in Table 1: those that are quotients of GMACs with one decimal.

    A row with other digits was divided more finely; nothing printed says that it is wrong.
    """
    rows = paper_table("1").rows
    alike: dict[tuple[str, str], list[PaperRow]] = {}
    for row in rows:
        alike.setdefault((row.section, row.printed["flops_delta_pct"]), []).append(row)
    found = []
    for (section, printed), same in alike.items():
        whole, change = ledger.gmacs(ledger.MODELS[section]), float(printed)
        base = round(whole, 1)
        if not _is_quotient(change, base):
            continue
        left = round(base * (1 + change / 100), 1)
        least, most = (100 * ((left + d) / whole - 1) for d in (-0.05, 0.05))
        how = (
            f"quotient of GMACs with one decimal, {base:g} -> {left:g}; the model has "
            f"{whole:.3f}, the reduced one anything from {left - 0.05:.2f} to {left + 0.05:.2f}"
        )
        name = f"{section}: {', '.join(row.row for row in same)}"
        span = f"{least:.1f} to {most:.1f}"
        found.append(Finding("Table 1", name, "flops_delta_pct", printed, span, how, "last digit"))
    return Check("changes of the FLOPs are known to the printed digits", len(rows), tuple(found))


def kinetics() -> Check:
    """FLOPs of Table 3: those of Table 1 for DeiT-Base, and no quotients of CLIP's own."""
    first, table = paper_table("1"), paper_table("3")
    clip = ledger.MODELS["ClipViT-Large"]
    bases = [round(g, 1) for g in (ledger.gmacs(clip), ledger.gmacs_without_products(clip))]
    found = []
    for row in table.rows:
        printed = row.printed["flops_delta_pct"]
        same = first.row(row.row, "DeiT-Base").printed["flops_delta_pct"]
        fits = [base for base in bases if _is_quotient(float(printed), base)]
        if printed == same and not fits:
            near = 100 * (round(bases[0] * (1 + float(printed) / 100), 1) / bases[0] - 1)
            how = (
                f"the figure of DeiT-Base's row in Table 1; a quotient of neither {bases[0]:g} nor "
                f"{bases[1]:g} GMACs, CLIP ViT-L/14-336's with and without attention products"
            )
            found.append(
                finding(
                    table,
                    row,
                    "flops_delta_pct",
                    f"{near:.2f}",
                    how,
                    "printed again",
                )
            )
    return Check("FLOPs of a video model are its own", len(table.rows), tuple(found))


def walk() -> Check:
    """Table 7: the models' work, and that of the walk over all blocks."""
    table, found = paper_table("7"), []
    for section in table.sections:
        model = ledger.MODELS[section]
        plain, walked = (row for row in table.rows if row.section == section)
        whole, bare, extra = (
            ledger.gmacs(model),
            ledger.gmacs_without_products(model),
            ledger.walk_gmacs(model),
        )
        geometry = ledger.geometry(model)
        if f"{whole:.1f}" != plain.printed["flops_g"]:
            how = (
                f"convolutions, linear layers and attention products; without the products "
                f"{bare:.1f}, while DeiT-B's 17.6 holds them"
            )
            found.append(finding(table, plain, "flops_g", f"{whole:.1f}", how, "contradicts"))
        step = figure(walked, "flops_g") - figure(plain, "flops_g")
        slack = 0.1  # both figures are rounded to 0.1
        if abs(extra - step) > slack or f"{whole + extra:.1f}" != walked.printed["flops_g"]:
            kind: Kind = "last digit" if abs(extra - step) <= slack else "does not recompute"
            how = (
                f"a walk of {geometry.depth} x {geometry.tokens}^3 = {extra:.2f} GMACs on "
                f"{whole:.2f}; printed +{step:.1f}"
            )
            found.append(
                finding(table, walked, "flops_g", f"{whole + extra:.1f} (+{extra:.2f})", how, kind)
            )
    return Check("work with and without the walk", len(table.rows), tuple(found))


def late() -> Check:
    """Savings of ASAP on DeiT-Base against what is left to save after its transition (Figure 7).

    Block, threshold and savings cannot all be as printed; which is not, nothing says.
    """
    said, model = claims(), ledger.MODELS["DeiT-Base"]
    block, depth = int(said["fig7_transition"].value), ledger.geometry(model).depth
    most = ledger.most_saved(model, block)
    how = (
        f"the most after block {block} of {depth}, where {said['fig7_transition'].source} has the "
        f"transition that the threshold is to catch: every patch dropped, {depth - block}/{depth} "
        "of the blocks' work"
    )
    slack = 100 * 0.1 / ledger.gmacs(model)  # both GMACs of a quotient have one decimal
    table, text = paper_table("1"), said["fig6_default_macs"]
    rows = [r for r in table.rows if r.section == "DeiT-Base" and r.row.startswith("Ours")]
    found = [
        finding(table, row, "flops_delta_pct", f"{-most:.2f}", how, "contradicts")
        for row in rows
        if -figure(row, "flops_delta_pct") > most + slack
    ]
    if -text.value > most + slack:
        printed = f"{text.value:g}"
        found.append(
            Finding(
                text.source,
                text.about,
                "flops_delta_pct",
                printed,
                f"{-most:.2f}",
                how,
                "contradicts",
            )
        )
    return Check(
        "no reduction saves more than the blocks after it cost", len(rows) + 1, tuple(found)
    )


def stages() -> Check:
    """Table 9: work of LLaVA-NeXT, in operations, two for each MAC."""
    table = paper_table("9")
    full, every, early, pooled, _ = table.rows
    tera = OPERATIONS / 1e12
    whole = tera * float(ledger.prefill("llava_next_7b", 2880, 0, CROPS).total)
    found = []
    if f"{whole:.1f}" != full.printed["flops_t"]:
        how = "tower, projector and language model over 2880 image tokens and no text"
        found.append(finding(table, full, "flops_t", f"{whole:.1f}", how, "does not recompute"))
    units = (
        f"2880 image tokens need {whole / OPERATIONS:.1f} T MACs, so this table counts two "
        "operations a MAC; Table 7 prints MACs (17.6 for DeiT-B) under the same name"
    )
    found.append(
        finding(table, full, "flops_t", f"{whole / OPERATIONS:.1f} T MACs", units, "contradicts")
    )
    extra = CROPS * OPERATIONS * ledger.walk_gmacs("clip_vit_l14_336") / 1000
    geometry = ledger.geometry("clip_vit_l14_336")
    for row, most in ((every, extra), (early, extra)):
        step = figure(row, "flops_t") - figure(full, "flops_t")
        if abs(step - most) > 0.1:
            kind: Kind = "does not recompute"
        elif f"{whole + most:.1f}" != row.printed["flops_t"]:
            kind = "last digit"
        else:
            continue
        bound = "" if row is every else "at most, as if it never stopped: "
        how = (
            f"{bound}{CROPS} crops x {geometry.depth} x {geometry.tokens}^3 products, two "
            f"operations each; printed +{step:.1f}"
        )
        found.append(finding(table, row, "flops_t", f"+{most:.3f}", how, kind))
    left = tera * float(ledger.prefill("llava_next_7b", 1050, 0, CROPS).total)
    if left < figure(pooled, "flops_t") - 0.1:
        how = (
            "1050 tokens handed on and the whole tower unreduced; what makes the full model's "
            f"{whole:.1f}"
        )
        found.append(finding(table, pooled, "flops_t", f"{left:.1f}", how, "does not recompute"))
    return Check("work of LLaVA-NeXT's stages", len(table.rows), tuple(found))


def _is_quotient(change: float, base: float) -> bool:
    """Whether some GMACs with one decimal over a base give a change to its two decimals."""
    left = round(base * (1 + change / 100), 1)
    return any(
        f"{100 * (g / base - 1):.2f}" == f"{change:.2f}" for g in (left - 0.1, left, left + 0.1)
    )
