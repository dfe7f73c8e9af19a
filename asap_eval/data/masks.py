"""Photographs with a foreground mask each, and what a mask says of every patch.

A data set is a folder, also in an archive, with ``images/`` and ``masks/`` (ECSSD as published:
``ground_truth_mask/``); image and mask share their stem. Both are turned upright as their EXIF
orientation says, each by its own tag.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms import CenterCropOrPad, MaybePILToTensor, MaybeToTensor, ResizeKeepRatio
from torch import Tensor
from torchvision.transforms import CenterCrop, InterpolationMode, Normalize, Resize

from asap_eval.data.decoding import decode_file, is_picture, upright_size
from asap_eval.data.stores import FileStore
from asap_eval.errors import BadValueError, DataError, some_of
from asap_eval.files.archive import AnyPath, path_of, relative
from asap_eval.files.fingerprint import content_of

MASK_FOLDERS = ("masks", "ground_truth_mask")
COLOUR = 64
"""Least difference of two channels that is a colour, of 255; what JPEG leaves in grey is less."""
_SHOWN, _MORE = 3, ", and {} more"
"""How many files a message names, and its end where there are more."""


class MaskStore(FileStore):
    """Images in sorted order, without labels; ids are relative to the folder.

    Attributes:
        masks: the mask of each image.

    Raises:
        DataError: folders, images or masks are missing, two masks are of one image, or a mask has
            another size than its image.
    """

    def __init__(self, data: str) -> None:
        self.root = path_of(data)
        images = _files(self.root / "images", data)
        folder = _mask_folder(self.root, data)
        masks: dict[str, AnyPath] = {}
        for mask in _files(folder, data):
            if (first := masks.setdefault(mask.stem, mask)) is not mask:
                raise DataError(
                    f"data={data}: {first.name} and {mask.name} in {folder.name}/ are masks of one "
                    "image. Leave one of them."
                )
        if missing := [image.name for image in images if image.stem not in masks]:
            raise DataError(
                f"data={data}: {len(missing)} of {len(images)} images have no mask in "
                f"{folder.name}/: {some_of(missing, _SHOWN, _MORE)}. A mask has its image's name, "
                f"for instance {folder.name}/{Path(missing[0]).stem}.png."
            )
        self.masks = [masks[image.stem] for image in images]
        ids = [relative(image, self.root) for image in images]
        super().__init__(ids, [None] * len(images))
        if other := list(filter(None, map(_other_size, images, self.masks))):
            raise DataError(
                f"data={data}: {len(other)} masks do not have the size of their images: "
                f"{some_of(other, _SHOWN, _MORE)}. Masks must be as large as the photographs, "
                "pixel for pixel, once both are turned upright (EXIF orientation)."
            )

    def located(self) -> None:
        """Every worker finds the masks itself."""
        return None

    def path(self, place: int) -> AnyPath:
        return self.root / self.ids[place]

    def content(self, places: Sequence[int]) -> str:
        """Hash of the images and of their masks."""
        return content_of([*map(self.path, places), *(self.masks[place] for place in places)])

    def mask(self, place: int) -> Image.Image:
        """The mask of an image, ``L``, upright: 255 = foreground, 0 = background; grey is split in
        the middle.

        Raises:
            DataError: it cannot be read, or is not black and white.
        """
        path = self.masks[place]
        try:
            return _black_and_white(decode_file(path))
        except DataError as error:
            raise DataError(f"The mask {path.name} cannot be read: {error}") from error


def look(data: str) -> None:
    """Raise `DataError` where images or masks are missing; sizes and names are not compared."""
    root = path_of(data)
    _files(root / "images", data)
    _files(_mask_folder(root, data), data)


def _mask_folder(root: AnyPath, data: str) -> AnyPath:
    found = [name for name in MASK_FOLDERS if (root / name).is_dir()]
    if len(found) != 1:
        has = "both" if found else "neither"
        raise DataError(
            f"data={data} has {has} of {' and '.join(MASK_FOLDERS)}: put the masks into one of "
            "them, named as their images (images/0001.jpg, masks/0001.png)."
        )
    return root / found[0]


def _black_and_white(mask: Image.Image) -> Image.Image:
    """A grey picture in ``L``, split in the middle.

    Raises:
        DataError: it shows colours or is next to black: numbers of classes, of which none is known
            to be the foreground.
    """
    levels = np.asarray(mask).astype(np.int16)
    colour, brightest = int(np.ptp(levels, axis=2).max()), int(levels.max())
    if colour >= COLOUR or 0 < brightest < COLOUR:
        what = "it has colours" if colour >= COLOUR else f"its brightest pixel is {brightest}"
        raise DataError(f"{what}. Save it with foreground white (255) and background black (0)")
    return mask.convert("L").point(lambda grey: 255 if grey > 127 else 0)


def _files(folder: AnyPath, data: str) -> list[AnyPath]:
    try:
        files: list[AnyPath] = sorted(f for f in folder.iterdir() if is_picture(f.name))
    except OSError as error:
        raise DataError(
            f"data={data} cannot be used: {folder} {error.strerror or error}. This benchmark needs "
            f"a folder with images/ and {' or '.join(name + '/' for name in MASK_FOLDERS)}."
        ) from error
    if not files:
        raise DataError(f"data={data}: there is no image in {folder.name}/.")
    return files


def _other_size(image: AnyPath, mask: AnyPath) -> str | None:
    """What is wrong with the size of a mask; files that cannot be read are found when they are
    measured, and listed.
    """
    with contextlib.suppress(Exception):
        (width, height), size = upright_size(image), upright_size(mask)
        if (width, height) != size:
            return f"{image.name} {width}x{height}, its mask {size[0]}x{size[1]}"
    return None


@dataclass(frozen=True)
class Coverage:
    """``[P]`` share of each patch that is foreground, for the image at a position of a set.

    Attributes:
        store: of the masks. places: where each image of the set lies in it. transform: the
            model's own, of which the mask takes the geometry. grid: patches down and across.
    """

    store: MaskStore
    places: Sequence[int]
    transform: Callable[[Image.Image], Tensor]
    grid: tuple[int, int]

    def __call__(self, index: int) -> Tensor:
        mask = geometry_only(self.transform)(self.store.mask(self.places[index]))
        share = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)
        return F.adaptive_avg_pool2d(share[None], self.grid).flatten()


def geometry_only(
    transform: Callable[[Image.Image], Tensor],
) -> Callable[[Image.Image], Image.Image]:
    """A model's evaluation transform as a mask goes through it: resized by area, cropped the same.

    Raises:
        BadValueError: the transform has a step whose geometry is not known here.
    """
    steps = []
    for step in getattr(transform, "transforms", [transform]):
        if isinstance(step, (Resize, ResizeKeepRatio)):
            step = copy.copy(step)
            step.interpolation = InterpolationMode.BOX  # the mean over the area: no overshoot
        elif isinstance(step, CenterCropOrPad):
            step = copy.copy(step)
            step.fill = 0  # nothing is foreground outside the photograph
        elif isinstance(step, (MaybeToTensor, MaybePILToTensor, Normalize)):
            continue
        elif not isinstance(step, CenterCrop):
            raise BadValueError(
                f"This model's transform has a step that masks cannot follow: {step}. Masks follow "
                "resizing and centre crops."
            )
        steps.append(step)

    def through(mask: Image.Image) -> Image.Image:
        for step in steps:
            mask = step(mask)
        return mask

    return through
