"""The benchmarks, a file or a folder each. Importing this package makes all names known.

Import names from the modules, not from here: the hash of a job's sources then holds the files of
its own benchmark only.
"""

from __future__ import annotations

from asap_eval.registry import BENCHES

BENCHES.offer(
    {
        name: f"{__name__}.{module}"
        for name, module in (
            ("imagenet", "imagenet"),
            ("keepmaps", "keepmaps"),
            ("kinetics", "video.kinetics"),
            ("latency", "language.latency"),
            ("saliency", "saliency"),
            ("vlm", "language.vlm"),
            ("walk", "walk.bench"),
        )
    }
)
