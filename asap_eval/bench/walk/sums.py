"""Sums over samples too large for the per-sample file: kept beside it, safe against any stop.

A run appends a batch to its per-sample file after the sums of that batch were written. Stopped
between the two, the sums would be one batch ahead; so the file holds two generations, before and
after the latest batch, and a resumed run takes the one that the per-sample file agrees with.

Sums are exact (fixed_point.py), so that a job may be cut into pieces, each with a file of its own:
`StreamedSums.joined` adds them up to the bits that one process would have ended with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.bench.walk.fixed_point import added, fixed, floating
from asap_eval.errors import RecordError
from asap_eval.files.tensors import save_tensors


class StreamedSums:
    """Named sums of tensors over the samples of a run, or of a piece of it.

    Attributes:
        path: the file. done: samples that are in the sums.
    """

    def __init__(self, path: Path, done: int) -> None:
        """Begin at nothing, or go on after ``done`` samples.

        Raises:
            RecordError: ``done`` samples are in the per-sample file, but not in this one.
        """
        self.path, self.done = path, done
        self._totals: dict[str, Tensor] = _generation(path, done) if done else {}

    @property
    def totals(self) -> dict[str, Tensor]:
        """The sums by name, fp64."""
        return {name: floating(total) for name, total in self._totals.items()}

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Add one batch of ``samples`` and put both generations on the disk, whole or not at all.

        Args:
            values: what the batch adds to each name; a new name begins at it.

        Raises:
            AsapEvalError: a value is no finite number.
            OSError: the file cannot be written; an older one is then still whole.
        """
        before, begun = self._totals, self.done
        self._totals = _sum(before, {name: fixed(value) for name, value in values.items()})
        self.done += samples
        generations = {f"{begun}:{name}": value for name, value in before.items()}
        generations |= {f"{self.done}:{name}": value for name, value in self._totals.items()}
        save_tensors(generations, self.path, {"generations": f"{begun} {self.done}"})

    @classmethod
    def joined(cls, path: Path, pieces: Iterable[tuple[Path, int]]) -> StreamedSums:
        """The sums of a whole run from those of its pieces, whose files stay as they are.

        Args:
            path: of the whole; nothing is written there. pieces: file and samples of each; one at
                a time is in memory.

        Raises:
            RecordError: a piece's file does not hold its samples.
        """
        whole = cls(path, 0)
        for piece, count in pieces:
            whole._totals = _sum(whole._totals, _generation(piece, count))
            whole.done += count
        return whole

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _sum(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name; one that only one of them has is taken over."""
    found = dict(one)
    for name, value in other.items():
        found[name] = added(found[name], value) if name in found else value
    return found


def _generation(path: Path, done: int) -> dict[str, Tensor]:
    """The sums over ``done`` samples."""
    try:
        with safe_open(path, framework="pt") as file:
            known = (file.metadata() or {}).get("generations", "").split()
            mine = [name for name in file.keys() if name.startswith(f"{done}:")]  # noqa: SIM118
            totals: dict[str, Tensor] = {n.partition(":")[2]: file.get_tensor(n) for n in mine}
    except (OSError, SafetensorError) as error:
        raise RecordError(
            f"{path} cannot be read ({error}), and the run that is to be resumed needs its sums: "
            "force=true runs the job again."
        ) from error
    if str(done) not in known:
        raise RecordError(
            f"{path} holds sums over {' or '.join(known) or 'no'} samples, but {done} are done: "
            "force=true runs the job again."
        )
    return totals
