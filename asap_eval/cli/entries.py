"""``conf/settings/<kind>/<model>.yaml``: settings of methods with a model, one entry a method.

An entry holds options under their own names, beside keys that say where they come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from asap_eval.paths import conf_dir

Kind = Literal["authors", "measured"]


def entries(kind: Kind, model: str) -> dict[str, dict[str, Any]]:
    """Entries of a model by method; empty where there is no file for it."""
    file = conf_dir() / place(kind, model)
    if not file.exists():
        return {}
    return cast("dict[str, dict[str, Any]]", OmegaConf.to_container(OmegaConf.load(file)))


def known_models(kind: Kind) -> list[str]:
    """Models that have a file of entries."""
    return sorted(file.stem for file in (conf_dir() / "settings" / kind).glob("*.yaml"))


def place(kind: Kind, model: str) -> Path:
    """The file of a model, below ``conf/``."""
    return Path("settings", kind, f"{model}.yaml")
