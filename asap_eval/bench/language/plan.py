"""The plan of a vision-language run from shapes alone: no weights, no data.

Tokens and work are those of a picture with all its crops (LLaVA-NeXT: a base and 2 x 2 tiles).
Memory of activations is an estimate: the widest point of one layer, of the tower or of the language
model.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asap_eval.bench.plan import Plan, cached, lacking_memory
from asap_eval.data.questions.documents import HUB
from asap_eval.data.questions.tasks import QUESTIONS, Task
from asap_eval.errors import BadValueError
from asap_eval.hosts import LlavaGeometry, llava_geometry
from asap_eval.hub.errors import address
from asap_eval.method import Need, Reducer
from asap_eval.models import ModelSpec
from asap_eval.models.device_map import free_memory, placed_on
from asap_eval.models.spec import Family
from asap_eval.models.vlm import check_saved, shape_of
from asap_eval.models.zoo import DTYPES
from asap_eval.record import Job
from asap_eval.work.language import unpruned_prefill

CROPS = 5
"""Crops of the LLaVA-NeXT picture that a budget of tokens speaks of: a base and four tiles."""

TEXT, NEW = 60, 16
"""Tokens of a prompt beside the image's, and of an answer, where they are not known yet."""


def plan_of(
    job: Job, spec: ModelSpec, reducer: Reducer, tasks: Sequence[Task], newlines: bool
) -> Plan:
    """Size of a run and what it lacks.

    Args:
        tasks: whose questions are asked; none = pictures of a folder. newlines: whether rows of
            LLaVA-NeXT's tiles end with one.

    Raises:
        WeightsError: a folder of weights that is another model's.
    """
    check_saved(spec, job.weights)
    model, geometry = _shapes(spec.family, json.dumps(spec.kwargs, sort_keys=True))
    found = Plan()
    counts = [(task.name, QUESTIONS[task.name]) for task in tasks]
    if job.limit is not None:
        counts = [(name, min(job.limit, count)) for name, count in counts]
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts)
        found.lines.append(("samples", f"{listed} (published sizes, not counted here)"))
    crops = most_crops(spec)
    grid = geometry.tower.grid
    full = crops * geometry.tower.patches + (2 * grid[0] if crops > 1 and newlines else 0)
    kept = handed(job, reducer, crops)
    found.lines.append(("tokens", _tokens(full, kept, crops, reducer)))
    found.lines.append(("MACs", _work(geometry, full, kept, crops, sum(n for _, n in counts))))
    needed, memory = _memory(job, model, reducer, full, kept, crops)
    found.lines.append(("memory", memory))
    local = spec.hf is not None and Path(spec.hf).expanduser().is_dir()
    if spec.hf is not None and job.weights is None and not local:
        size = 2 * _parameters(model) / 1e9
        found.lines.append(
            (
                "fetch",
                f"about {size:.1f} GB of weights in fp16 (by their shapes) from "
                f"{address(spec.hf)}; sizes of the data sets are not known here",
            )
        )
        if not cached(spec.hf, "model"):
            found.missing.append(
                f"weights: {spec.hf} is not in the local cache. A run fetches it, or give "
                "weights=<folder>."
            )
    found.missing += _lacking_data(job.data or HUB, tasks)
    if spec.device_map is not None and torch.cuda.is_available():
        _say_parts(found, model, DTYPES[job.dtype])
    elif (lack := lacking_memory(job.device, needed)) is not None:
        found.missing.append(lack)
    return found


def most_crops(spec: ModelSpec) -> int:
    """Crops that a picture has at most, and that a budget of tokens is of."""
    return CROPS if spec.family == "llava_next" else 1


@functools.lru_cache(maxsize=2)
def _shapes(family: Family, kwargs: str) -> tuple[nn.Module, LlavaGeometry]:
    """A model of this family and these options (JSON): a table asks for it in each of its rows."""
    model = shape_of(ModelSpec("", family=family, kwargs=json.loads(kwargs)))
    return model, llava_geometry(model)


def _say_parts(found: Plan, model: Any, dtype: torch.dtype) -> None:
    """How the language model's layers are spread over the GPUs of this machine, if they fit."""
    try:
        parts = placed_on(model, dtype, free_memory())
    except BadValueError as error:
        found.missing.append(str(error))
        return
    layers = Counter(at for name, at in parts.items() if ".layers." in name)
    listed = ", ".join(f"{count} on cuda:{at}" for at, count in sorted(layers.items()))
    found.lines.append(("layers", f"{listed}; the tower on cuda:{parts['model.vision_tower']}"))


def handed(job: Job, reducer: Reducer, crops: int) -> int | None:
    """Image tokens that a picture hands to the language model; None where images decide."""
    inside = reducer.tower == "language"
    if job.budget is not None:
        quantity = job.budget.quantity
        known = quantity == "handed" or (quantity == "layer_mean" and not inside)
        # A budget speaks of five crops, as published ones do.
        return round(job.budget.target) if known else None
    if reducer.name == "no_visual_tokens":
        return 0
    counted = reducer.admits() if inside else reducer.site == "output"
    knob = getattr(reducer, reducer.card.knob or "", None)
    if not counted or not reducer.card.fixed_count or knob is None:
        return None
    return int(knob) * (1 if inside else crops)


def _tokens(full: int, kept: int | None, crops: int, reducer: Reducer) -> str:
    whole = f"{full} image tokens of {crops} crop{'s' if crops > 1 else ''} unpruned"
    if reducer.name == "none":
        return whole
    if kept is None:
        if reducer.tower == "language" and not reducer.admits():
            return f"{whole}, all handed over; '{reducer.name}' acts inside the language model"
        return f"{whole}; fewer, as the method or the images decide"
    return f"{whole}, {kept} handed to the language model"


def _work(geometry: LlavaGeometry, full: int, kept: int | None, crops: int, count: int) -> str:
    def giga(tokens: int) -> float:
        return float(unpruned_prefill(geometry, tokens, TEXT, crops).total) / 1e9

    whole = giga(full)
    said = f"{_short(whole)} G a question unpruned up to the first logits"
    if kept is not None:
        said += f", about {_short(giga(kept))} G with the method, its own products left out"
    said += f" ({TEXT} tokens of text assumed)"
    if count:
        said += f"; in all {_short(whole * count / 1e6)} P"
        said += f" and {_short(giga(kept) * count / 1e6)} P" if kept is not None else ""
    return said


def _short(value: float) -> str:
    """Four digits, and no power of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _memory(
    job: Job, model: Any, reducer: Reducer, full: int, kept: int | None, crops: int
) -> tuple[float, str]:
    """GB for the run with the unpruned model, which is its largest, and the parts in words."""
    size = getattr(torch, job.dtype).itemsize
    text, vision = model.config.text_config, model.config.vision_config
    heads = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * size
    weights = _parameters(model) * size / 1e9

    def cache(tokens: int) -> float:
        return job.batch_size * (tokens + TEXT + NEW) * per_token / 1e9

    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    tower = crops * patches * (6 * vision.hidden_size + 2 * vision.intermediate_size) * size
    maps = Need.ATTENTION in reducer.needs and reducer.tower == "vision"
    tower += crops * patches**2 * 3 * 4 * maps
    layer = (full + TEXT) * (6 * text.hidden_size + 3 * text.intermediate_size) * size
    activations = job.batch_size * max(tower, layer) / 1e9
    total = weights + cache(full) + activations
    said = (
        f"about {total:.2f} GB: weights {weights:.2f}, cache {cache(full):.2f} unpruned"
        + (f" ({cache(kept):.2f} with the method)" if kept is not None else "")
        + f", activations about {activations:.2f} (estimates at batch_size={job.batch_size}, "
        f"{job.dtype})"
    )
    return total, said


def _lacking_data(data: str, tasks: Sequence[Task]) -> list[str]:
    if data != HUB:
        root = Path(data).expanduser()
        places = [(task.name, root / f"{task.name}.parquet", root / task.name) for task in tasks]
        gone = [name for name, file, folder in places if not file.is_file() and not folder.is_dir()]
        if not root.is_dir():
            return [f"data: {data} is no folder."]
        return [f"data: {data} has nothing of {', '.join(gone)}."] if gone else []
    gone = [task.name for task in tasks if not cached(task.hub, "dataset")]
    if not gone:
        return []
    return [f"data: not in the local cache: {', '.join(gone)}. A run fetches them, or give data=."]
