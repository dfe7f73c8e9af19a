"""The keys of a run that stand alone; what they mean stands in ``conf/config.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Keys:
    """Keys with their types and defaults."""

    stage: str = "eval"
    k: float | None = None
    data: str | None = None
    labels: str | None = None
    images: str | None = None
    methods: Any = None
    tasks: Any = None
    plugins: Any = None
    weights: str | None = None
    limit: int | None = None
    sample: str = "first"
    target: float | None = None
    batch_size: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    speed: bool = False
    macs_convention: str = "full"
    results: str = "results"
    workers: str = "auto"
    cache: str = "auto"
    wide: bool = False
    force: bool = False
    debug: bool = False
    plan: bool = False
