"""``settings=authors``: knob and options that a method's authors used with a model, by source.

``conf/settings/authors/<model>.yaml`` has one entry per method: its options under their own names,
``source`` (where they stand, and how sure that is) and ``unknown`` (options that the authors chose
and that are not known: they have to be given).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from asap_eval.cli.entries import Kind, entries, known_models
from asap_eval.errors import BadValueError, UnknownNameError

KIND: Final[Kind] = "authors"
ABOUT = ("source", "unknown")
"""Keys of an entry that are no options of the method."""


def fill(
    model: str, method: str, given: Collection[str], *, budget: bool
) -> tuple[float | None, dict[str, Any]]:
    """What the authors' entry says and the command line does not: the knob, and other options.

    Args:
        given: keys of the command line. budget: whether a budget finds the knob.

    Raises:
        UnknownNameError: no entry. BadValueError: an unknown value was not given.
    """
    from asap_eval.method import method_class  # with torch, which a list does without
    from asap_eval.options import options

    cls = method_class(method)
    if not list(options(cls)):
        return None, {}  # nothing to set
    entry = _entry(model, method)
    for option in entry.get("unknown", ()):
        if f"method.{option}" not in given:
            raise BadValueError(
                f"settings={KIND}: the authors' {option} of '{method}' is not known. Give it as "
                f"method.{option}=<value>."
            )
    values = {
        option: value
        for option, value in entry.items()
        if option not in ABOUT and f"method.{option}" not in given
    }
    knob = values.pop(cls.card.knob or "", None)
    return (None if budget or "k" in given else knob), values


def _entry(model: str, method: str) -> dict[str, Any]:
    found = entries(KIND, model)
    if method in found:
        return found[method]
    there = f"methods {', '.join(found)}" if found else f"models {', '.join(known_models(KIND))}"
    raise UnknownNameError(
        f"settings={KIND} has no entry for method '{method}' on model '{model}'; "
        f"{'for this model' if found else 'in all'} there are the {there}. "
        "Leave settings out for the method's defaults."
    )
