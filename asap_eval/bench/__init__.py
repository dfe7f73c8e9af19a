"""The benchmarks, a file or a folder each. Importing this package registers all of them.

Import names from the modules, not from here: the hash of a job's sources then holds the files of
its own benchmark only.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
