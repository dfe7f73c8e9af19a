"""Images per second of a whole job, against the bare forward and against a loop as timm's.

    python benchmarks/feed.py --data imagenet/val --weights deit_tiny.safetensors --workers 2

In turns, forwards and backwards, on the same images, batch size and number of decoding processes:

* forward: the model alone on tensors that are there.
* timm: what timm's `validate.py` does. That script is in timm's repository and not in its package,
  so its loop is written here from timm's public parts: `create_dataset`, `create_loader` without
  its prefetcher on a CPU, `accuracy` and `AverageMeter`, the loss, no mixed precision.
* cold: `asap_eval.runner.run` with nothing kept: files fingerprinted, images decoded and written to
  the cache, rows synchronised to the disk, record written.
* later: the same once more, as a further row of a table: nothing is decoded.

What a process does once is not counted: imports, the model, reading its own sources. Ratios are
taken inside a round, of the time on the clock and of the processors' time, all processes together.
The latter is hardly moved by neighbours, and says nothing of a GPU or of decoding that goes on
beside the model. The machine's load is written down.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader, resolve_model_data_config
from timm.utils import AverageMeter, accuracy

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.data.images import image_batches, open_images
from asap_eval.data.subset import subset
from asap_eval.files import fingerprint
from asap_eval.models import LoadedModel
from asap_eval.paths import cache_folder
from asap_eval.record import Job
from asap_eval.runner import latest_model, run
from asap_eval.timing.speed import backend, spread

OVER = (("cold", "timm"), ("later", "timm"), ("cold", "forward"), ("later", "forward"))
"""Contenders whose speed is printed as a multiple of another's."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        images = _chosen(Path(options.data), Path(folder) / "images", options.limit)
        report = _measured(options, Path(folder), images)
    _print(report)
    print(contenders.write(report, options, "feed"))


def _options() -> argparse.Namespace:
    parser = contenders.parser(__doc__, rounds=7)
    parser.add_argument("--model", default="deit_tiny", help="of ImageNet's classes")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="decoding processes")
    parser.add_argument("--limit", type=int, help="images, evenly from all; all without it")
    return parser.parse_args()


def _chosen(data: Path, folder: Path, limit: int | None) -> int:
    """Fill a folder with links to the images, for both to read; returns their number."""
    ids = open_images(str(data), classes=1000, labels="wnid").ids
    chosen = [ids[at] for at in subset(range(len(ids)), limit, "spread")] if limit else ids
    for name in chosen:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((data / name).resolve())
    return len(chosen)


def _measured(options: argparse.Namespace, folder: Path, count: int) -> dict[str, Any]:
    job = Job(
        options.model,
        weights=options.weights,
        data=str(folder / "images"),
        batch_size=options.batch_size,
        device=options.device,
        dtype=options.dtype,
    )
    loaded = latest_model.load(job)
    assert isinstance(loaded, LoadedModel)
    like = next(loaded.model.parameters())
    images = open_images(job.data, classes=1000, labels="wnid")
    batches = [
        batch.pixels.to(like.device, like.dtype)
        for batch in image_batches(images, loaded.transform, job.batch_size)
    ]

    def whole_job() -> None:
        run(job, results=folder / "results", force=True, workers=options.workers)

    def cold() -> None:
        fingerprint._known.clear()
        whole_job()

    steps: dict[str, Callable[[], None]] = {
        "forward": lambda: _forward(loaded, batches),
        "timm": lambda: _as_timm(loaded, job, options.workers),
        "cold": cold,
        "later": whole_job,
    }
    clock: dict[str, list[float]] = {name: [] for name in steps}
    busy: dict[str, list[float]] = {name: [] for name in steps}
    load = []
    for number in range(-1, options.rounds):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            if name == "cold":
                shutil.rmtree(cache_folder() / "pictures", ignore_errors=True)
            elif name == "later" and not (cache_folder() / "pictures").exists():
                whole_job()  # backwards: the row that comes first is not timed
            seconds, processors = _seconds(steps[name], like.device)
            if number >= 0:
                clock[name].append(seconds)
                busy[name].append(processors)
        load.append(os.getloadavg()[0])
        print(f"round {number + 1} of {options.rounds}, load {load[-1]:.1f}", file=sys.stderr)
    return {
        "model": job.model,
        "images": count,
        "workers": options.workers,
        "rounds": options.rounds,
        "images_s": {name: spread([count / s for s in taken]) for name, taken in clock.items()},
        "images_cpu_s": {name: spread([count / s for s in taken]) for name, taken in busy.items()},
        "over": _ratios(clock),
        "over_cpu": _ratios(busy),
        "times_s": clock,
        "cpu_s": busy,
        "machine": {**backend(batches[0]), "cpus": os.cpu_count(), "kind": platform.machine()},
        "load": load,
    }


def _ratios(taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """How many times as fast one contender is as another."""
    return {
        f"{one}/{other}": spread([b / a for a, b in zip(taken[one], taken[other], strict=True)])
        for one, other in OVER
    }


def _seconds(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Time on the clock, and of the processors: of this process and of those that it waited for."""
    before, begin = os.times(), time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, after = time.perf_counter() - begin, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


@torch.inference_mode()
def _forward(loaded: LoadedModel, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        loaded.model(batch)


@torch.inference_mode()
def _as_timm(loaded: LoadedModel, job: Job, workers: int) -> None:
    """Loss and accuracy of a folder, batch by batch; without workers this process decodes."""
    device = next(loaded.model.parameters()).device
    config = resolve_model_data_config(loaded.model)
    loader = create_loader(
        create_dataset("", root=job.data),
        input_size=config["input_size"],
        batch_size=job.batch_size,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        num_workers=workers,
        device=device,
        use_prefetcher=device.type == "cuda",
        pin_memory=device.type == "cuda",
        img_dtype=next(loaded.model.parameters()).dtype,
        persistent_workers=workers > 0,
    )
    criterion = torch.nn.CrossEntropyLoss()
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    for images, target in loader:
        output = loaded.model(images)
        loss = criterion(output, target)
        first, five = accuracy(output, target, topk=(1, 5))
        losses.update(loss.item(), len(images))
        top1.update(first.item(), len(images))
        top5.update(five.item(), len(images))


def _print(report: dict[str, Any]) -> None:
    title = f"Feeding {report['model']}: on the clock, and of the processors' time"
    speeds = Table("contender", "images/s [p10, p90]", "per CPU second", title=title)
    for name in report["images_s"]:
        speeds.add_row(name, *(_shown(report[of][name]) for of in ("images_s", "images_cpu_s")))
    ratios = Table("ratio", "median [p10, p90]", "of CPU time")
    for name in report["over"]:
        ratios.add_row(name, *(_shown(report[of][name]) for of in ("over", "over_cpu")))
    Console().print(speeds, ratios)


def _shown(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} [{found['p10']:.2f}, {found['p90']:.2f}]"


if __name__ == "__main__":
    main()
