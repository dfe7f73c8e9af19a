"""Frames of a video file by PyAV: decoded in order, the wanted ones kept.

A place in a video is a share of its duration, from 0 up to 1; the frame there is the one on screen
at that time. For a constant frame rate that is the frame at that share of the count; with a
variable one, long frames count for as long as they are shown. Files that store no times (AVI, raw
streams) count as ones of constant rate. Pixels are taken as stored (a sample aspect ratio is not
applied), turned as the file's display matrix says.

A file is refused with its reason, never shortened silently: nothing decodes, an error or a damaged
frame before the last wanted frame, or less than `WHOLE` of what the header declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from asap_eval.data.packages import needed
from asap_eval.errors import DataError, message, reraised

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

WHOLE = 0.95
"""Least share of the declared frames or seconds that a file must hold; headers are not exact."""

COUNTED = ("avi",)
"""Formats in which FFmpeg guesses times that the file does not store, and guesses wrong where
frames are stored out of order."""

TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
"""Degrees against the clock."""


@dataclass(frozen=True)
class Frame:
    """One frame: its number in decoding order, from 0, and its picture (RGB)."""

    number: int
    image: Image.Image


@dataclass(frozen=True)
class Timeline:
    """When a stream's frames are shown, in its time base.

    Attributes:
        start, end: of the first frame and after the last. last: start of the last frame.
        step: mean duration of a frame. counted: whether times are mere numbers of frames.
    """

    start: float
    end: float
    last: float
    step: float
    counted: bool = False


def read_frames(path: Path, shares: Sequence[float]) -> list[Frame]:
    """The frames at some places of a video; a frame that is on screen at several is repeated.

    Args:
        shares: of the duration, in [0, 1), ascending.

    Raises:
        DataError: the file is missing, empty, has no video, is truncated or damaged.
    """
    av = needed("av", "Reading video", "'asap-eval[video]'")
    with reraised(DataError, lambda error: getattr(error, "strerror", None) or message(error)):
        if not path.is_file():
            raise DataError("the file is not there")
        if path.stat().st_size == 0:
            raise DataError("the file is empty")
        with av.open(str(path)) as container:
            line = _timeline(container, _stream(container))
        # Opened again: not every file can be wound back.
        with av.open(str(path)) as container:
            stream = _stream(container)
            stream.codec_context.thread_count = 1  # workers share the work, not threads
            times = [line.start + share * (line.end - line.start) for share in shares]
            return _kept(container.decode(stream), times, line)


def _stream(container: InputContainer) -> VideoStream:
    """The first video stream; a sound file's cover picture, stored as one, does not count."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    raise DataError(f"it has no video stream (streams: {', '.join(kinds) or 'none'})")


def _timeline(container: InputContainer, stream: VideoStream) -> Timeline:
    """The times of a stream, from all packets of the file; none is decoded.

    Raises:
        DataError: it has no packets, or far fewer than its header declares.
    """
    starts: list[int] = []
    ends: list[float] = []
    spans: list[tuple[float, float]] = []
    packets = 0
    for packet in container.demux():
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None:
            base = float(packet.time_base)
            spans.append((at * base, (at + (packet.duration or 0)) * base))
        if packet.stream_index != stream.index or (at is None and not packet.size):
            continue  # another stream, or the end of this one
        packets += 1
        if at is not None and not packet.is_discard:
            starts.append(at)
            ends.append(at + (packet.duration or 0))
    if not packets:
        raise DataError("it has no frames")
    if packets < WHOLE * stream.frames:
        raise DataError(f"it is truncated: {packets} of {stream.frames} frames are there")
    _check_duration(container, spans)
    if not starts or container.format.name in COUNTED:
        return Timeline(0, packets, packets - 1, 1, counted=True)
    first, last = min(starts), max(starts)
    step = (last - first) / (len(starts) - 1) if len(starts) > 1 else 0
    step = step or max(ends) - last or 1
    end = max(ends)
    return Timeline(first, end if end > last else last + step, last, step)


def _check_duration(container: InputContainer, spans: Sequence[tuple[float, float]]) -> None:
    """Of all streams together: a container's duration is that of its longest one."""
    if not container.duration or not spans:
        return
    declared = container.duration / 1e6
    held = max(end for _, end in spans) - min(start for start, _ in spans)
    if held < WHOLE * declared - 0.1:  # the last packet of a stream may not say how long it is
        raise DataError(f"it is truncated: it ends after {held:.1f} of {declared:.1f} s")


def _kept(frames: Iterator[VideoFrame], times: Sequence[float], line: Timeline) -> list[Frame]:
    """The frame on screen at each time, decoding no further than needed."""
    kept: list[Frame] = []
    shown: tuple[int, VideoFrame] | None = None
    at, number = line.start - line.step, -1
    for number, frame in enumerate(frames):
        at = at + line.step if line.counted or frame.pts is None else frame.pts
        while shown is not None and len(kept) < len(times) and times[len(kept)] < at:
            kept.append(_picture(*shown, kept))
        if len(kept) == len(times):
            return kept
        shown = (number, frame)
    if shown is None:
        raise DataError("not one frame could be decoded")
    if at < line.last - 2 * line.step:
        total = round((line.end - line.start) / line.step)
        raise DataError(f"decoding ended after {number + 1} of about {total} frames")
    while len(kept) < len(times):
        kept.append(_picture(*shown, kept))
    return kept


def _picture(number: int, frame: VideoFrame, kept: Sequence[Frame]) -> Frame:
    if kept and kept[-1].number == number:
        return kept[-1]
    if frame.is_corrupt:
        raise DataError(f"frame {number} is damaged")
    image = frame.to_image()
    turn = frame.rotation % 360
    if turn not in (0, *TURNS):
        raise DataError(f"it is turned by {turn} degrees; only quarter turns are known")
    return Frame(number, image.transpose(TURNS[turn]) if turn else image)
