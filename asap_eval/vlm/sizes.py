"""How many questions the published splits have, for plans made where the data is not.

From the data sets' papers and lmms-eval's lists of tasks, by recollection; none was counted here. A
run counts its own.
"""

from __future__ import annotations

QUESTIONS = {
    "pope": 9_000,
    "gqa": 12_578,
    "mme": 2_374,
    "scienceqa_img": 2_017,
    "vizwiz_vqa_val": 4_319,
    "vqav2_val": 214_354,
    "mmbench_en_dev_static": 4_329,
}
"""By the names of `asap_eval.vlm.tasks.TASKS`."""
