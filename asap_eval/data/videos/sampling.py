"""Which frames of a video, and which parts of them, make its clips and views."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from asap_eval.errors import BadValueError

VIEWS = (1, 3)


@dataclass(frozen=True)
class Sampling:
    """What is looked at of every video: ``clips * views`` inputs of ``frames`` frames each.

    Attributes:
        frames: of a clip, evenly over the whole video, each in the middle of its part of it.
        clips: clip j of c is moved by (j + 1/2) / c of such a part: together they are the
            ``frames * clips`` even frames of the video. views: 1 = the model's own centre crop;
            3 = squares at both ends and in the middle of the longer side.
    """

    frames: int = 8
    clips: int = 1
    views: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "clips"):
            if getattr(self, name) < 1:
                raise BadValueError(f"bench.{name}={getattr(self, name)}: give a number >= 1.")
        if self.views not in VIEWS:
            raise BadValueError(f"bench.views={self.views}: give 1 (centre) or 3 (both ends too).")

    @property
    def inputs(self) -> int:
        """Clips times views: what the head sees of a video, one by one."""
        return self.clips * self.views

    @property
    def per_video(self) -> int:
        """Frames that go through the encoder for one video."""
        return self.inputs * self.frames

    @property
    def shares(self) -> list[float]:
        """Places of the frames of all clips in the video, ascending; see `decode.read_frames`."""
        total = self.frames * self.clips
        return [(at + 0.5) / total for at in range(total)]

    def clip(self, number: int) -> range:
        """Places in `shares` of the frames of a clip."""
        return range(number, self.frames * self.clips, self.clips)


def view_of(image: Image.Image, view: int, views: int) -> Image.Image:
    """One view of a frame: all of it, or a square at one place of the longer side."""
    if views == 1:
        return image
    side = min(image.size)
    left, top = ((length - side) * view // (views - 1) for length in image.size)
    return image.crop((left, top, left + side, top + side))
