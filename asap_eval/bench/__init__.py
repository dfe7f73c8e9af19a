"""One benchmark, one file. Importing this package registers every benchmark in it.

Import names from the modules, not from here: the hash of a job's sources then holds the files of
its own benchmark only.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
