"""Where things are, for tests that look at the project itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ASAP_EVAL_SHARED", ROOT.parent / "shared"))
"""Data beside the checkout; not part of the project."""


def read_toml(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)
