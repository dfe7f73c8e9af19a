"""Videos as a store: ids, class numbers, and frames by place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asap_eval.data.stores import FileStore
from asap_eval.data.videos.decode import Frame, read_frames
from asap_eval.data.videos.listing import Listing
from asap_eval.errors import DataError, some_of

_SHOWN, _MORE = 3, " and {} more"
"""How many classes a message names, and its end where there are more."""


class VideoStore(FileStore):
    """The videos of a listing, labelled with the class numbers of a head.

    Attributes:
        ids: of the videos. labels: class number of each. paths: where each should be.

    Raises:
        DataError: a video's class is not among the head's.
    """

    def __init__(self, listing: Listing, classes: Sequence[str], data: str) -> None:
        place = {name: at for at, name in enumerate(classes)}
        if strange := sorted(set(listing.names) - set(place)):
            raise DataError(
                f"data={data} has classes that the head does not know: "
                f"{some_of(strange, _SHOWN, _MORE)}. Its {len(classes)} classes begin with "
                f"{', '.join(classes[:_SHOWN])}. Use the head that was trained for this data."
            )
        super().__init__(listing.ids, [place[name] for name in listing.names])
        self.paths = listing.paths

    def located(self) -> None:
        """Every worker lists the videos itself; their frames are no bytes of a file."""
        return None

    def path(self, place: int) -> Path:
        return self.paths[place]

    def frames(self, place: int, shares: Sequence[float]) -> list[Frame]:
        """Frames at some shares of a video's duration; see `read_frames`.

        Raises:
            DataError: it cannot be read; names the video.
        """
        try:
            return read_frames(self.paths[place], shares)
        except DataError as error:
            raise DataError(f"{self.ids[place]} cannot be read: {error}") from error
