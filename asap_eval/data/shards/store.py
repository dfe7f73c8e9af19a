"""WebDataset shards as a store: all their samples, each read by its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from asap_eval.data.classes import Classes, of_numbers
from asap_eval.data.decoding import EXTENSIONS
from asap_eval.data.shards.listing import Shard
from asap_eval.data.shards.members import Part
from asap_eval.data.stores import Located, OwnStore
from asap_eval.errors import DataError
from asap_eval.files.fingerprint import content_of


class ShardStore(OwnStore):
    """Shards with a picture and a ``.cls`` file per sample; ids are the stored index.

    The shards are indexed once, so any image is read by its place: runs resume, workers share the
    work, and an image that cannot be decoded keeps its place.

    Args:
        picture: kind of file that is the picture; None = the only one that a sample has.
    """

    def __init__(self, shards: Sequence[Shard], classes: Classes, picture: str | None) -> None:
        self.shards, self.kind = shards, picture or "picture"
        self.pictures: list[tuple[int, Part] | None] = []
        self.labels: list[int] = []
        self.notes: list[str] = []
        kinds = [extension[1:] for extension in EXTENSIONS]
        for number, shard in enumerate(self.shards):
            samples = shard.samples(kinds, picture)
            with shard.path.open("rb") as file:
                for sample in samples:
                    where = f"{shard.path}: sample {sample.key}"
                    label = None if sample.label is None else sample.label.read(file)
                    stated = _stated(label, classes, where)
                    if isinstance(stated, int) and not self.notes:
                        self.notes.append(of_numbers(str(shard.path)))
                    self.labels.append(classes.check(stated, where))
                    self.pictures.append((number, sample.picture) if sample.picture else None)
        self.ids = [str(at) for at in range(len(self.labels))]
        if not self.ids:
            raise DataError(f"{self.shards[0].path} and the shards after it hold no sample.")
        if not any(self.pictures):
            what = f"a .{picture} file" if picture else "a picture"
            raise DataError(
                f"{self.shards[0].path}: no sample of it or the shards after it has {what}."
            )

    def read(self, place: int) -> bytes:
        picture = self.pictures[place]
        if picture is None:
            raise DataError("the sample has no image file")
        number, part = picture
        with self.shards[number].path.open("rb") as file:
            return part.read(file)

    def content(self, places: Sequence[int]) -> str:
        return f"{content_of(shard.path for shard in self.shards)} {self.kind}"

    def located(self) -> Located:
        """Stretches of the shards: only those that hold a sample are opened to read it."""
        files = [os.path.abspath(shard.path) for shard in self.shards]
        parts = [one and (one[0], one[1].offset, one[1].size) for one in self.pictures]
        return Located("bytes", files, parts)

    @property
    def commits(self) -> Mapping[str, str]:
        return dict(pair for s in self.shards if s.copy for pair in s.copy.commits.items())


def _stated(label: bytes | None, classes: Classes, where: str) -> int | str:
    """What a ``.cls`` file says: a number, or the name of one of the model's classes."""
    text = (label or b"").decode(errors="replace").strip()
    if re.fullmatch(r"-?\d+", text):  # as WebDataset has it, whatever the classes are called
        return int(text)
    if classes.place(text) is not None:
        return text
    what = f"its .cls reads {text!r}" if label is not None else "it has no .cls file"
    raise DataError(
        f"{where}: {what}. Every sample needs the number of a class, or the name of one of the "
        "model's (model.classes=<file> says them)."
    )
