"""Config groups and keys: what there is to choose, and which options a choice has."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asap_eval.paths import conf_dir
from asap_eval.registry import METHODS

GROUPS = (
    "model",
    "method",
    "bench",
    "budget",
    "settings",
    "train",
    "launch",
    "experiment",
    "paths",
)

FILLED = ("defaults", "hydra", "about", "common", "rows")
"""Keys of ``conf/config.yaml`` that are not for the command line."""

TIMM = "timm"
"""``model=timm model.timm=<name>``: any model of timm; ``model.timm=`` alone means the same."""


ANYTHING: dict[str, Any] = {
    "name": TIMM,
    "timm": None,
    "labels": "auto",
    "classes": None,
    "kwargs": {},
    "head": None,
    "num_classes": None,
    "img_size": None,
    "mean": None,
    "std": None,
    "crop_pct": None,
    "interpolation": None,
    "device_map": None,
}
"""Options of every image model (`asap_eval.models.spec.ModelSpec`); a file of ``conf/model`` gives
some of them."""


def of_timm(name: str) -> bool:
    """Whether timm has a model of this name, with or without the tag of its weights."""
    import timm  # takes seconds: names of ``conf/model`` are looked up first

    return bool(timm.is_model(name.partition(".")[0]))


def near_of_timm(name: str) -> str:
    """Names of timm's models that are nearly this one, in words."""
    import timm

    near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=2, cutoff=0.8)
    return f": {' or '.join(near)}" if near else ""


def method_defaults(name: str) -> dict[str, Any]:
    """Options of a method with their defaults; the knob is null, because ``k`` gives it."""
    from asap_eval.method import method_class  # with torch, which takes a second
    from asap_eval.options import options

    cls = method_class(name)
    return {
        option: None if option == cls.card.knob else default for option, _, default in options(cls)
    }


def choices(group: str, extra: Sequence[Path] = ()) -> list[str]:
    """What a group offers.

    Args:
        extra: folders of the user's own configuration (``--config-dir``).
    """
    files = (file for root in (conf_dir(), *extra) for file in (root / group).glob("*.yaml"))
    own = {"method": METHODS.names(), "model": [TIMM]}
    return sorted({*(file.stem for file in files), *own.get(group, ())})


def root_keys() -> list[str]:
    """Keys that stand alone, such as ``k`` and ``data``."""
    return sorted(keys_in(conf_dir() / "config.yaml") - {*FILLED})


def keys_in(file: Path) -> frozenset[str]:
    """Keys of a file of YAML; read again only where it has changed, as tables ask in every row."""
    found = file.stat()
    return _keys_in(file, found.st_mtime_ns, found.st_size)


@functools.cache
def _keys_in(file: Path, changed: int, size: int) -> frozenset[str]:
    return frozenset(str(key) for key in OmegaConf.load(file))


def subkeys(group: str, chosen: Sequence[str], extra: Sequence[Path] = ()) -> list[str]:
    """Keys below a group: of the choices made, or of all where none is made here."""
    known: set[str] = set()
    # A package of others is imported for its own name alone.
    every = METHODS.at_hand() if group == "method" else choices(group, extra)
    for name in chosen or every:
        if group == "model":
            known.update(ANYTHING)
        if group == "method":
            known.update(method_defaults(name))
        else:
            places = (root / group / f"{name}.yaml" for root in (conf_dir(), *extra))
            for file in filter(Path.exists, places):
                known.update(keys_in(file))
    return sorted(known - {"name"} if group == "model" else known)
