"""A real Slurm of one node on this machine, for tests: needs no root, ends what it started.

It has ports, a key and a munge socket of its own, so that several may run at once; it keeps no
accounting, and a job that is killed is queued again.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DEBIAN = "slurm-wlm munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
PATIENCE = 30.0
"""Seconds that the node has to come up."""


def absent() -> str:
    """Which of its programs are not installed, in words; "" = none."""
    missing = [name for name in PROGRAMS if program(name) is None]
    return f"no {', '.join(missing)} here (Debian: {DEBIAN})" if missing else ""


def program(name: str) -> str | None:
    """Daemons lie outside the path of a user."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextlib.contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """The variables with which Slurm's commands find the node; it is gone at the end.

    Raises:
        RuntimeError: it did not come up; says what its daemons wrote.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # a socket's path has to be short
    started: list[subprocess.Popen[bytes]] = []
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    try:
        _configured(folder)
        for words in _daemons(folder):
            with (folder / f"{words[0]}.log").open("ab") as log:
                started.append(
                    subprocess.Popen(
                        [str(program(words[0])), *words[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **variables},
                    )
                )
            if words[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: _state(variables) == "idle", folder)
        yield variables
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configured(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    control, node = _free_ports(2)
    host, user = platform.node().partition(".")[0], getpass.getuser()
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={control}",
        f"SlurmdPort={node}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.pid",
        "SlurmdParameters=config_overrides",  # two CPUs, whatever the machine has
        "ProctrackType=proctrack/pgid",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "ReturnToService=2",
        "JobRequeue=1",
        "MpiDefault=none",
        "AccountingStorageType=accounting_storage/none",
        "JobAcctGatherType=jobacct_gather/none",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1",
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN",
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    ]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")


def _daemons(folder: Path) -> list[Sequence[str]]:
    munge = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "pid-file": "munge.pid",
        "log-file": "munge.log",
        "seed-file": "munge.seed",
    }
    places = [f"--{option}={folder / name}" for option, name in munge.items()]
    # --force: the folder lies in one that everybody may write to.
    return [("munged", "--foreground", "--force", *places), ("slurmctld", "-D"), ("slurmd", "-D")]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _state(variables: dict[str, str]) -> str:
    words = [str(program("sinfo")), "--noheader", "--format=%T"]
    asked = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables})
    return asked.stdout.strip()


def _wait(ready, folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            logs = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in folder.glob("*.log")]
            raise RuntimeError("Slurm did not come up.\n" + "\n".join(logs))
        time.sleep(0.1)
