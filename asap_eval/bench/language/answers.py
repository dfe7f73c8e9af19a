"""Questions about pictures, answered with a method in the model, and what each answer cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asap_eval.hosts import LlavaGeometry
from asap_eval.models import LoadedVlm
from asap_eval.trace import Trace
from asap_eval.work.language import VlmMacs, decode_macs, prefill_ledger, unpruned_prefill


@dataclass(frozen=True)
class Answer:
    """One sample's answer.

    Attributes:
        text: without special tokens. new_tokens: generated, the end token included.
        prompt_tokens: of the prompt as it was read, image tokens included.
        image_tokens: that the unpruned model would hand to the language model.
        handed_to_llm: image tokens that its first layer gets, newlines included.
        llm_layer_mean: image tokens that entered a layer's attention, mean over the layers.
        cached_entries: tokens of the prompt that the layers' caches hold, summed over the layers;
            unpruned_entries: of the unpruned model.
        kept: patch and pooled tokens of each crop after the tower; layer_mean: after each of its
            blocks, their mean. fired: block of each crop, 0 =
            never. language_fired: layer of the language model, 0 = never.
        tower_macs, projector_macs, prefill_macs, decode_macs: the model's work by part.
        method_macs: the method's own products. counted: what it counts, by name.
        unpruned_macs: of tower, projector and prefill without the method.
    """

    text: str
    new_tokens: int
    prompt_tokens: int
    image_tokens: int
    handed_to_llm: int
    llm_layer_mean: float
    cached_entries: int
    unpruned_entries: int
    kept: list[int]
    layer_mean: list[float]
    fired: list[int]
    language_fired: int
    tower_macs: float
    projector_macs: float
    prefill_macs: float
    decode_macs: float
    method_macs: float
    unpruned_macs: float
    counted: dict[str, int]


def answers(
    vlm: LoadedVlm,
    trace: Trace,
    geometry: LlavaGeometry,
    pictures: Sequence[Any],
    questions: Sequence[str],
    ids: Sequence[str],
    *,
    max_new_tokens: int,
) -> list[Answer]:
    """Greedy answers of one batch, inside a ``with install(vlm.model, method) as trace``.

    Args:
        geometry: `hosts.llava_geometry` of the model. pictures: RGB, one a question.
        ids: of the samples; random choices derive from them.
        max_new_tokens: of each answer.
    """
    given = vlm.inputs(pictures, questions)
    trace.name_images(ids)
    trace.name_questions(questions)
    with torch.inference_mode():
        out = vlm.model.generate(**given, max_new_tokens=max_new_tokens, do_sample=False)
    return answers_from(vlm, trace, geometry, given, out)


def answers_from(
    vlm: LoadedVlm, trace: Trace, geometry: LlavaGeometry, given: Mapping[str, Any], out: Tensor
) -> list[Answer]:
    """The answers in what `generate` gave back, read from the trace of that call.

    Args:
        given: keywords of the call. out: ``[S, T]`` ids, the prompts in front.
    """
    new = out[:, given["input_ids"].shape[1] :]
    counts = _generated(new, vlm.model.generation_config.eos_token_id)
    whole = (given["input_ids"] == vlm.model.config.image_token_id).sum(1).tolist()
    ledger, texts = prefill_ledger(geometry, trace), vlm.texts(new)
    return [
        _answer(sample, texts[sample], int(counts[sample]), whole[sample], trace, geometry, ledger)
        for sample in range(len(texts))
    ]


def _generated(new: Tensor, end: int | Sequence[int] | None) -> Tensor:
    """``[S]`` tokens up to the first end token, from ``[S, T]`` padded behind it."""
    ends = torch.tensor([] if end is None else end, device=new.device, dtype=new.dtype).flatten()
    ended = torch.isin(new, ends)
    before = ended.long().cumsum(1) - ended.long()  # end tokens in front of each
    return (before == 0).sum(1)


def _answer(
    sample: int,
    text: str,
    new: int,
    whole: int,
    trace: Trace,
    geometry: LlavaGeometry,
    ledger: VlmMacs,
) -> Answer:
    crops, language = trace.sample == sample, trace.language
    entered = language.attention_tokens[:, sample].double()
    prompt = int(trace.prompt_tokens[sample])
    words = prompt - int(trace.handed_to_llm[sample])
    lengths = trace.lengths[:, crops] - geometry.tower.prefix
    unpruned = unpruned_prefill(geometry, whole, words, lengths.shape[1])
    return Answer(
        text=text,
        new_tokens=new,
        prompt_tokens=prompt,
        image_tokens=whole,
        handed_to_llm=int(entered[0]) - words,
        llm_layer_mean=float(entered.mean()) - words,
        cached_entries=int(language.cached_tokens[:, sample].sum()),
        unpruned_entries=len(entered) * (whole + words),
        kept=lengths[-1].tolist(),
        layer_mean=lengths.double().mean(0).tolist(),
        fired=trace.fired[crops].tolist(),
        language_fired=int(language.fired[sample]),
        tower_macs=float(ledger.tower[sample]),
        projector_macs=float(ledger.projector[sample]),
        prefill_macs=float(ledger.prefill[sample]),
        decode_macs=float(decode_macs(geometry, trace, max(new - 1, 0))[sample]),
        method_macs=float(ledger.method[sample]),
        unpruned_macs=float(unpruned.total),
        counted={name: int(values[sample]) for name, values in trace.counted.items()},
    )
