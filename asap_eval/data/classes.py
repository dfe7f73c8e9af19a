"""Class numbers for what a data set calls its classes.

Names decide wherever the model and the data both have them. Only where one of them has none are the
data's classes taken by their order, and then a note says so: a model whose classes stand in another
order would score at chance. Names that are the numbers from 0 on are the model's class numbers,
whatever order they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from asap_eval.errors import DataError, some_of
from asap_eval.models.spec import IMAGENET_CLASSES, Labels

SHOWN = 5
"""Classes that a message names."""

_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Classes:
    """What the model's class numbers mean, and how many there are.

    Attributes:
        count: of them. labels: see `Labels`.
        names: of the classes in the order of their numbers; None = the model says none, or they are
            WordNet's (``labels="wnid"``).
    """

    count: int
    labels: Labels
    names: Sequence[str] | None = None

    @property
    def named(self) -> bool:
        """Whether the model says what its classes are called."""
        return self.names is not None or self.labels == "wnid"

    def place(self, name: str) -> int | None:
        """The class number of a name; None where the model has none, or several, called so."""
        return self._places.get(name, self._places.get(_plain(name)))

    def know(self, names: Iterable[str]) -> bool:
        """Whether the model has a class of each of these names."""
        return all(self.place(name) is not None for name in names)

    def check(self, label: object, where: str) -> int:
        """The class number of a stored label, a number or a name.

        Raises:
            DataError: it is no class of the model.
        """
        known = self.place(label) if isinstance(label, str) else None
        return _in_range(label, self.count, where) if known is None else known

    def unknown(self, name: str) -> str:
        """That no class of the model is called so, and what to do."""
        if self.labels == "wnid":
            own = (
                f"the {IMAGENET_CLASSES} ImageNet ids (n01440764 to n15075141) or of their names "
                "in WordNet"
            )
        else:
            own = f"the model's {self.count} ({some_of(self.names or (), SHOWN)})"
        return (
            f"class '{name}' is not one of {own}. Remove it, choose the model trained for these "
            "classes, or name the model's classes as the data does, in the model's order: "
            "model.classes=<file, one a line>."
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        if self.names is not None:
            return _unique(enumerate(self.names))
        return _wordnet() if self.labels == "wnid" else {}


@dataclass(frozen=True)
class Numbered:
    """Class numbers of the model, and what a reader has to know of how they were found."""

    numbers: list[int]
    note: str | None = None


def numbered(
    names: Sequence[str], classes: Classes, where: str, *, what: str, order: str
) -> Numbered:
    """The model's class number of each of a data set's classes.

    Args:
        names: of the data's classes. what: they are, order: they stand in, in a word.

    Raises:
        DataError: a class that the model has not, or numbers of classes that differ.
    """
    known = list(map(classes.place, names))
    found = [place for place in known if place is not None]
    if len(found) == len(names):
        return Numbered(found)
    has = f"{where} has {len(names)} {what} ({some_of(names, SHOWN)}) and the model {classes.count}"
    by_order = list(range(len(names)))
    numbers = _mere_numbers(names)
    mere = numbers is not None
    if classes.labels == "wnid" and not found and 1 < len(names) != classes.count:
        raise DataError(_own_classes(names, where, what))
    if classes.named:
        agree = _in_their_places(known, classes) or (mere and not found)
        if len(names) != classes.count or not agree:
            raise DataError(f"{has}: {classes.unknown(names[known.index(None)])}")
    elif len(names) != classes.count:
        raise DataError(
            f"{has}, which it does not name: {what} map to its classes in {order} order, so both "
            "numbers must be equal. Choose the model trained for this data, or name its classes "
            "(model.classes=<file, one a line>)."
        )
    if found and not mere:
        other = [f"{name} = {at}" for at, name in enumerate(names) if known[at] is None]
        return Numbered(
            by_order,
            f"{where}: {len(found)} of {len(names)} {what} are called as in WordNet and stand at "
            f"their numbers; the others are taken by their order ({some_of(other, SHOWN)}).",
        )
    why = "the model does not name its classes"
    if numbers is not None:
        why = f"its {what} are mere numbers"
        order = order if numbers == by_order else "numeric"
    taken = by_order if numbers is None else numbers
    shown = some_of([f"{name} = {at}" for name, at in zip(names, taken, strict=True)], SHOWN)
    hint = "" if classes.named else " model.classes=<file> names the model's."
    if order == "numeric" and hint:
        hint = (
            " torchvision's ImageFolder has 10 before 2: for a model trained so, "
            "model.classes=<file> says its order."
        )
    return Numbered(taken, f"{where}: {why}, so {what} are taken in {order} order ({shown}).{hint}")


def _own_classes(names: Sequence[str], where: str, what: str) -> str:
    """That none of the data's classes is one of ImageNet's, and the ways out."""
    count = len(names)
    return (
        f"{where} has {count} {what} ({some_of(names, SHOWN)}), none of which the model knows: its "
        f"classes are ImageNet's {IMAGENET_CLASSES}. For classes of your own give a model trained "
        f"on them: model=<name> model.num_classes={count} weights=<its checkpoint>. If they are "
        f"some of ImageNet's, call the {what} by its ids or names (n01440764, tench). What a "
        "method keeps of each image needs no classes: bench=keepmaps."
    )


def labelled(
    values: Sequence[object], names: Sequence[str] | None, classes: Classes, where: str
) -> Numbered:
    """The model's class number of every stored label.

    Args:
        values: numbers, or names. names: what the numbers are called; None = not said.

    Raises:
        DataError: a label that is no class of the model.
    """
    images = [f"{where}: image {at}" for at in range(len(values))]
    order = "stored"
    if names is None and (texts := {value for value in values if isinstance(value, str)}):
        if len(texts) < len(set(values)):
            raise DataError(f"{where} has labels that are names and others that are none.")
        if all(map(_NUMBER.fullmatch, texts)) and not classes.know(texts):
            values = [int(str(value)) for value in values]
        else:
            names, order = sorted(texts), "sorted"
            places = {name: at for at, name in enumerate(names)}
            values = [places[str(value)] for value in values]
    if names is None:
        numbers = [classes.check(*pair) for pair in zip(values, images, strict=True)]
        return Numbered(numbers, of_numbers(where))
    found = numbered(names, classes, where, what="classes", order=order)
    within = map(_in_range, values, [len(names)] * len(values), images)
    return Numbered([found.numbers[at] for at in within], found.note)


def of_numbers(where: str) -> str:
    """The note on data whose labels are class numbers."""
    return f"{where}: its labels are numbers without names, taken as the model's class numbers."


def _in_range(label: object, count: int, where: str) -> int:
    if not isinstance(label, int) or not 0 <= label < count:
        raise DataError(
            f"{where} has label {label!r}; the classes are 0 to {count - 1}. "
            "Use a split with labels, and the model these labels belong to."
        )
    return label


def _mere_numbers(names: Sequence[str]) -> list[int] | None:
    """What names say that are the numbers from 0 on, each once, in any order: sorted as text, 10
    comes before 2. None where they are not."""
    if not all(re.fullmatch(r"[0-9]+", name) for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if sorted(numbers) == list(range(len(numbers))) else None


def _in_their_places(known: Sequence[int | None], classes: Classes) -> bool:
    """Whether most of ImageNet's classes are called as in WordNet and all of those stand where
    they belong: lists of its classes differ in a few names."""
    right = sum(place == at for at, place in enumerate(known))
    wrong = sum(place is not None for place in known) - right
    return classes.names is None and right > classes.count / 2 and not wrong


@lru_cache(maxsize=1)
def _wordnet() -> dict[str, int]:
    """Places of ImageNet's ids, of their lemmas, and of the first of them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    called = []
    for place, wnid in enumerate(info.label_names()):
        lemmas = info.label_name_to_description(wnid)
        called += [(place, name) for name in (wnid, lemmas, lemmas.split(",")[0])]
    assert called[-1][0] == IMAGENET_CLASSES - 1
    return _unique(called)


def _unique(called: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Place of each name, and of its plain form where no other place is called so."""
    pairs = list(called)
    exact, plain = _of_one_place(pairs), _of_one_place((at, _plain(name)) for at, name in pairs)
    return plain | exact


def _of_one_place(called: Iterable[tuple[int, str]]) -> dict[str, int]:
    places: dict[str, int] = {}
    several = {name for place, name in called if places.setdefault(name, place) != place}
    return {name: place for name, place in places.items() if name not in several}


def _plain(name: str) -> str:
    """Folders write spaces as underscores."""
    return " ".join(name.replace("_", " ").split()).casefold()
