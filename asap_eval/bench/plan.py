"""What can be said of a run before anything is loaded: its size, and what this machine lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub import constants

from asap_eval.data.address import address_parts
from asap_eval.data.named import OPEN
from asap_eval.models import ModelSpec

MEMORY = Path("/proc/meminfo")
"""Where Linux says how much memory a process can have."""


@dataclass
class Plan:
    """What a plan says of a run that is not loaded.

    Attributes:
        lines: ``(head, text)`` each. missing: what the run needs and this machine lacks.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def lacking_memory(device: str, needed_gb: float) -> str | None:
    """Why a device cannot hold so much; None where it can, or where nothing is known of it."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        if not torch.cuda.is_available():
            return f"device={device}: there is no GPU here."
        free, _ = torch.cuda.mem_get_info(torch.device(device))
    elif kind == "cpu" and MEMORY.is_file():
        lines = dict(line.split(":") for line in MEMORY.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        return None
    if free / 1e9 >= needed_gb:
        return None
    return f"memory of {device}: {free / 1e9:.1f} GB are free, about {needed_gb:.1f} GB are needed."


def lacking_weights(spec: ModelSpec, weights: str | None) -> str | None:
    """Which published weights of an image model a run would fetch; None where none."""
    if weights is not None:
        return None
    if spec.hf is not None:
        if Path(spec.hf).expanduser().is_dir() or cached(spec.hf, "model"):
            return None
        return _fetched(f"weights: {spec.hf}", "weights=<file>")
    if spec.timm is None:
        return None
    import timm

    config = timm.get_pretrained_cfg(spec.timm)
    if config is None or not config.hf_hub_id:
        return None  # loading says what is wrong
    file = config.hf_hub_filename or "model.safetensors"
    if isinstance(huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file), str):
        return None
    return _fetched(f"weights: {config.hf_hub_id}/{file}", "weights=<file>")


def lacking_data(data: str) -> str | None:
    """Which data of an address a run would fetch; None where it is here, or none at all."""
    if data in OPEN:
        one = OPEN[data]
        here = one.folder.is_dir()
        return None if here else _fetched(f"data: {data} ({one.holds})", "data=<folder>")
    kind, _, address = data.partition("/")
    if kind == "wds" and "://" in address:
        return _fetched(f"data: {data}", "the folder of its shards as data=wds/<folder>")
    name = address_parts(address)[0]
    if kind != "hfds" or Path(name).expanduser().exists() or cached(name, "dataset"):
        return None
    return _fetched(f"data: {data}", "another data=")


def _fetched(what: str, instead: str) -> str:
    return f"{what} is not in the local cache. A run fetches it, or give {instead}."


def cached(repository: str, kind: str) -> bool:
    """Whether anything of a repository (``model`` or ``dataset``) lies in the hub's local cache."""
    name = f"{kind}s--{repository.replace('/', '--')}"
    snapshots = Path(constants.HF_HUB_CACHE) / name / "snapshots"
    return any(snapshots.glob("*/*")) if snapshots.is_dir() else False
