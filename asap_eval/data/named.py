"""Data sets by name: ImageNet where this machine has it, open sets that are fetched once, digits.

An open set is fetched into the user's cache, whole or not at all, and then is a folder of class
folders like any other.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from asap_eval.errors import DataError
from asap_eval.hub import errors as hub
from asap_eval.hub import files as hub_files
from asap_eval.paths import PACKAGE, cache_folder

EXAMPLE, IMAGENET = "example", "imagenet"
VARIABLE = "IMAGENET"
"""Environment variable that says where ImageNet lies."""
USUAL = Path("data/imagenet/val")
"""Where it is looked for last, from where the command is given."""

_V2 = "vaishaal/ImageNetV2"
_SPLITS = ("val", "validation")


class NotFetchedError(DataError):
    """An open set that is not in the cache and cannot be fetched."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class OpenSet:
    """Images with ImageNet's labels that anybody may fetch.

    Attributes:
        holds: in a few words, with the size of what is fetched. source: its page.
        bring: fetches and unpacks it below a folder that an earlier attempt may have left, and
            gives the folder of the class folders.
    """

    name: str
    holds: str
    source: str
    bring: Callable[[Path], Path]

    @property
    def folder(self) -> Path:
        """Where it lies once it is fetched."""
        return cache_folder() / "data" / self.name

    def fetched(self) -> Path:
        """Its folder; fetched where it is not there.

        Raises:
            NotFetchedError: it cannot be.
        """
        home = self.folder
        if home.is_dir():
            return home
        try:
            _check_network()
            home.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(home.with_name(f".{self.name}.lock")):
                if not home.is_dir():
                    part = home.with_name(f".{self.name}.part")
                    part.mkdir(exist_ok=True)
                    os.replace(self.bring(part), home)
                    shutil.rmtree(part)
        except Exception as error:  # clients of the network share no base class
            what = f"data={self.name} ({self.holds})"
            raise NotFetchedError(self.name, hub.explained(error, what, self.source)) from error
        return home


def _imagenette(part: Path) -> Path:
    from torchvision.datasets import Imagenette  # it knows the address and the archive's hash

    for old in filter(Path.is_dir, part.iterdir()):  # torchvision takes half of it for all
        shutil.rmtree(old)
    Imagenette(part, split="val", size="320px", download=True)
    return next(part.glob("*/val"))


def _imagenet_v2(part: Path) -> Path:
    file = "imagenetv2-matched-frequency.tar.gz"
    archive = hub_files.fetch(_V2, file, "dataset").path
    top = part / "unpacked"
    if top.exists():
        shutil.rmtree(top)
    with tarfile.open(archive, "r:gz") as tar:
        tar.extractall(top, filter="data")
    inside = [entry for entry in top.iterdir() if not entry.name.startswith(".")]
    return inside[0] if len(inside) == 1 else top


OPEN = {
    one.name: one
    for one in (
        OpenSet(
            "imagenette",
            "3925 images of 10 of ImageNet's classes, about 340 MB",
            "https://github.com/fastai/imagenette",
            _imagenette,
        ),
        OpenSet(
            "imagenet_v2",
            "10000 images of ImageNet's 1000 classes, about 1.3 GB",
            f"https://huggingface.co/datasets/{_V2}",
            _imagenet_v2,
        ),
    )
}
"""The first of them is what a run takes where nothing else is there."""

NAMES = (EXAMPLE, IMAGENET, *OPEN)


def address_of(data: str) -> str:
    """The address behind a name; any other address is its own.

    Raises:
        NotFetchedError: an open set cannot be fetched.
    """
    if data == EXAMPLE:
        return str(PACKAGE / "example" / "digits.zip" / "images")
    return str(OPEN[data].fetched()) if data in OPEN else data


def imagenet(configured: str | None = None) -> tuple[str, str] | None:
    """Folder of ImageNet on this machine and what says so; None where nothing does.

    Args:
        configured: the key ``paths.imagenet``.

    Raises:
        DataError: what is named is not there.
    """
    said = {VARIABLE: os.environ.get(VARIABLE), "paths.imagenet": configured}
    for by, folder in said.items():
        if folder:
            if not Path(folder).expanduser().exists():
                raise DataError(f"{by}={folder} does not exist. Name the folder of ImageNet there.")
            return folder, by
    return (str(USUAL), "its usual place") if USUAL.is_dir() else None


def near(data: str) -> str:
    """What may be meant by a word that is no folder, with a space before it; "" for a path."""
    if not re.fullmatch(r"[\w-]+", data):
        return ""
    found = difflib.get_close_matches(data.lower(), NAMES, n=2, cutoff=0.6)
    hint = f" Did you mean data={' or data='.join(found)}?" if found else ""
    return f"{hint} Data with names: {', '.join(NAMES)}."


def short_name(data: str) -> str:
    """What a title calls data: its name, or the last folder of its path that says something."""
    if data in NAMES or data.partition("/")[0] in ("hfds", "wds"):
        return data
    parts = [part for part in PurePosixPath(data).parts if part not in ("/", "..")]
    telling = [part for part in parts if part.lower() not in _SPLITS]
    return (telling or parts or [data])[-1]


def _check_network() -> None:
    """Raise where the user has forbidden the network."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if hub.offline():
        raise OfflineModeIsEnabled("the network is forbidden")
