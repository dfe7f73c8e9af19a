"""Where files of the package lie: its configuration, and its cache on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from asap_eval.errors import AsapEvalError

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The folder with ``config.yaml`` and the config groups."""
    places = (PACKAGE / "conf", PACKAGE.parent / "conf")
    for place in places:
        if place.is_dir():
            return place
    raise AsapEvalError(
        f"The configuration folder is missing: looked for {places[0]} and {places[1]}. "
        "Install the package again."
    )


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/asap_eval``, by default below ``~/.cache``; not made here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "asap_eval"
