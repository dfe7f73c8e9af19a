"""What others published, against what the paper prints."""

from __future__ import annotations

from asap_eval.audit import ledger
from asap_eval.audit.finding import Check, Finding, figure, finding
from asap_eval.paper import PaperRow, PaperTable, facts, paper_table


def outside() -> Check:
    """What a cited source says otherwise."""
    known = facts()
    first, five, seven = paper_table("1"), paper_table("5"), paper_table("7")
    augreg = first.row("ToMe", "ViT-AugReg")
    full = five.row("LLaVA (Full)")
    plain = seven.row("DeiT-B")
    rate = known["deit_base_rtx4090"]
    printed_rate = figure(plain, "throughput_img_s")
    found: list[Finding] = []

    def add(
        table: PaperTable, row: PaperRow, column: str, fact: str, words: str, value: str = ""
    ) -> None:
        cited = known[fact]
        how = f"{words} ({cited.source})"
        found.append(finding(table, row, column, value or f"{cited.value:g}", how, "outside fact"))

    if augreg.value("baseline_acc") == known["augreg_small_top1"].value:
        small = ledger.gmacs("vit_small_augreg")
        base = ledger.gmacs("vit_base_augreg")
        add(
            first,
            augreg,
            "baseline_acc",
            "augreg_base_top1",
            "named ViT-AugReg-B in the paper; 81.41 is ViT-S/16's accuracy (and this "
            f"row's 79.30 its figure with ToMe at r=13), of {small:.1f} and not {base:.1f} GMACs; "
            "ViT-B/16 reaches this",
        )
    add(
        first,
        first.row("DynamicViT", "DeiT-Base"),
        "acc",
        "dynamicvit_epochs",
        "a trained method in a table of methods without training: predictors and model are trained "
        "for this many epochs",
        "30 epochs",
    )
    if rate.value > 2 * printed_rate:
        add(
            seven,
            plain,
            "throughput_img_s",
            "deit_base_rtx4090",
            "the same model on the same card with fused attention, "
            f"{rate.value / printed_rate:.1f} times faster",
        )
    for name in ("4", "8"):
        table = paper_table(name)
        add(
            table,
            table.rows[0],
            "pope_acc",
            "llava15_pope_f1",
            "called an accuracy; LLaVA-1.5's published figure on POPE, which its row repeats in "
            "Table 5, is the mean F1 of three splits",
            "an F1",
        )
    if full.value("vqav2") == known["llava15_vqav2_testdev"].value:
        add(
            five,
            full,
            "vizwiz",
            "llava15_vizwiz_testdev",
            "VQAv2's 78.5 is the test-dev server's, where VizWiz has this; the row mixes splits",
        )
    add(
        five,
        full,
        "mme",
        "mme_maximum",
        "Avg divides by 2000 what is the sum of both parts of MME, whose maximum is this",
    )
    return Check("cited sources say the same", len(found), tuple(found))
