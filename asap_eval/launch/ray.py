"""``launch=ray``: workers as actors of a Ray cluster, which see no results folder.

The command alone writes: one thread of it for each actor claims pieces, asks for rows batch by
batch and appends them. Ray starts an actor that died again; its thread waits for it, and goes on
with the first batch whose rows it has not got.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from asap_eval.errors import BadValueError, SetUpError, first_line, message
from asap_eval.launch.actor import Actor, Facts
from asap_eval.launch.computer import Computer, LostError
from asap_eval.launch.devices import check_device, visible_gpus
from asap_eval.launch.launch import Launch, own_keys
from asap_eval.launch.launcher import Ended, Launcher
from asap_eval.launch.queue import Queue
from asap_eval.launch.worker import work
from asap_eval.record import Calibration, RunRecord
from asap_eval.record.journal import Row
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import say

STORE = 200 * 2**20
"""Bytes of shared memory of a cluster of our own: rows are small."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""What an actor prints stays in its log; errors reach its thread."""
EAGER = {"worker_niceness": 0}
"""Ray's own default, 15, would let actors of a cluster of our own starve beside other work."""
PAUSE = 1.0
"""Seconds between two tries to reach an actor that is being started again."""
LEAVING = 10.0
"""Seconds that the answer of an actor is waited for that was stopped."""


@dataclass(frozen=True)
class Wanted:
    """The keys ``launch.*`` that Ray alone knows.

    Attributes:
        address: ``auto``, ``ray://<host>:<port>`` or ``<host>:<port>``; None = a cluster on this
            machine alone. gpus, cpus: of an actor; gpus None = 1, on a CPU none. restarts: how
            often an actor that died is started again.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0
    restarts: int = 5

    def __post_init__(self) -> None:
        for name, value in (("gpus", self.gpus), ("cpus", self.cpus), ("restarts", self.restarts)):
            if value is not None and value < 0:
                raise BadValueError(f"launch.{name}={value:g}: give a number >= 0.")


class Ray(Launcher):
    """Actors, and a thread of this process for each."""

    shares = False

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.wanted = own_keys(Wanted, launch)
        self._gpus = 0.0
        self._ended: list[Ended] = []
        self._actors: list[Remote] = []

    def check(self, device: str) -> None:
        self._package()
        check_device(device)

    def count(self, device: str) -> int:
        on_gpus = device.startswith("cuda")
        self._gpus = float(on_gpus) if self.wanted.gpus is None else self.wanted.gpus
        if self.launch.workers is not None:
            return self.launch.workers
        if not self._gpus:
            return 1
        if self.wanted.address is None:
            there: float = len(visible_gpus())
        else:
            there = self._connected().cluster_resources().get("GPU", 0.0)
        return max(1, int(there / self._gpus))

    def start(self, queue: Queue, count: int) -> Sequence[str]:
        ray = self._connected(count)
        desk = Desk(queue)
        kind = ray.remote(Actor).options(
            num_gpus=self._gpus, num_cpus=self.wanted.cpus, max_restarts=self.wanted.restarts
        )
        for number in range(count):
            name = f"ray{number}"
            self._actors.append(Remote(queue, ray, kind.remote(queue), desk))
            threading.Thread(
                target=self._work,
                args=(queue, self._actors[-1], name),
                name=name,
                daemon=True,  # a command that is interrupted does not wait for a batch
            ).start()
        return [f"ray{number}" for number in range(count)]

    def ended(self) -> list[Ended]:
        found, self._ended = self._ended, []
        return found

    def done(self) -> None:
        self.stop()

    def stop(self) -> None:
        for actor in self._actors:
            actor.leave()
        self._package().shutdown()

    def _work(self, queue: Queue, computer: Remote, name: str) -> None:
        """What the thread of an actor does: work, and wait for an actor that is started again.

        Meanwhile it holds no piece: another actor may take that up.
        """
        error = None
        try:
            while True:
                computer.wait()
                try:
                    work(queue, computer, name=f"{os.getpid()}-{name}")
                    break
                except LostError as lost:
                    if computer.left:
                        return
                    say(f"worker {name} on {computer.host()}: {lost} It is started again.")
        except Exception as raised:
            error = message(raised)
        self._ended.append(Ended(name, error))

    def _connected(self, count: int = 1) -> Any:
        """Ray, in the cluster that was asked for.

        Raises:
            SetUpError: it cannot be reached, or started.
        """
        ray = self._package()
        if ray.is_initialized():
            return ray
        try:
            if self.wanted.address is not None:
                ray.init(address=self.wanted.address, **QUIET)
                return ray
            ray.init(
                address="local",
                num_cpus=max(math.ceil(count * self.wanted.cpus), os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=STORE,
                _system_config=EAGER,
                **QUIET,
            )
        except Exception as error:
            where = self.wanted.address or "a cluster on this machine"
            raise SetUpError(f"launch=ray: no way into {where}: {first_line(error)}.") from error
        return ray

    def _package(self) -> Any:
        """The package Ray, told how to behave before it is imported.

        A cluster of our own sends no statistics, and its token, without which every user of this
        machine could run code in it, goes no further than its processes: Ray would write a file
        into the home folder.

        Raises:
            SetUpError: it is not installed.
        """
        if self.wanted.address is None and "ray" not in sys.modules:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            if "RAY_AUTH_MODE" not in os.environ:
                os.environ["RAY_AUTH_MODE"] = "token"
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        try:
            import ray
        except ImportError as error:
            raise SetUpError("launch=ray needs Ray: pip install 'asap-eval[ray]'.") from error
        return ray


class Desk:
    """The jobs as this process has them open, for all threads: samples, and what makes records."""

    def __init__(self, queue: Queue) -> None:
        self._computer = Computer(queue, "cpu")
        self._lock = threading.Lock()

    def ready(self, record: RunRecord) -> Prepared:
        with self._lock:
            return self._computer.ready(record)


class Remote(Computer):
    """What a thread asks of its actor; `LostError` where the actor is no more."""

    def __init__(self, queue: Queue, ray: Any, actor: Any, desk: Desk) -> None:
        super().__init__(queue)
        self._ray, self._actor, self._desk = ray, actor, desk
        self._facts = Facts("a node of Ray", 0)
        self._opened, self._device = "", ""
        self._within, self.left = threading.Lock(), False

    def leave(self) -> None:
        """Ask nothing any more, and stop the actor: Ray ends a process in which a thread still asks
        after it was shut down."""
        self.left = True
        self._ray.kill(self._actor)  # a thread that waits has its answer, or an error, at once
        if self._within.acquire(timeout=LEAVING):
            self._within.release()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around all that Ray is asked.

        Raises:
            LostError: it was left.
        """
        with self._within:
            if self.left:
                raise LostError("It is not needed any more.")
            yield

    def wait(self) -> None:
        """Wait for the actor to be there.

        Raises:
            LostError: it will never be.
        """
        self._opened = ""
        while True:
            try:
                with self._asking():
                    self._facts = self._ray.get(self._actor.facts.remote())
                return
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(PAUSE)
            except self._ray.exceptions.RayActorError as error:
                raise LostError(message(error)) from error

    def ready(self, record: RunRecord) -> Prepared:
        ready = self._desk.ready(record)
        if self._opened != record.key:
            self._device = self._ask("open", record)
            self._opened = record.key
        return ready

    def calibration(self, record: RunRecord) -> Calibration:
        found: Calibration = self._ask("calibration", record)
        return found

    def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
        self._ask("begin", record, piece)
        ahead = [self._call("batch"), self._call("batch")]  # computes while this side writes
        while (rows := self._answer(ahead.pop(0))) is not None:
            ahead.append(self._call("batch"))
            yield rows

    def speed(self, record: RunRecord) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("speed", record)
        return found

    def machine(self, record: RunRecord) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("machine", record)
        return found

    def host(self) -> str:
        return self._facts.host

    def device(self, record: RunRecord) -> str:
        return self._device

    def threads(self) -> int:
        return self._facts.threads

    def recover(self) -> None:
        self._ask("recover")

    def _ask(self, name: str, *given: Any) -> Any:
        return self._answer(self._call(name, *given))

    def _call(self, name: str, *given: Any) -> Any:
        with self._asking():
            return getattr(self._actor, name).remote(*given)

    def _answer(self, call: Any) -> Any:
        """What the actor said; its own errors are raised as they were.

        Raises:
            LostError: it died, or cannot be reached.
        """
        try:
            with self._asking():
                return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise LostError(message(error)) from error
