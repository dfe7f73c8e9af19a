"""AS-ViT's learnt thresholds, and the files they live in."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from asap_eval.checkpoint import read_checkpoint, read_metadata, stamped
from asap_eval.errors import WeightsError

KEY = "score_predictor.{}.keep_threshold"
"""Of the threshold at a place, as the authors' checkpoints name it."""


def load_thresholds(checkpoint: str, method: str) -> tuple[float, ...]:
    """The thresholds of a file by their place; a file is read once.

    Raises:
        WeightsError: no such file, not a checkpoint, thresholds missing, or made for another
            method.
    """
    return _loaded(*stamped(checkpoint, "checkpoint"), method)


@lru_cache(maxsize=4)
def _loaded(file: Path, written: int, method: str) -> tuple[float, ...]:
    tensors, _ = read_checkpoint(file, "checkpoint")
    made_for = read_metadata(file).get("method", method)
    if made_for != method:
        raise WeightsError(
            f"checkpoint={file} holds what was trained for method={made_for}, not for {method}."
        )
    pattern = re.compile(re.escape(KEY).replace(r"\{\}", r"(\d+)") + "$")
    found = {int(m[1]): v for key, v in tensors.items() if (m := pattern.search(key))}
    if (
        not found
        or sorted(found) != list(range(len(found)))
        or any(value.numel() != 1 for value in found.values())
    ):
        raise WeightsError(
            f"checkpoint={file} holds thresholds {sorted(found) or '(none)'}; wanted is a number "
            f"under {KEY.format(0)}, {KEY.format(1)}, ... for each place."
        )
    return tuple(float(found[at]) for at in sorted(found))
