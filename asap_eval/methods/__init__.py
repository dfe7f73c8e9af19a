"""One paper, one file, called like its method. Importing this package makes all names known."""

from __future__ import annotations

import pkgutil

from asap_eval.registry import METHODS

METHODS.offer(
    {
        module.name: f"{__name__}.{module.name}"
        for module in pkgutil.iter_modules(__path__)
        if not module.ispkg
    }
)
