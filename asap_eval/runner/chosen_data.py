"""Which data a job runs on: what ``data`` names, and what is there where it is left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from asap_eval.bench.bench import AnyBench
from asap_eval.data.named import (
    EXAMPLE,
    IMAGENET,
    OPEN,
    USUAL,
    VARIABLE,
    NotFetchedError,
    imagenet,
    short_name,
)
from asap_eval.errors import BadValueError, DataError
from asap_eval.hub.errors import offline
from asap_eval.models import ModelSpec
from asap_eval.models.look import of_imagenet
from asap_eval.record import Job
from asap_eval.runner.progress import say

OF_MODEL = {"digits_vit": EXAMPLE}
"""Data that comes with a model of this package."""

_HOW = (
    f"set {VARIABLE}=<folder of ImageNet> or paths.imagenet=<folder>, or keep it in "
    "paths: {imagenet: <folder>} of ~/.config/asap-eval/config.yaml"
)


@dataclass(frozen=True)
class Chosen:
    """Data of a job.

    Attributes:
        job: with its address. name: short, for titles. said: why it is this, where nobody named it.
    """

    job: Job
    name: str
    said: str | None = None


def chosen_data(job: Job, bench: AnyBench, spec: ModelSpec, configured: str | None) -> Chosen:
    """The job with its data: as it was given, or what is there where none was.

    An open set is fetched here where nothing else is there.

    Args:
        spec: of the model, which need not be loaded.
        configured: folder of ImageNet (``paths.imagenet``).

    Raises:
        BadValueError: this benchmark or model needs data of its own. DataError: nothing is there.
    """
    if job.labels is not None and bench.images != "labelled":
        raise BadValueError(
            f"labels={job.labels} says the classes of images; bench={job.bench} reads none. Leave "
            "it out."
        )
    if job.data == IMAGENET:
        return Chosen(dataclasses.replace(job, data=_configured(configured)), IMAGENET)
    if job.data:
        return Chosen(job, short_name(job.data))
    if bench.own_data is not None:
        return _named(job, bench.own_data)
    if (own := OF_MODEL.get(spec.name)) is not None and bench.images is not None:
        return _named(job, own, f"data={own}, which comes with {spec.name}")
    if bench.images is None or not (bench.images == "any" or of_imagenet(spec)):
        raise BadValueError(
            "data is missing: give a folder with one folder per class, for instance "
            f"data=imagenet/val, or data={EXAMPLE} for the bundled images."
        )
    if (found := imagenet(configured)) is not None:
        folder, by = found
        where = dataclasses.replace(job, data=folder)
        return Chosen(where, IMAGENET, f"data={IMAGENET}, {folder} ({by})")
    return _open_set(job)


def _named(job: Job, name: str, said: str | None = None) -> Chosen:
    return Chosen(dataclasses.replace(job, data=name), short_name(name), said)


def _configured(configured: str | None) -> str:
    """The folder behind ``data=imagenet``."""
    found = imagenet(configured)
    if found is None:
        here = f" The folder of that name here is data=./{IMAGENET}."
        raise DataError(
            f"data={IMAGENET}: no folder of ImageNet is known here. To make it known, {_HOW}."
            + (here if Path(IMAGENET).is_dir() else "")
        )
    return found[0]


def _open_set(job: Job) -> Chosen:
    """The open set that was fetched before, else the first, which is fetched."""
    one = next((one for one in OPEN.values() if one.folder.is_dir()), next(iter(OPEN.values())))
    if not one.folder.is_dir() and not offline():
        say(f"Fetching {one.name} ({one.holds}) once, into {one.folder}.")
    try:
        one.fetched()
    except NotFetchedError as error:
        raise NotFetchedError(
            one.name,
            f"No data is given and none is here: neither {VARIABLE} nor paths.imagenet is set, "
            f"there is no {USUAL}, and {error} Three ways: {VARIABLE}=<folder of ImageNet> before "
            "the command; data=<folder with one folder per class>; or go online once for "
            f"data={one.name} (model=digits_vit data={EXAMPLE} needs nothing).",
        ) from error
    return _named(job, one.name, f"data={one.name}, {one.holds}, {one.folder}")
