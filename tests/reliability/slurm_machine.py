"""A real SLURM on this one machine: munged, slurmctld and slurmd in the foreground, with all their files in one folder.

Needs what `apt-get install slurmctld slurmd slurm-client munge` brings on Debian, and root. Nothing else of the machine
is touched: own ports, an own key for munge, no cgroups, no accounting.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "scontrol")
# More than the machine has: jobs of tests mostly sleep.
CPUS = 8

# linuxproc follows a job's processes by their parents; cgroups would belong to the whole machine.
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={first_port}
SlurmdPort={second_port}
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> list[str]:
    """Which of SLURM's programs this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name)]


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """SLURM runs until the end of the block; gives the path of its configuration, for SLURM_CONF.

    folder: on a local disk; its path must be short, since munge's socket lies in it.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    first, second = free_ports(2)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(
        CONFIG.format(host=host, folder=folder, first_port=first, second_port=second, cpus=CPUS), encoding="utf-8"
    )
    daemons = (
        [
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
        ],
        ["slurmctld", "-D", "-c", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    )
    with ExitStack() as running:
        for command in daemons:
            running.enter_context(
                daemon(command, folder / f"{command[0]}.log.txt", {**os.environ, "SLURM_CONF": str(config)})
            )
            time.sleep(1)
        _await_idle(config)
        yield config


def ask(config: Path, *words: str) -> str:
    """What one of SLURM's commands prints."""
    environment = {**os.environ, "SLURM_CONF": str(config)}
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


def ended(config: Path, job: str, seconds: float) -> bool:
    """Waits until a job, or all jobs of an array, have left the queue; False if some are there after that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not ask(config, "squeue", "-h", "-j", job, "-t", "PENDING,RUNNING,COMPLETING").strip():
            return True
        time.sleep(0.5)
    return False


@contextmanager
def daemon(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A program in the foreground, which runs until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_idle(config: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if "idle" in ask(config, "sinfo", "-h", "-o", "%T"):
            return
        time.sleep(0.5)
    raise AssertionError(f"SLURM's one node is not idle: {ask(config, 'sinfo', '-R')}")


def free_ports(number: int) -> list[int]:
    """So many TCP ports of this machine that nobody listens at."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]
