"""The counts that DiffRate's authors learnt, by model and budget, and counts between them.

``diffrate_counts.json`` holds them as published (github.com/OpenGVLab/DiffRate @ 91ae3e3): tokens
left in each block after pruning and after merging, class token included, for some GMACs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from asap_eval.checkpoint import stamped
from asap_eval.errors import BadValueError, WeightsError, unknown
from asap_eval.method import Batch

FILE = Path(__file__).with_name("diffrate_counts.json")
FORMAT = "asap-eval counts 1"
"""``format`` in a file that this package wrote."""

USUAL = 0.65
"""Share of the unpruned work whose nearest published budget is the default."""


@dataclass(frozen=True)
class Counts:
    """Tokens left in each block after pruning and after merging, prefix included."""

    prune: tuple[int, ...]
    merge: tuple[int, ...]

    @property
    def least(self) -> int:
        """The fewest tokens that any block leaves."""
        return min(self.prune + self.merge)

    def effective(self, tokens: int) -> Counts:
        """The same where counts above what is there, which do nothing, are what is there."""
        prune, merge = [], []
        for wanted, left in zip(self.prune, self.merge, strict=True):
            prune.append(min(tokens, wanted))
            merge.append(tokens := min(tokens, wanted, left))
        return Counts(tuple(prune), tuple(merge))


@dataclass(frozen=True)
class Published:
    """The budgets of one model. unpruned: its GMACs. budgets: counts by GMACs, ascending."""

    name: str
    depth: int
    width: int
    tokens: int
    unpruned: float
    budgets: dict[float, Counts]


@lru_cache(maxsize=1)
def published() -> dict[str, Published]:
    """By name, in the order of the file."""
    return _published(json.loads(FILE.read_text(encoding="utf-8")))


def _published(content: Mapping[str, Any]) -> dict[str, Published]:
    def of(name: str, said: Mapping[str, Any]) -> Published:
        listed = sorted((float(at), row) for at, row in said["budgets"].items())
        return Published(
            name,
            budgets={at: Counts(tuple(r["prune"]), tuple(r["merge"])) for at, r in listed},
            **{key: value for key, value in said.items() if key != "budgets"},
        )

    return {name: of(name, said) for name, said in content.items()}


def made(file: str) -> dict[str, str]:
    """What a file of counts says of its making.

    Raises:
        WeightsError: it is no file of counts.
    """
    return dict(_content(*stamped(file, "method.counts"))["made"])


@lru_cache(maxsize=4)
def _content(file: Path, written: int) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"method.counts={file} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(
            f"method.counts={file} is no file of counts; `asap-eval train method=diffrate` makes "
            "one."
        )
    return content


def of_shape(name: str | None, batch: Batch) -> Published:
    """The budgets of a name or file, or the first that were learnt on a model of this shape.

    Raises:
        BadValueError: no such name; for other blocks or tokens; none has this shape.
        WeightsError: a file that is no file of counts.
    """
    known = published()
    if name is not None and name.endswith(".json"):
        known = _published(_content(*stamped(name, "method.counts"))["counts"])
        (name,) = known
    if name is not None and name not in known:
        raise unknown("value of diffrate.counts", name, known)
    shape = (batch.depth, batch.width, batch.tokens - batch.prefix + 1)
    for each in known.values() if name is None else [known[name]]:
        theirs = (each.depth, each.width if name is None else batch.width, each.tokens)
        if shape == theirs:
            return each
    what = "no counts were published" if name is None else f"counts={name} were not learnt"
    raise BadValueError(
        f"diffrate: {what} for {shape[0]} blocks of width {shape[1]} on {shape[2]} tokens. "
        "Give prune=[...] and merge=[...], one count per block, or one of these models: "
        f"{', '.join(known)}."
    )


def limits(of: Published) -> tuple[float, float]:
    """GMACs between which counts exist: one step below the least budget (that budget, where it is
    the only one), and all of the work."""
    least, *more = of.budgets
    return least if not more else 2 * least - more[0], of.unpruned


def budget(of: Published, gmacs: float | None, prefix: int) -> Counts:
    """The counts of a budget: published ones as they are; between them, ours.

    Between two budgets, and from the largest up to the whole work, each count lies between theirs
    in proportion; below the least it goes on as from the next one to it. Rounded, at least 2, never
    rising.

    Args:
        gmacs: ``None`` = the published budget nearest to `USUAL`.
        prefix: tokens before the patches.

    Raises:
        BadValueError: outside `limits`.
    """
    known = of.budgets
    if gmacs is None:
        gmacs = min(known, key=lambda at: abs(at - USUAL * of.unpruned))
    low, high = limits(of)
    if not low <= gmacs <= high:
        raise BadValueError(
            f"diffrate: k={gmacs:g} GMACs: give {low:g} to {high:g} for {of.name}; published are "
            f"{', '.join(f'{at:g}' for at in known)}."
        )
    more = prefix - 1  # published counts have one prefix token
    if gmacs in known:
        found = known[gmacs]
        return Counts(*(tuple(n + more for n in row) for row in (found.prune, found.merge)))
    whole = Counts((of.tokens,) * of.depth, (of.tokens,) * of.depth)
    anchors = [*((at, row.effective(of.tokens)) for at, row in known.items()), (of.unpruned, whole)]
    after = next(i for i, (at, _) in enumerate(anchors) if i and at >= gmacs)
    (below, fewer), (above, most) = anchors[after - 1], anchors[after]
    share = (gmacs - below) / (above - below)

    def between(rows: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        counts = [max(2, round(small + share * (large - small))) for small, large in rows]
        return tuple(min(counts[: at + 1]) + more for at in range(len(counts)))

    prune = between(zip(fewer.prune, most.prune, strict=True))
    merge = between(zip(fewer.merge, most.merge, strict=True))
    return Counts(prune, merge)
