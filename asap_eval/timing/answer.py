"""One answer of a vision-language model, timed phase by phase in a single `generate`.

Inputs are on the device before the clock starts. On a GPU the marks between phases are events in
its stream, read once the answer is there, so that no phase waits for them. Elsewhere they are
readings of a clock: an operation is done when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asap_eval.transfer import mark


class Phases(NamedTuple):
    """Milliseconds.

    Attributes:
        encode: tower, reduction, projector and packing. prefill: that, and the language model to
            the first logits. decode: all later tokens. answer: prefill and decode.
    """

    encode: float
    prefill: float
    decode: float
    answer: float


class _Marks:
    """Points in time; each name is taken once, the first time."""

    def __init__(self, device: torch.device) -> None:
        self._gpu, self._device = device.type == "cuda", device
        self._at: dict[str, Any] = {}

    def __call__(self, name: str) -> None:
        if name in self._at:
            return
        if self._gpu:
            self._at[name] = mark(self._device, timed=True)
        else:
            self._at[name] = time.perf_counter()

    def wait(self) -> None:
        if self._gpu:
            torch.cuda.synchronize(self._device)

    def between(self, first: str, last: str) -> float:
        begin, end = self._at[first], self._at[last]
        return float(begin.elapsed_time(end)) if self._gpu else 1e3 * (end - begin)


def timed_answer(
    model: Any, given: Mapping[str, Any], *, max_new_tokens: int
) -> tuple[Tensor, Phases]:
    """Greedy answers ``[S, T]`` with the prompts in front, and how long they took.

    Args:
        model: LLaVA, with or without a method installed. given: keywords of `generate`.
    """
    mark = _Marks(given["input_ids"].device)

    def first_logits(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Asked after every token; never stops."""
        mark("prefill")
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    reading = model.model.language_model.register_forward_pre_hook(lambda *_: mark("encode"))
    try:
        mark.wait()
        mark("start")
        with torch.inference_mode():
            out = model.generate(
                **given,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                stopping_criteria=[first_logits],
            )
        mark("end")
        mark.wait()
    finally:
        reading.remove()
    return out, Phases(
        encode=mark.between("start", "encode"),
        prefill=mark.between("start", "prefill"),
        decode=mark.between("prefill", "end"),
        answer=mark.between("start", "end"),
    )
