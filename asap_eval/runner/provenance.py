"""Where a number comes from: command, code, packages, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from asap_eval.paths import PACKAGE

PACKAGES = (
    "asap-eval",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "tokenizers",
    "huggingface-hub",
    "pillow",
    "av",
    "lmms-eval",
)
"""Their versions stand in every record."""
OF_METHOD = {
    "method": {}, "methods": None, "plugins": None,
    "k": None, "budget": {"kind": None}, "target": None,
    "settings": {"kind": "measured"}, "seed": 0, "speed": False, "force": False,
}  # fmt: skip
"""Keys of the command line that the unpruned baseline does without, and their values then."""


@dataclass(frozen=True)
class Request:
    """How a run was asked for.

    Attributes:
        config: as composed. overrides: words of the command line, None = called from Python.
    """

    config: Mapping[str, Any]
    overrides: Sequence[str] | None

    @property
    def command(self) -> str:
        """The command that makes this record alone."""
        return command_line(self.overrides)

    def of_baseline(self) -> Request:
        """The same without anything of the method: the unpruned record serves others, too."""
        config = {key: OF_METHOD.get(key, value) for key, value in self.config.items()}
        if self.overrides is None:
            return Request(config, None)
        heads = (re.split(r"[=.@:]", override.lstrip("+~"))[0] for override in self.overrides)
        kept = zip(self.overrides, heads, strict=True)
        return Request(config, [word for word, head in kept if head not in OF_METHOD])


def command_line(overrides: Sequence[str] | None) -> str:
    """A command of these words; called from Python, the running program."""
    if overrides is None:
        return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return shlex.join(["asap-eval", *overrides])


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this package runs from, and whether its code differs from it.

    Both are None outside a checkout.
    """
    root = PACKAGE.parent
    # A package installed into an environment inside some repository is not that repository's code.
    if not (root / ".git").exists():
        return None, None
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    # Results written into the checkout do not make its code dirty.
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--", "asap_eval", "conf")
    return commit, None if changes is None else bool(changes)


def packages() -> dict[str, str]:
    """Versions of Python and of those `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """System, processor and threads; the GPU and its driver where it is used."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(torch.device(device))
        facts["gpu"] = gpu.name
        facts["gpu_memory_gb"] = round(gpu.total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
        query = "--query-gpu=driver_version,clocks.max.sm,clocks.sm"
        facts["driver_and_clocks"] = _output("nvidia-smi", query, "--format=csv,noheader")
    return facts


def kernels(device: str) -> dict[str, Any]:
    """What decides how a product is computed."""
    if not device.startswith("cuda"):
        return {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    backends = torch.backends.cuda
    return {
        "flash_sdp": backends.flash_sdp_enabled(),
        "mem_efficient_sdp": backends.mem_efficient_sdp_enabled(),
        "cudnn_sdp": backends.cudnn_sdp_enabled(),
        "math_sdp": backends.math_sdp_enabled(),
        "tf32": torch.get_float32_matmul_precision(),
    }


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _output(*command: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
