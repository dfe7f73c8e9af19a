"""A training made ready: model, images, order and seeds, and what its file will say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asap_eval.bench.bench import build_bench
from asap_eval.data.images import ImageBatch, ImageSet, image_batches, images_of
from asap_eval.data.named import address_of
from asap_eval.errors import BadValueError
from asap_eval.method import build_from
from asap_eval.models import LoadedModel, load_model
from asap_eval.models.spec import with_options
from asap_eval.record import Job
from asap_eval.runner import provenance
from asap_eval.runner.inputs import check_folder, looked_at
from asap_eval.runner.sources import sources_digest
from asap_eval.train.fits.fit import Fit
from asap_eval.train.method.job import TrainJob
from asap_eval.train.method.state import State

SAID = ("k", "blocks")
"""Options of a method that its file says elsewhere, or that are of a run with it."""


@dataclass(frozen=True)
class Setting:
    """A training made ready.

    Attributes:
        job: what was asked for. loaded: the frozen model. images: in the order of the data.
        out: the file to write. identity: hash of all that decides the result.
    """

    job: TrainJob
    loaded: LoadedModel
    images: ImageSet
    out: Path
    identity: str

    @property
    def recipe(self) -> dict[str, Any]:
        return self.job.recipe

    @property
    def per_epoch(self) -> int:
        return math.ceil(len(self.images) / self.recipe["batch_size"])

    @property
    def steps(self) -> int:
        return self.per_epoch * int(self.recipe["epochs"])

    @property
    def state_path(self) -> Path:
        """Where an interrupted training is kept."""
        return self.out.with_name(self.out.name + ".resume")

    def done(self, step: int) -> int:
        """Images of the steps before this one."""
        epoch, within = divmod(step, self.per_epoch)
        return epoch * len(self.images) + within * int(self.recipe["batch_size"])

    def batches(self, step: int) -> Iterator[ImageBatch]:
        """What is left of the epoch that a step belongs to; each epoch has an order of its own."""
        job, images = self.job, self.images
        epoch, within = divmod(step, self.per_epoch)
        g = torch.Generator().manual_seed(self.seed("order", epoch))
        order = torch.randperm(len(images), generator=g).tolist()
        shuffled = dataclasses.replace(images, places=[images.places[at] for at in order])
        assert job.workers != "auto"  # the command line has decided
        transform, size = self.loaded.transform, int(self.recipe["batch_size"])
        return image_batches(shuffled, transform, size, job.workers, start=within * size)

    def seed(self, use: str, number: int) -> int:
        """A seed for one use: an interrupted training draws what an undisturbed one would."""
        text = f"{self.job.seed}|{use}|{number}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def pixels(self, batch: ImageBatch) -> Tensor:
        """``[b, 3, H, W]`` of the readable images, where the model is."""
        return batch.on(next(self.loaded.model.parameters()).device).pixels


def prepared(job: TrainJob) -> Setting:
    """Open all that a training needs; every error of input is raised here.

    Raises:
        AsapEvalError: names, values, weights or images that cannot be used.
    """
    job.check()
    method, out = job.built(), Path(job.out).expanduser()
    if out.exists() and not job.force:
        raise BadValueError(f"out={out} exists: give another name, or force=true to replace it.")
    check_folder("out", out.parent)
    spec = with_options(job.model, job.model_options)
    asked = Job(
        spec.name,
        model_params=spec.params,
        data=job.data,
        weights=job.weights,
        device=job.device,
    )
    chosen = looked_at(asked, build_bench(asked.bench), build_from("none", {}), None)
    loaded = load_model(spec, weights=job.weights, device=job.device)
    images = images_of(
        loaded,
        address_of(chosen.job.data),
        limit=job.limit,
        sample=job.sample,  # type: ignore[arg-type]
    )
    modules = [type(method).__module__, job.fit.__module__, "asap_eval.train.method.loop"]
    code = sources_digest([*modules, "asap_eval.hosts"])
    facts = [job.deciding, loaded.weights.sha256, images.digest, images.content(), code]
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Setting(job, loaded, images, out, identity)


def said(setting: Setting, parts: Fit, state: State, command: str) -> dict[str, str]:
    """What the file says of its making, all text."""
    job, loaded, recipe = setting.job, setting.loaded, setting.recipe
    told = (*SAID, parts.option)
    options = {name: value for name, value in vars(job.built()).items() if name not in told}
    name = parts.names[0]
    return {
        "trained": parts.trained,
        "method": job.method,
        "how": parts.how,
        "model": job.model,
        "backbone": loaded.weights.name,
        "backbone_sha256": loaded.weights.sha256,
        "backbone_trained": str(loaded.weights.trained).lower(),
        "options": json.dumps(options),
        "data": job.data,
        "images": str(len(setting.images)),
        "ids_digest": setting.images.digest,
        "failed": str(len(state.failed)),
        "steps": str(setting.steps),
        **{key: str(value) for key, value in recipe.items()},
        "seed": str(job.seed),
        f"{name}_first_epoch": f"{state.means(setting.per_epoch, 0)[0]:.6g}",
        f"{name}_last_epoch": f"{state.means(setting.per_epoch, recipe['epochs'] - 1)[0]:.6g}",
        "command": command,
        "commit": str(provenance.git_state()[0]),
        "packages": json.dumps(provenance.packages()),
        "finished": provenance.now(),
        **parts.said(),
    }
