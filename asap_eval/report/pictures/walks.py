"""Records of ``bench=walk``, by the images they were made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from asap_eval.errors import RecordError
from asap_eval.report.pictures.figure import Found
from asap_eval.report.pictures.groups import beside, groups

PLAIN_WALK = {"alpha": 0.5, "order": "walk", "chain": "full"}
"""Options of the walk that the paper describes."""


@dataclass(frozen=True)
class Walk:
    """One record: a reading of the walk over the unpruned model."""

    found: Found

    @property
    def options(self) -> dict[str, Any]:
        """Those of `PLAIN_WALK`."""
        return {name: self.found[1].job.bench_params[name] for name in PLAIN_WALK}

    @property
    def label(self) -> str:
        """The options, those of the plain walk left out."""
        other = {k: v for k, v in self.options.items() if v != PLAIN_WALK[k]}
        return " ".join(f"{name}={value}" for name, value in other.items()) or "plain walk"

    @property
    def analysis(self) -> dict[str, Any]:
        """Described in `asap_eval.bench.walk.analysis`."""
        return self.found[1].analysis or {}

    @property
    def emergence(self) -> dict[str, list[dict[str, float]]]:
        """``peak`` and ``peak_with_prefix``: a distribution over images for each block."""
        return dict(self.analysis["sink_emergence"])

    @property
    def blocks(self) -> int:
        return int(self.analysis["blocks"])

    @cached_property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The arrays beside the record; None where there is no such file.

        Raises:
            RecordError: the file is there and cannot be read.
        """
        path, record = self.found
        file = beside(path, record.arrays)
        if file is None:
            return None
        try:
            return dict(load_file(file))
        except (OSError, SafetensorError) as error:
            raise RecordError(f"{file} cannot be read ({error}). Run the job again.") from error


def walks(records: Sequence[Found]) -> list[tuple[str, str, list[Walk]]]:
    """Name, title and walks of all that went over the same images, the plain walk first."""
    found = [pair for pair in records if pair[1].job.bench == "walk"]
    together: dict[tuple[str, ...], list[tuple[str, str, Walk]]] = {}
    for group in groups(found):
        for line in group.lines:
            row = line.row
            same = tuple(str(row[c]) for c in ("model", "model_params", "ids_digest", "content"))
            same += tuple(str(row[c]) for c in ("dtype", "weights_sha256", "data"))
            for pair in line.found:
                together.setdefault(same, []).append((group.name, group.title, Walk(pair)))
    parts = []
    for same_images in together.values():
        same_images.sort(key=lambda one: (one[2].options != PLAIN_WALK, _order(one[2])))
        name = min((one[0] for one in same_images), key=lambda name: (len(name), name))
        parts.append((name, same_images[0][1], [one[2] for one in same_images]))
    return parts


def _order(walk: Walk) -> str:
    return json.dumps([walk.options[name] for name in ("order", "chain", "alpha")])
