"""From the words of a command line to options, in one way for every command.

``key=value``, ``--key=value`` and ``--key value`` mean the same, ``--key`` alone is true where the
key is a switch, and in a key ``-`` is ``_``. A command's options are a dataclass: its annotations
are the types, the comment behind a field is what ``--help`` says of it.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from asap_eval.cli.guard import guarded
from asap_eval.errors import BadValueError, unknown

T = TypeVar("T")


Count = Annotated[int, "0 = all"]
"""A number of things, 0 for all of them."""

OPTION = re.compile(r"-{1,2}[A-Za-z]")
SETTING = re.compile(r"^[A-Za-z][\w.-]*=")
SHORT = {"c": "cfg", "h": "help", "m": "multirun"}
"""What a single letter stands for."""


def settings(
    words: Sequence[str],
    switches: Collection[str] = (),
    lists: Collection[str] = (),
    known: Collection[str] = (),
) -> list[str]:
    """Every word as ``key=value``, or as it is where it has no key.

    Args:
        switches: keys that need no value. lists: keys behind which several words may stand.
        known: all keys, where an unknown one without a value is to be told by its name.

    Raises:
        BadValueError: a key without a value. UnknownNameError: an unknown one without a value.
    """
    found, waiting = [], list(words)
    while waiting:
        word = waiting.pop(0)
        if OPTION.match(word) is None:
            found.append(SETTING.sub(lambda key: _named(key[0]), word, count=1))
            continue
        name, equals, value = word.lstrip("-").partition("=")
        key = SHORT.get(name, _named(name))
        if not equals:
            value = _value(word, key, waiting, switches, known)
        found.append(f"{key}={value}")
        while key in lists and waiting and not _begins(waiting[0]):
            found.append(f"{key}={waiting.pop(0)}")
    return found


def _named(key: str) -> str:
    return key.replace("-", "_")


def _begins(word: str) -> bool:
    """Whether a word names a key."""
    return bool(OPTION.match(word) or SETTING.match(word))


def _value(
    word: str, key: str, waiting: list[str], switches: Collection[str], known: Collection[str]
) -> str:
    if key in (*switches, "help"):
        return waiting.pop(0) if waiting and waiting[0] in ("true", "false") else "true"
    if not waiting or OPTION.match(waiting[0]):
        if known and key.partition(".")[0] not in known:
            raise unknown("option", word, [f"--{name}" for name in (*known, "help", "version")])
        raise BadValueError(f"{word} stands without a value: give {word} <value> or {key}=<value>.")
    return waiting.pop(0)


def asks_for_help(words: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in words)


def debugging(words: Sequence[str]) -> bool:
    """Whether an error is to be shown with its stack trace."""
    return "debug=true" in words or "--debug" in words


def switches_of(cls: type[Any]) -> set[str]:
    """The options of a command that are true or false."""
    return {name for name, hint in typing.get_type_hints(cls).items() if hint is bool}


def command(
    argv: Sequence[str],
    cls: type[T],
    name: str,
    about: str,
    step: Callable[[T], object],
    *,
    places: Sequence[str] = (),
) -> int:
    """Run a command: show its help, or read its options and do its step.

    Args:
        cls: its options. name: as it is typed. about: what it does, for ``--help``. places: options
            that words without a key fill in turn; a list takes all that are left.

    Returns:
        The step's exit code; 2 where the call is wrong, 1 where it cannot be done.
    """
    if asks_for_help(argv):
        print(help_of(cls, name, about, places))
        return 0
    return guarded(lambda: step(read(argv, cls, name, places=places)), debug=debugging(argv))


def read(words: Sequence[str], cls: type[T], name: str, *, places: Sequence[str] = ()) -> T:
    """The options of a command line, those that are not given at their default.

    Raises:
        UnknownNameError: no such key; near names are suggested.
        BadValueError: a word without a key, a key twice or left out, or a value of another type.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    lists = {key for key, hint in hints.items() if typing.get_origin(hint) is list}
    groups = _groups(hints)
    known = [key for key in hints if key not in groups.values()]
    free = list(places)
    given: dict[str, Any] = {}
    for word in settings(words, switches_of(cls), lists, [*known, *groups]):
        key, equals, value = word.partition("=") if SETTING.match(word) else ("", "", word)
        if not equals:
            if not free:
                raise BadValueError(
                    f"'{word}' has no key: give key=value, with a key of {', '.join(known)}."
                )
            key = free[0] if free[0] in lists else free.pop(0)
        group, dot, option = key.partition(".")
        if dot and option and group in groups:
            given.setdefault(groups[group], {})[option] = plain(word)
        elif key not in known:
            more = [f"{group}.<option>" for group in groups]
            raise unknown(f"key of asap-eval {name}", key, [*known, *more])
        elif key in lists:
            given.setdefault(key, []).extend(typed(key, value, hints[key]))
        elif key in given:
            raise BadValueError(f"{key} is given twice: {given[key]} and {value}.")
        else:
            given[key] = typed(key, value, hints[key])
    for option_field in fields(cls):  # type: ignore[arg-type]
        if _needed(option_field) and option_field.name not in given:
            raise BadValueError(
                f"{option_field.name} is missing. asap-eval {name} --help lists the keys."
            )
    return cls(**given)


def _groups(hints: Mapping[str, Any]) -> dict[str, str]:
    """Fields that hold options of a group, by the group: ``options`` those of the method,
    ``method.<name>=``, ``model_options`` those of the model."""
    fields_of = [key for key, hint in hints.items() if typing.get_origin(hint) is dict]
    return {_group(key): key for key in fields_of}


def _group(field_name: str) -> str:
    return "method" if field_name == "options" else field_name.removesuffix("_options")


def _needed(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def plain(word: str) -> Any:
    """The value of a method's option, ``option=value``: its type is the method's affair."""
    from asap_eval.cli.overrides import parsed

    return parsed([word])[0].value()


def typed(key: str, text: str, hint: Any) -> Any:
    """A value as an option's type has it.

    Raises:
        BadValueError, UnknownNameError: it is of another type, or none of the choices.
    """
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if text in arms:
            return text
        raise unknown(f"value of {key}", text, map(str, arms))
    if origin in (typing.Union, types.UnionType):
        if text == "null" and type(None) in arms:
            return None
        if any(text in typing.get_args(arm) for arm in arms):
            return text
        return typed(key, text, next(arm for arm in arms if arm is not type(None)))
    if origin is list:
        inner = text.removeprefix("[").removesuffix("]").split(",")
        return [typed(key, part.strip(), arms[0]) for part in inner if part.strip()]
    if hint == Count:
        if text.isdecimal():
            return int(text)
        raise BadValueError(f"{key}={text}: give a number, 0 for all.")
    if hint is bool:
        if text in ("true", "false"):
            return text == "true"
        raise BadValueError(f"{key}={text!r}: give true or false.")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            words = {int: "a whole number", float: "a number"}
            raise BadValueError(f"{key}={text!r}: give {words[hint]}.") from None
    if not text:
        raise BadValueError(f"{key}= stands without a value: give {key}=<value>.")
    return Path(text).expanduser() if hint is Path else text


def help_of(cls: type[Any], name: str, about: str, places: Sequence[str] = ()) -> str:
    """What a command does, and its options with their defaults."""
    said = comments_of(cls)
    first, _, rest = about.strip().partition("\n")
    usage = " ".join(["asap-eval", name, *(f"<{place}>" for place in places), "[key=value ...]"])
    shown = [(_shown(option, places), said[option.name]) for option in fields(cls)]
    width = max(len(key) for key, _ in shown)
    keys = [f"  {key:{width}}  {text}" for key, text in shown]
    return "\n".join([_plain_text(first), "", f"  {usage}", *_paragraph(rest), "", *keys])


def _shown(option: Field[Any], places: Sequence[str]) -> str:
    if option.default_factory is dict:
        return f"{_group(option.name)}.<option>="
    default = option.default
    if option.name in places and default is MISSING:
        return f"<{option.name}>"
    if default is MISSING or default in (None, ""):
        return f"{option.name}="
    return f"{option.name}={str(default).lower() if default in (True, False) else default}"


def _paragraph(text: str) -> list[str]:
    return ["", *_plain_text(text).strip("\n").splitlines()] if text.strip() else []


def _plain_text(docstring: str) -> str:
    return docstring.replace("``", "")


def comments_of(cls: type[Any]) -> dict[str, str]:
    """What the source says behind each field of a dataclass."""
    found: dict[str, str] = {}
    for base in cls.__mro__[-2::-1]:
        found.update(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(base), re.M))
    return found
