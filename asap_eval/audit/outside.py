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
    checked = 7

    def add(
        table: PaperTable, row: PaperRow, column: str, fact: str, words: str, value: str = ""
    ) -> None:
        cited = known[fact]
        how = f"{words} ({cited.source})"
        found.append(finding(table, row, column, value or f"{cited.value:g}", how, "outside fact"))

    whole, reduced = known["augreg_small_top1"], known["augreg_small_tome_top1"]
    if augreg.value("baseline_acc") == whole.value:
        small = ledger.gmacs("vit_small_augreg")
        base = ledger.gmacs("vit_base_augreg")
        add(
            first,
            augreg,
            "baseline_acc",
            "augreg_base_top1",
            f"named ViT-AugReg-B in the paper; {whole.value:g} is ViT-S/16's accuracy (and "
            f"{reduced.value:.2f} its figure with ToMe at r=13, this row prints "
            f"{augreg.printed['acc']}), of {small:.1f} and not {base:.1f} GMACs; ViT-B/16 reaches "
            "this",
        )
    add(
        first,
        first.row("DynamicViT", "DeiT-Base"),
        "acc",
        "dynamicvit_epochs",
        "a trained method in a table of methods without training: predictors and model are trained "
        "for this many epochs",
        f"{known['dynamicvit_epochs'].value:g} epochs",
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
    f1 = known["llava15_pope_f1"]
    if full.value("pope") == f1.value:
        for name, other in (("4", full), ("8", paper_table("6").row("LLaVA-Next (Full)"))):
            table = paper_table(name)
            row = table.rows[0]
            if figure(row, "pope_acc") == figure(other, "pope"):
                add(
                    table,
                    row,
                    "pope_acc",
                    "llava15_pope_f1",
                    "called an accuracy; it is the figure of Table "
                    f"{'5' if other is full else '6'}, whose POPE is an F1: the unpruned LLaVA-1.5 "
                    f"has {full.printed['pope']} there, which was published as the mean F1 of "
                    "three splits",
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
    return Check("cited sources say the same", checked, tuple(found))
