"""What may follow on a command line, for completion by a shell: no torch, a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asap_eval.cli.groups import GROUPS, TIMM, choices, root_keys, subkeys
from asap_eval.cli.index import Described, index

COMMANDS = (
    *("run", "ls", "report", "train", "head", "strip", "cases", "check", "new"),
    *("recompute", "jobs", "doctor", "completion", "help"),
)
REPORTS = ("all", "audit", "cases", "diff", "html", "pictures")
FLAGS = ("--help", "--version", "--multirun", "--cfg", "--config-dir")
LISTS = {"methods": "method", "tasks": "", "plugins": ""}
"""Keys of several values, and the group those are of."""
SWITCHES = ("speed", "force", "debug", "plan")


def candidates(line: str) -> list[str]:
    """Whole words that begin like the last word of a line.

    Args:
        line: up to the cursor; a blank at its end begins a new word.
    """
    words = line.split()[1:]
    begun = "" if line.endswith((" ", "\t")) or not words else words.pop()
    return sorted(word for word in _all(words, begun) if word.startswith(begun))


def _all(before: Sequence[str], begun: str) -> Iterable[str]:
    name = before[0] if before and before[0] in COMMANDS else None
    if name == "help":
        return COMMANDS
    if name in (None, "run"):
        return [*_of_run(before, begun), *([] if before else COMMANDS)]
    if name == "report" and len(before) > 1 and f"report {before[1]}" in index().commands:
        return _of_command(f"report {before[1]}", begun)
    return [*_of_command(str(name), begun), *(REPORTS if before == ["report"] else [])]


def _of_command(name: str, begun: str) -> list[str]:
    """Keys of a command, or values of the key that is begun."""
    found = index().commands[name]
    key, equals, _ = begun.partition("=")
    if begun.startswith("-") and not equals:
        return ["--help", *(f"--{option.name}" for option in found.options)]
    if equals and key in ("model", "method", "experiment"):
        return [f"{key}={choice}" for choice in choices(key)]
    if equals:
        return _values(found, key, key)
    places = [value for option in found.options[:1] for value in _choices(option.kind)]
    return [*(f"{option.name}=" for option in found.options), *places]


def _of_run(before: Sequence[str], begun: str) -> list[str]:
    key, equals, value = begun.partition("=")
    key = key.lstrip("-")
    if begun.startswith("-") and not equals:
        return [*FLAGS, *(f"--{name}" for name in (*root_keys(), *GROUPS))]
    if not equals:
        group, dot, _ = key.partition(".")
        if dot:
            return [f"{group}.{option}=" for option in _options(group, before)]
        return [f"{name}=" for name in (*root_keys(), *GROUPS)]
    if key in GROUPS:
        return [f"{key}={choice}" for choice in choices(key)]
    if LISTS.get(key):
        done = value[: value.rfind(",") + 1] or ("[" if value.startswith("[") else "")
        return [f"{key}={done}{choice}" for choice in choices(LISTS[key])]
    if key in SWITCHES:
        return [f"{key}=true", f"{key}=false"]
    group, _, option = key.partition(".")
    registered = {"method": index().methods, "bench": index().benches}.get(group, {})
    chosen = _chosen(group, before)
    return _values(registered[chosen], option, key) if chosen in registered else []


def _options(group: str, before: Sequence[str]) -> list[str]:
    """Options of the choice that the line makes in a group, or of all choices."""
    chosen = _chosen(group, before)
    registered = {"method": index().methods, "bench": index().benches}.get(group)
    if registered is None:
        return subkeys(group, [chosen] if chosen and chosen != TIMM else [])
    found = [registered[chosen]] if chosen in registered else list(registered.values())
    return sorted({option.name for entry in found for option in entry.options})


def _chosen(group: str, before: Sequence[str]) -> str:
    found = [word.partition("=")[2] for word in before if word.startswith(f"{group}=")]
    return found[-1] if found else ""


def _values(found: Described, option: str, key: str) -> list[str]:
    kinds = [one.kind for one in found.options if one.name == option]
    return [f"{key}={value}" for kind in kinds for value in _choices(kind)]


def _choices(kind: str) -> list[str]:
    """Values of a type that says them."""
    if kind == "bool":
        return ["true", "false"]
    return [] if " | " not in kind else [arm for arm in kind.split(" | ") if arm not in TYPES]


TYPES = ("none", "int", "float", "str", "bool", "list", "dict", "Path")
