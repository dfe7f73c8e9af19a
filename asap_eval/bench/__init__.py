"""Benchmarks by name."""

from __future__ import annotations

from asap_eval.bench.imagenet import ImageNet
from asap_eval.errors import unknown

BENCHES: dict[str, type[ImageNet]] = {"imagenet": ImageNet}


def bench_of(name: str) -> ImageNet:
    """The benchmark of that name; near names are suggested where there is none."""
    if name not in BENCHES:
        raise unknown("benchmark", name, BENCHES)
    return BENCHES[name]()
