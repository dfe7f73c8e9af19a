"""Packages that only some data needs: imported when asked for; where absent, what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from asap_eval.errors import DataError


def needed(package: str, what: str, install: str | None = None) -> ModuleType:
    """A package that may be absent.

    Args:
        what: needs it, as a message begins. install: what pip is given; None = the package.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{what} needs the package {package}: pip install {install or package}"
        ) from error
