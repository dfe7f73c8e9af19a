"""Reading video: the right frames, every kind of bad file, listings, packed batches."""

from __future__ import annotations

from pathlib import Path

import av
import clips
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from asap_eval.data.videos.decode import read_frames
from asap_eval.data.videos.listing import list_videos
from asap_eval.data.videos.loader import video_batches, videos_per_batch
from asap_eval.data.videos.sampling import Sampling, view_of
from asap_eval.data.videos.store import VideoStore
from asap_eval.errors import BadValueError, DataError


def numbers(path: Path, shares: list[float]) -> list[int]:
    """What the pictures read, which has to be what their numbers say."""
    frames = read_frames(path, shares)
    shown = [clips.number_of(frame.image) for frame in frames]
    assert shown == [frame.number for frame in frames]
    return shown


# Frames


@pytest.mark.parametrize("count", [1, 2, 7, 8, 40])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_even_frames_of_a_constant_rate(count: int, ending: str, tmp_path: Path) -> None:
    path = clips.write(tmp_path / f"a{ending}", clips.numbered(count), options={"bf": "2"})
    expected = [int((at + 0.5) / 8 * count) for at in range(8)]
    assert numbers(path, Sampling(8).shares) == expected


def test_raw_frames_without_timestamps(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "a.h264", clips.numbered(24), options={"bf": "0"})
    assert numbers(path, Sampling(4).shares) == [3, 9, 15, 21]


def test_of_a_variable_rate_the_frame_on_screen(tmp_path: Path) -> None:
    """Frame 0 stands for 900 ms, eight for 10 ms each, the last for 40 ms."""
    times = [0, *range(900, 990, 10)]
    path = clips.write(tmp_path / "a.mkv", clips.numbered(10), times=times, codec="ffv1")
    assert numbers(path, Sampling(8).shares) == [0, 0, 0, 0, 0, 0, 0, 6]


def test_a_turned_video_is_turned(tmp_path: Path) -> None:
    upright = Image.new("RGB", (64, 32))
    upright.paste((250, 250, 250), (0, 0, 16, 32))  # a light left side
    path = clips.write(tmp_path / "a.mp4", [upright] * 3)
    assert read_frames(path, [0.5])[0].image.size == (64, 32)
    image = read_frames(clips.turn(path), [0.5])[0].image
    assert image.size == (32, 64)
    # A matrix of a quarter turn with the clock brings the left side to the top.
    assert image.getpixel((16, 4))[0] > 200
    assert image.getpixel((16, 60))[0] < 50


def test_an_odd_size_is_kept(tmp_path: Path) -> None:
    frames = clips.numbered(4, size=(63, 41))
    path = clips.write(tmp_path / "a.mkv", frames, codec="ffv1", pixels="yuv420p")
    assert read_frames(path, [0.0])[0].image.size == (63, 41)
    assert numbers(path, [0.1, 0.9]) == [0, 3]


def test_decoding_stops_after_the_last_wanted_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.write(tmp_path / "a.mp4", clips.numbered(40))
    from asap_eval.data.videos import decode

    seen = []
    kept = decode._kept
    monkeypatch.setattr(
        decode,
        "_kept",
        lambda frames, *rest: kept((seen.append(0) or f for f in frames), *rest),  # type: ignore
    )
    assert numbers(path, [0.0, 0.3]) == [0, 12]
    assert len(seen) == 14


# Files that cannot be used


def _noise(count: int) -> list[Image.Image]:
    return [Image.effect_noise((64, 48), 60).convert("RGB") for _ in range(count)]


def _truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def _missing(root: Path) -> Path:
    return root / "none.mp4"


def _empty(root: Path) -> Path:
    (root / "a.mp4").write_bytes(b"")
    return root / "a.mp4"


def _text(root: Path) -> Path:
    (root / "a.mp4").write_bytes(b"no video at all\n" * 40)
    return root / "a.mp4"


def _cut_before_its_index(root: Path) -> Path:
    return _truncated(clips.write(root / "a.mp4", _noise(30)), 0.6)


def _cut_after_its_index(root: Path) -> Path:
    first = {"movflags": "faststart"}
    return _truncated(clips.write(root / "a.mp4", _noise(30), container=first), 0.6)


def _cut_matroska(root: Path) -> Path:
    return _truncated(clips.write(root / "a.mkv", _noise(30)), 0.6)


def _cut_avi(root: Path) -> Path:
    return _truncated(clips.write(root / "a.avi", _noise(30), codec="mpeg4"), 0.6)


def _damaged(root: Path) -> Path:
    path = clips.write(root / "a.mp4", _noise(30), options={"crf": "20", "g": "50"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    return path


def _folder(root: Path) -> Path:
    (root / "a.mp4").mkdir()
    return root / "a.mp4"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "not there"),
        (_empty, "is empty"),
        (_text, "Invalid data"),
        (lambda root: clips.sound(root / "a.wav"), r"no video stream \(streams: audio\)"),
        (lambda root: clips.sound(root / "a.mp4", "aac"), "no video stream"),
        (_cut_before_its_index, "Invalid data"),
        (_cut_after_its_index, "truncated"),
        (_cut_matroska, "truncated"),
        (_cut_avi, "truncated"),
        (_damaged, "Invalid data|damaged"),
        (_folder, "not there"),
    ],
)
def test_what_cannot_be_read_says_why(make, says: str, tmp_path: Path) -> None:  # type: ignore
    path = make(tmp_path)
    with pytest.raises(DataError, match=says) as error:
        read_frames(path, Sampling(8).shares)
    assert str(tmp_path) not in str(error.value)


# Sampling


def test_clips_share_the_even_frames_of_a_video() -> None:
    sampling = Sampling(frames=4, clips=3)
    assert sampling.shares == pytest.approx([(at + 0.5) / 12 for at in range(12)])
    assert [list(sampling.clip(c)) for c in range(3)] == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]
    assert (sampling.inputs, sampling.per_video) == (3, 12)


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_three_views_lie_along_the_longer_side(size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize(size if size[1] > size[0] else size[::-1])
    image = image.rotate(90, expand=True) if size[0] > size[1] else image
    views = [to_tensor(view_of(image, at, 3)).mean().item() for at in range(3)]
    assert [view_of(image, at, 3).size for at in range(3)] == [(30, 30)] * 3
    assert sorted(views) in (views, views[::-1])
    assert abs(views[0] - views[2]) > 0.5
    assert view_of(image, 0, 1) is image


@pytest.mark.parametrize("bad", [{"frames": 0}, {"clips": 0}, {"views": 2}])
def test_sampling_refuses(bad: dict[str, int]) -> None:
    with pytest.raises(BadValueError, match=next(iter(bad))):
        Sampling(**bad)


# Listings


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_class_folders_and_splits(tmp_path: Path) -> None:
    data = str(_touch(tmp_path, "val/b_c/1.mp4", "val/a/2.MP4", "train/a/3.avi", "val/a/note.txt"))
    found = list_videos(data, "val", whole=False)
    assert (found.ids, found.names) == (["val/a/2.MP4", "val/b_c/1.mp4"], ["a", "b c"])
    assert list_videos(data, "train", whole=False).ids == ["train/a/3.avi"]
    alone = list_videos(str(tmp_path / "val"), "val", whole=True)
    assert alone.ids == ["a/2.MP4", "b_c/1.mp4"]
    with pytest.raises(DataError, match="no train split"):
        list_videos(str(tmp_path / "val"), "train", whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nx/1.mp4,arm wrestling\n2.mp4,yoga\n",
        "label,path\narm wrestling,x/1.mp4\nyoga,2.mp4\n",
        "x/1.mp4,arm_wrestling\n\n2.mp4,yoga\n",
    ],
)
def test_csv_of_paths(text: str, tmp_path: Path) -> None:
    _touch(tmp_path, "x/1.mp4")
    (tmp_path / "val.csv").write_text(text)
    found = list_videos(str(tmp_path), "val", whole=False)
    assert (found.ids, found.names) == (["x/1.mp4", "2.mp4"], ["arm wrestling", "yoga"])
    assert found.paths == [tmp_path / "x/1.mp4", tmp_path / "2.mp4"]  # the second is not there
    assert list_videos(str(tmp_path / "val.csv"), "val", whole=True) == found


def test_class_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("a b.mp4 10\nc.mp4 9\n")
    found = list_videos(str(tmp_path), "val", whole=False)
    assert (found.ids, found.classes) == (["a b.mp4", "c.mp4"], ["9", "10"])


def test_official_columns(tmp_path: Path) -> None:
    other = _touch(tmp_path / "files", "yoga/abc_000003_000013.mp4", "-x_y_000010_000020.mp4")
    (tmp_path / "k.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "yoga,abc,3,13,validate,0\nzumba,-x_y,10,20,validate,0\n"
        "yoga,gone,1,11,validate,0\nyoga,other,1,11,train,0\n"
    )
    found = list_videos(str(tmp_path / "k.csv"), "val", str(other), whole=True)
    assert found.ids == ["abc_000003_000013", "-x_y_000010_000020", "gone_000001_000011"]
    assert [path.is_file() for path in found.paths] == [True, True, False]
    assert list_videos(str(tmp_path / "k.csv"), "train", whole=False).names == ["yoga"]
    _touch(other, "again/abc_000003_000013.mkv", "a/unlisted.mp4", "b/unlisted.mp4")
    with pytest.raises(DataError, match=r"two files are the video abc_000003_000013, .* and "):
        list_videos(str(tmp_path / "k.csv"), "val", str(other), whole=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\n", "lists no video"),
        ("", "lists no video"),
        ("a.mp4,x\nb.mp4,x,y\n", "row 2 has 3 cells"),
        ("a.mp4\n", "1 column"),
        ("path,label\na.mp4,\n", "no label"),
        ("path,label\na.mp4,x\na.mp4,y\n", "more than once"),
        ("path,label,split\na.mp4,x,test\n", "holds test"),
    ],
)
def test_bad_csv(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        list_videos(str(tmp_path), "val", whole=False)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_videos(str(tmp_path / "none"), "val", whole=True)
    _touch(tmp_path, "a/note.txt")
    with pytest.raises(DataError, match="no video"):
        list_videos(str(tmp_path), "val", whole=True)
    _touch(tmp_path, "x/b_c/1.mp4", "x/b c/2.mp4")
    with pytest.raises(DataError, match="one name"):
        list_videos(str(tmp_path / "x"), "val", whole=True)


def test_a_class_that_the_head_does_not_know(tmp_path: Path) -> None:
    listing = list_videos(str(_touch(tmp_path, "a/1.mp4", "z/2.mp4")), "val", whole=True)
    with pytest.raises(DataError, match=r"does not know: z\. Its 1 classes begin with a"):
        VideoStore(listing, ["a"], "data")


# Batches


def small(image: Image.Image) -> torch.Tensor:
    return to_tensor(image.resize((8, 8)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VideoStore:
    root = tmp_path_factory.mktemp("videos")
    for number in range(7):
        clips.write(root / "a" / f"{number}.mp4", clips.numbered(4 + number))
    (root / "a" / "3.mp4").write_bytes(b"")
    listing = list_videos(str(root), "val", whole=True)
    return VideoStore(listing, listing.classes, "data")


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_of_many_videos_are_packed(store: VideoStore, workers: int) -> None:
    sampling = Sampling(frames=2, clips=1, views=3)
    assert videos_per_batch(sampling, 13) == 2
    assert videos_per_batch(sampling, 5) == 1
    batches = list(video_batches(store, range(7), sampling, small, 13, workers))
    assert [batch.indices for batch in batches] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [len(batch.pixels) for batch in batches] == [12, 6, 12, 6]
    assert batches[1].failures == {3: "a/3.mp4 cannot be read: the file is empty"}
    assert batches[3].frame_ids[:3] == ["a/6.mp4#2", "a/6.mp4#7", "a/6.mp4#2@1"]
    assert [len(x) for x, _ in batches[0].passes()] == [12]
    # A video with more frames than go through at once is parted; whatever the batch, equal frames.
    single = list(video_batches(store, range(7), sampling, small, 5, workers, start=2))
    assert [batch.indices for batch in single] == [[2], [3], [4], [5], [6]]
    assert [len(x) for x, _ in single[0].passes()] == [5, 1]
    assert torch.equal(single[0].pixels, batches[1].pixels)
    assert single[4].frame_ids == batches[3].frame_ids


def test_the_real_clips_are_read(shared: Path) -> None:
    for path in sorted((shared / "data/videos").iterdir()):
        frames = read_frames(path, Sampling(4).shares)
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(container.streams.video[0]))
        expected = [(at + 0.5) / 4 * count for at in range(4)]
        for frame, place in zip(frames, expected, strict=True):
            assert abs(frame.number - place) <= 3
