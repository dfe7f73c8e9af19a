"""What the columns of the paper's tables mean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperColumn:
    """A column of figures.

    Attributes:
        head: as our tables call it. unit: of its figures. signed: whether it is a change.
        digits: decimals that measured figures beside it are shown with. compared: whether a
            measured figure may be held against it; those of other images or machines may not.
    """

    head: str
    unit: str = ""
    digits: int = 1
    signed: bool = False
    compared: bool = True


COLUMNS = {
    "baseline_acc": PaperColumn("top-1 unpruned", "%", 2, compared=False),
    "acc": PaperColumn("top-1", "%", 2, compared=False),
    "acc_delta": PaperColumn("Δ top-1", "points", 2, signed=True),
    "flops_delta_pct": PaperColumn("MACs", "%", 2, signed=True),
    "throughput_delta_pct": PaperColumn("throughput", "%", 2, signed=True),
    "flops_g": PaperColumn("work", "GMACs", 2),
    "throughput_img_s": PaperColumn("throughput", "img/s", 2, compared=False),
    "tokens": PaperColumn("tokens", "", 1),
    "inference_ms": PaperColumn("inference", "ms", 1, compared=False),
    "prefill_ms": PaperColumn("prefill", "ms", 1, compared=False),
    "pope_acc": PaperColumn("POPE", "%", 1),
    "gqa": PaperColumn("GQA", "%", 1),
    "mme": PaperColumn("MME", "points", 0),
    "pope": PaperColumn("POPE", "%", 1),
    "sqa_img": PaperColumn("SQA-IMG", "%", 1),
    "vizwiz": PaperColumn("VizWiz", "%", 1),
    "vqav2": PaperColumn("VQAv2", "%", 1),
    "mmb_en": PaperColumn("MMB-EN", "%", 1),
    "avg": PaperColumn("Avg", "", 1),
    "rel_pct": PaperColumn("Rel", "%", 1),
    "avg_rel_pct": PaperColumn("Rel", "%", 1),
    "flops_t": PaperColumn("FLOPs", "T", 2),
    "gpu_memory_gb": PaperColumn("GPU memory", "GB", 2, compared=False),
    "cuda_ms": PaperColumn("CUDA time", "ms", 1, compared=False),
}
"""By the name of the column in ``tables/*.csv``."""

BENCHMARKS = ("gqa", "mme", "pope", "sqa_img", "vizwiz", "vqav2", "mmb_en")
"""Columns that Avg is the mean of."""

MME_TO_PERCENT = 100 / 2000
"""What the paper's Avg multiplies MME by: the only divisor that fits both of its full rows."""

TASKS = {
    "gqa": "gqa",
    "mme": "mme",
    "pope": "pope",
    "sqa_img": "scienceqa_img",
    "vizwiz": "vizwiz_vqa_val",
    "vqav2": "vqav2_val",
    "mmb_en": "mmbench_en_dev_static",
    "pope_acc": "pope",
}
"""lmms-eval's name of the task behind a column, as far as it can be scored offline."""
