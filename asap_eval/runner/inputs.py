"""What a job reads and writes, looked at before a model is loaded or anything fetched.

The cheapest first: names and devices, then single files, then folders. What lies on a hub is asked
for when it is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

from asap_eval.bench.bench import AnyBench
from asap_eval.data.named import OPEN, address_of
from asap_eval.errors import BadValueError
from asap_eval.method import Reducer
from asap_eval.models.look import look
from asap_eval.record import Job
from asap_eval.runner.chosen_data import Chosen, chosen_data
from asap_eval.runner.latest_model import spec_of


def looked_at(
    job: Job,
    bench: AnyBench,
    reducer: Reducer,
    imagenet: str | None,
    device: str | None = None,
) -> Chosen:
    """The data of a job whose model, files and samples are there, as far as a glance says.

    Args:
        imagenet: folder of ImageNet, for jobs that name it or no data. device: where the model will
            lie, None = where the job says.

    Raises:
        AsapEvalError: the first of them that is not.
    """
    spec = spec_of(job)
    look(spec, job.weights, vlm=bench.vlm, device=device or job.device, dtype=job.dtype)
    reducer.look()
    chosen = chosen_data(job, bench, spec, imagenet)
    data = chosen.job.data
    if data not in OPEN:  # those are whole, here or where they are fetched from
        bench.look(address_of(data), job.labels)
    return chosen


def check_folder(key: str, folder: Path) -> None:
    """Raise `BadValueError` where no file could be written below a folder; none is left there."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        why = f"{there} is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} cannot be written by this user"
    else:
        try:
            with TemporaryFile(dir=there):
                return
        except OSError as error:  # /proc lets a superuser in and takes no file
            why = f"{there} takes no files ({error.strerror})"
    raise BadValueError(f"{key}={folder}: {why}. Give a place that can be written.")
