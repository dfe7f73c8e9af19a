"""What the speed scripts share: options, batches of real images, knobs that meet a MACs budget."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from asap_eval.data.images import image_batches, open_images
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Batch, build
from asap_eval.models import LoadedModel
from asap_eval.runner.knob_search import Found, search, whole_knob
from asap_eval.timing.speed import Pixels, spread
from asap_eval.work.macs import model_macs, unpruned_macs


def parser(
    doc: str | None, rounds: int, data: str = "folder with a folder per class"
) -> argparse.ArgumentParser:
    """The options of every script; the first line of ``doc`` says what it is."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    options.add_argument("--data", required=True, help=data)
    options.add_argument("--weights", help="file with the model's weights; timm's hub without it")
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--out", type=Path, help="JSON file; one beside the script without it")
    return options


def beside(name: str, options: argparse.Namespace) -> Path:
    """The file beside the script; its name says device and precision."""
    return Path(__file__).parent / f"{name}-{options.device}-{options.dtype}.json"


def write(report: dict[str, Any], options: argparse.Namespace, name: str) -> Path:
    """The report with its command, as JSON, where ``--out`` says or `beside` the script."""
    out: Path = options.out or beside(name, options)
    others = {key: value for key, value in report.items() if key != "command"}
    command = "python " + " ".join(sys.argv)
    out.write_text(json.dumps({"command": command, **others}, indent=1) + "\n")
    return out


def over_torch(speed: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Speed-up over the untouched model with torch's own fused attention, whatever was faster, and
    its share of the ideal."""
    both = (speed["times_s"][name] for name in ("torch", "method"))
    speedup = spread([whole / pruned for whole, pruned in zip(*both, strict=True)])
    return speedup, speedup["median"] / speed["ideal"]


def batches_of(data: str, loaded: LoadedModel, count: int, size: int) -> list[Pixels]:
    """``count`` batches of ``size`` images, spread over all of a folder."""
    images = open_images(data, classes=1000, labels="wnid", limit=count * size, sample="spread")
    first = next(loaded.model.parameters())
    return [
        Pixels(batch.pixels.to(first.device, first.dtype), tuple(batch.ids))
        for batch in image_batches(images, loaded.transform, size)
    ]


def meet(
    loaded: LoadedModel, name: str, params: dict[str, Any], batches: list[Pixels], target: float
) -> Found:
    """The knob whose total MACs on the timed images come closest to a target, in percent."""
    geometry = geometry_of(loaded.model)

    def change(knob: float) -> float:
        total = []
        for pixels in batches:
            with (
                torch.inference_mode(),
                install(loaded.model, build(name, k=knob, **params)) as trace,
            ):
                trace.name_images(pixels.ids)
                loaded.model(pixels.images)
            total.append((model_macs(geometry, trace) + trace.method_macs).mean())
        return 100 * (float(sum(total)) / len(total) / unpruned_macs(geometry) - 1)

    batch = Batch(
        count=1,
        tokens=geometry.tokens,
        prefix=geometry.prefix,
        depth=geometry.depth,
        has_cls=geometry.has_cls,
        grid=geometry.grid,
        width=geometry.width,
        seed=0,
        device=torch.device("cpu"),
        id_of=str,
    )
    reducer = build(name, **params)
    return search(change, reducer.knob_range(batch), target, whole=whole_knob(reducer), name="k")
