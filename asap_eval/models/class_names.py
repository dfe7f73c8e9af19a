"""What a model's classes are called: as given, or as its checkpoint or zero-shot head says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asap_eval.checkpoint import read_classes
from asap_eval.errors import BadValueError


def given_names(classes: Any) -> tuple[str, ...]:
    """The names of ``model.classes=``: a list of them, or a file with one a line.

    Raises:
        BadValueError: no such file, or something that is no name.
    """
    if isinstance(classes, str):
        try:
            lines = Path(classes).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadValueError(
                f"model.classes={classes} cannot be read ({error}). Give a text file with the name "
                "of one class a line, in the order of the model's class numbers, or a list."
            ) from error
        return tuple(line.strip() for line in lines if line.strip())
    if isinstance(classes, (bool, int, float)):
        raise BadValueError(
            f"model.classes={classes}: give a text file with the name of one class a line, in the "
            "order of the model's class numbers, or a list."
        )
    if bad := [
        name for name in classes if isinstance(name, bool) or not isinstance(name, (str, int))
    ]:
        raise BadValueError(f"model.classes holds {bad[0]!r}, which is no name: put it in quotes.")
    return tuple(map(str, classes))


def class_names(
    given: Any,
    *,
    head: Sequence[str] | None,
    weights: Path | None,
    count: int,
) -> tuple[str, ...] | None:
    """Names of a model's classes in the order of their numbers; None where nothing says them.

    Args:
        given: ``model.classes``, which wins. head: classes of a zero-shot head. weights: file of
            the checkpoint, None = not from a file. count: of the model's classes.

    Raises:
        BadValueError: not one name for each class.
    """
    source, names = "model.classes", None if given is None else given_names(given)
    if names is None and head is not None:
        source, names = "model.head", tuple(head)
    if names is None and weights is not None:
        source, names = f"weights={weights}", read_classes(weights)
    if names is None:
        return None
    if len(names) != count or len(set(names)) != count:
        raise BadValueError(
            f"{source} names {len(names)} classes, {len(set(names))} of them different, and the "
            f"model has {count}. Give every class a name of its own, in the order of their numbers."
        )
    return names
