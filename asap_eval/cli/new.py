"""``asap-eval new``: a method to start from, and its test, as files of your own.

Both run as they are written: ``asap-eval check method=<name> plugins=<name>.py`` passes, and so
does ``pytest test_<name>.py``.
"""

from __future__ import annotations

import keyword
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.errors import BadValueError
from asap_eval.files.placed import placed
from asap_eval.paths import PACKAGE
from asap_eval.registry import METHODS

TEMPLATES = PACKAGE / "testing" / "starts"
"""Folder of ``method.txt`` and ``test.txt``."""


@dataclass
class Asked:
    """How it is called, and where it is written."""

    method: str  # its name, as in method=<name>; also that of its file
    into: Path = Path()  # folder of the two files


def main(argv: Sequence[str]) -> int:
    """Write the files; standard output gets their paths. 2 where a name or a file is taken."""
    return command(argv, Asked, "new", str(__doc__), _written, places=["method"])


def _written(asked: Asked) -> None:
    name = asked.method
    _check_name(name)
    files = {
        asked.into / f"{name}.py": "method.txt",
        asked.into / f"test_{name}.py": "test.txt",
    }
    for path in files:
        if path.exists():
            raise BadValueError(f"{path} is there already: choose another name or into=<folder>.")
    for path, template in files.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        with placed(path) as part:
            part.write_text(
                text.replace("METHOD_NAME", name).replace("MethodClass", _class_of(name)),
                encoding="utf-8",
            )
        print(path)
    first = next(iter(files))
    print(f"Next: asap-eval check method={name} plugins={first}", file=sys.stderr)


def _check_name(name: str) -> None:
    """Raise `BadValueError` where a name is none of a module, or one that is taken."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise BadValueError(
            f"method={name}: a method's file is a module: give a name of lower-case letters, "
            "digits and _, such as key_length."
        )
    if name in METHODS.names():
        raise BadValueError(
            f"method={name} is there already (asap-eval ls methods): choose another."
        )
    if name in sys.stdlib_module_names:
        raise BadValueError(f"method={name} is a module of Python's own: choose another name.")


def _class_of(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
