"""``settings=<name>`` of one file: a method's options under a name of their own.

``conf/settings/<name>.yaml`` says ``kind: named``, the ``method`` it is for, its ``options`` and
their ``source``. The command line wins over them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from omegaconf import OmegaConf

from asap_eval.errors import BadValueError
from asap_eval.paths import conf_dir

KIND: Final = "named"


def fill(
    name: str, entry: Mapping[str, Any], method: str, given: Collection[str]
) -> dict[str, Any]:
    """The entry's options that the command line does not give.

    Args:
        name: of the settings. given: keys of the command line.

    Raises:
        BadValueError: they are another method's.
    """
    if entry["method"] != method:
        raise BadValueError(
            f"settings={name} are options of method '{entry['method']}', not of '{method}': add "
            f"method={entry['method']}, or leave settings out."
        )
    options: Mapping[str, Any] = entry["options"]
    return {key: value for key, value in options.items() if f"method.{key}" not in given}


def entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every such file of ``conf/settings``."""
    for file in sorted((conf_dir() / "settings").glob("*.yaml")):
        content = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file)))
        if content["kind"] == KIND:
            yield file.stem, content
