"""At which blocks a method acts, where its authors list a few."""

from __future__ import annotations

from asap_eval.errors import BadValueError


def locations(method: str, blocks: list[int] | None, depth: int) -> tuple[int, ...]:
    """The acting blocks, counted from 0 as in the authors' code of the methods that list them.

    Args:
        method: its name, for errors. depth: L.
        blocks: the option; ``None`` = L // 4, L // 2 and 3 L // 4 (3, 6, 9 of 12; 4, 8, 12 of 16).

    Raises:
        BadValueError: not a list of different blocks of the model.
    """
    if blocks is None:
        return tuple(sorted({depth // 4, depth // 2, 3 * depth // 4}))
    fits = all(type(block) is int and 0 <= block < depth for block in blocks)
    if not fits or len(set(blocks)) < len(blocks):
        raise BadValueError(
            f"{method}: blocks={blocks}: give different blocks of the model, counted from 0 as the "
            f"authors do: 0 to {depth - 1}."
        )
    return tuple(sorted(blocks))
