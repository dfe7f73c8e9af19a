"""Rows of a data set as a store: an image column and a label column, found by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from asap_eval.data.classes import Classes, labelled
from asap_eval.data.decoding import bytes_of
from asap_eval.data.rows.recipe import Rows
from asap_eval.data.stores import Located, OwnStore
from asap_eval.errors import DataError


class RowStore(OwnStore):
    """A data set with an image and a label column; ids are the stored index."""

    def __init__(self, rows: Rows, where: str, classes: Classes) -> None:
        import datasets

        self.rows, self.commits = rows, rows.commits
        features = rows.data.features
        self.image = _column(features, ("image", "img", "jpg", "png", "webp"), "image", where)
        label = _column(features, ("label", "labels", "cls", "fine_label"), "label", where)
        self.dataset = rows.data.cast_column(self.image, datasets.Image(decode=False))
        names = getattr(features[label], "names", None)
        found = labelled(list(self.dataset[label]), names, classes, where)
        self.labels, self.notes = found.numbers, [found.note] if found.note else []
        self.ids = [str(at) for at in range(len(self.labels))]
        if not self.ids:
            raise DataError(f"{where} has no image.")

    def read(self, place: int) -> bytes:
        image = self.dataset[place][self.image]
        if image is None:
            raise DataError("the stored image is null")
        if not (content := bytes_of(image)):
            raise DataError("the stored image is empty")
        return content

    def content(self, places: Sequence[int]) -> str:
        return self.rows.content(self.image)

    def located(self) -> Located | None:
        """Rows of parquet files of this disk; others are read through `datasets` alone."""
        files = [os.path.abspath(file) for file in self.rows.files]
        if self.commits or not all(file.endswith(".parquet") for file in files):
            return None
        import pyarrow.parquet as pq

        counts = [pq.read_metadata(file).num_rows for file in files]
        if sum(counts) != len(self.ids):  # a part of the files' rows, or in another order
            return None
        parts = [(at, row, 1) for at, count in enumerate(counts) for row in range(count)]
        return Located("rows", files, [*parts], self.image)


def _column(features: Iterable[str], usual: Sequence[str], what: str, where: str) -> str:
    found = [name for name in usual if name in features]
    if len(found) > 1:
        raise DataError(
            f"{where} has the columns {' and '.join(found)}, and each may be its {what}. Keep the "
            "one to use (`remove_columns`)."
        )
    if found:
        return found[0]
    raise DataError(
        f"{where} has columns {', '.join(features)}; its {what} column should be called "
        f"{' or '.join(usual)}. Rename it (`rename_column`)."
    )
