"""Where the configuration files are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

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
