"""Supervises the process that an extractor runs in, so that a bad sample affects no other sample.

A sample may crash a decoder or a network, hang, fill the memory or raise an exception. In this process it would end the
extraction, so the extractor runs in another one, the worker (`worker.py`). When the worker fails, the cause is not yet
known: networks process several samples at a time, and something else may have killed the worker. So the results
received so far are kept, and the following samples are tried **one at a time** until one is identified as the cause;
then the rest continues together. A sample is the cause if it fails alone twice, or if it raises an exception alone,
which no other process can cause; if it hangs alone after hanging among others, once is enough, so that it costs two
deadlines and not three. Extractors guarantee that a sample's outcome does not depend on other samples, so
those have the same bytes as if nothing had happened.

**Time.** A sample may take as long as it makes progress. What is limited is the time without a heartbeat
(`stages/extraction/heartbeat.py`), plus one second per megabyte of its file, and the number of heartbeats that a file
of its size can give. Time in which this process itself was stopped (Ctrl-Z, a closed laptop) does not count.

**Memory.** The memory that the worker has taken since it started is measured ten times per second. A kernel limit on
its address space would not help: CUDA reserves more than machines have.

**Start.** The worker is a fork of this process, which has the libraries loaded: that takes milliseconds, and classes
defined in notebooks are available. If the driver of a GPU is already loaded, a fork could not use it; and a Dask worker
has running threads of its own and nothing loaded. In these cases a new interpreter is started.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import cloudpickle

from unialign.errors import UnialignError
from unialign.pipeline.extraction.channel import Channel, connected
from unialign.pipeline.extraction.worker import (
    IDLE,
    Allowed,
    Assignment,
    Beats,
    Finished,
    Made,
    Message,
    Raised,
    Ready,
    Refused,
    Request,
    serve_forked,
)
from unialign.pipeline.memory import available_memory, kernel_kills, private_memory
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.types import Json

# Seconds between two measurements of a worker's memory, and the maximum that one of them counts as waiting.
TICK = 0.1
LONGEST_TICK = 1.0
# Number of failures alone that identify a sample as the cause, and of failed loads that end an extraction.
ATTEMPTS = 2
# Maximum seconds for loading: on a cluster's file system, libraries alone take minutes.
LOADING = 600.0
# Share of the free memory that a worker may take, and the minimum that it may always take.
MEMORY_SHARE = 0.9
LEAST_MEMORY = 1 << 30
# A sample gets one second more per megabyte of its file: digests of whole movies take time.
BYTES_PER_SECOND = 1_000_000
# The minimum size of an encoded frame in a container, and the number of steps that any sample may take.
BYTES_PER_BEAT = 8
FREE_BEATS = 10_000

# The status of a sample that failed in its worker.
GUILTY = ("crashed", "timeout", "out-of-memory", "internal-error")
# GPU drivers; a process that has one loaded cannot be forked.
DRIVERS = ("libcuda.so", "libamdhip64.so")


@dataclass(frozen=True)
class Limits:
    """Limits per sample.

    seconds: without a heartbeat. memory: bytes that its worker may take in addition to those at its start; 0: what is
        free.
    """

    seconds: float = 600.0
    memory: int = 0


@dataclass(frozen=True)
class Failure:
    """How an attempt ended. is_certain: its samples are certainly the cause."""

    status: str
    why: str
    is_certain: bool = False


class Supervisor:
    """Runs an extractor in a worker process; a context manager that ends the process on exit.

    threads: of the networks in it. decoders: threads that decode; 0: as many as there are cores. fork: whether it may
    start as a fork (see the module).
    """

    def __init__(
        self, extractor: Extractor, threads: int, limits: Limits, *, decoders: int = 0, fork: bool = True
    ) -> None:
        self.extractor, self.threads, self.decoders, self.fork = extractor, threads, decoders, fork
        self.seconds = limits.seconds
        self.memory = limits.memory or _free_memory()
        # The hardware that computed the last outcomes, for the records; the same for each worker of this machine.
        self.environment: Mapping[str, Json] = {}
        self._worker: Worker | None = None
        # Of the stream: how many outcomes may be given, how many were, and how many when the worker was asked last.
        self._allowed = self._given = self._base = 0

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> None:
        """Start the worker and load the extractor, which `run` does otherwise. Raises what `run` raises."""
        self._loaded()

    def close(self) -> None:
        """End the worker. The next `run` starts another one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def run(
        self, sources: Sequence[Source], seen: Callable[[Sequence[Outcome]], None] = lambda outcomes: None
    ) -> list[Outcome]:
        """All that `stream` gives. seen: called with outcomes as they come."""
        made: list[Outcome] = []
        for outcomes in self.stream(sources):
            made.extend(outcomes)
            seen(outcomes)
        return made

    def stream(self, sources: Sequence[Source], allowed: int | None = None) -> Generator[Sequence[Outcome]]:
        """One outcome per source, in order, as they come; a sample that ends its worker gets the status that says how.

        allowed: outcomes after which the worker waits until `allow` permits more; None: it never does, as long as they
        are taken. A stream that is not read to its end ends the worker.
        Raises what the extractor raises when it loads, its `UnialignError`s (they concern settings, weights and stores,
        not a sample), and `UnialignError` if no worker survives loading it.
        """
        self._allowed, self._given = len(sources) if allowed is None else allowed, 0
        try:
            while self._given < len(sources):
                for outcomes in self._go_on(sources[self._given :]):
                    self._given += len(outcomes)
                    yield outcomes
        except BaseException:
            # Anything it still sends belongs to no request.
            self.close()
            raise

    def allow(self, number: int) -> None:
        """Permit so many outcomes of the stream in all."""
        if number > self._allowed:
            self._allowed = number
            if self._worker is not None:
                self._worker.tell(Allowed(number - self._base))

    def _go_on(self, rest: Sequence[Source]) -> Iterator[Sequence[Outcome]]:
        """The outcomes of the rest, together, or up to the next failing sample."""
        done, together = 0, None
        if len(rest) > 1:
            for step in self._attempt(rest):
                if isinstance(step, Failure):
                    together = step
                else:
                    done += len(step)
                    yield step
            if together is None:
                return
        hung = together is not None and together.status == "timeout"
        for source in rest[done:]:
            outcome = self._alone(source, hung=hung)
            yield (outcome,)
            if outcome.status in GUILTY:
                return

    def _alone(self, source: Source, *, hung: bool) -> Outcome:
        """The outcome of one sample. hung: it, or another one tried with it, has already taken longer than allowed."""
        for _ in range(ATTEMPTS):
            *_, last = self._attempt([source])
            if not isinstance(last, Failure):
                return last[0]
            failure = last
            if failure.is_certain or (hung and failure.status == "timeout"):
                break
        return Outcome(source.id, failure.status, self._digest(source), detail={"why": failure.why})

    def _digest(self, source: Source) -> str:
        try:
            return self.extractor.digest(source)
        except OSError:
            return ""

    def _attempt(self, sources: Sequence[Source]) -> Iterator[Sequence[Outcome] | Failure]:
        """The outcomes, as far as they come, and at the end how it failed, if it did."""
        worker = self._loaded()
        self._base = self._given
        worker.tell(Request(tuple(sources), self._allowed - self._base))
        sizes = [_size(source) for source in sources]
        # Of all sources from one on.
        largest = [*accumulate(reversed(sizes), max, initial=0)][::-1]
        total = [*accumulate(reversed(sizes), initial=0)][::-1]
        number = 0
        while True:
            seconds = self.seconds + largest[number] / BYTES_PER_SECOND
            message = worker.receive(seconds, self.memory, FREE_BEATS + total[number] // BYTES_PER_BEAT)
            if not isinstance(message, Made):
                break
            names = [source.id for source in sources[number : number + len(message.outcomes)]]
            if [outcome.id for outcome in message.outcomes] != names:
                break
            number += len(names)
            yield message.outcomes
        failure = self._settled(message, is_whole=number == len(sources))
        if failure:
            if not failure.is_certain:
                self.close()
            yield failure

    def _settled(self, message: "Message | Failure", *, is_whole: bool) -> Failure | None:
        """The meaning of the last message of an attempt. is_whole: every sample has its outcome."""
        if isinstance(message, Refused):
            raise message.error
        if isinstance(message, Raised):
            # Other processes may cause a memory shortage; an error in the code is caused by the sample.
            return Failure(message.status, message.why, is_certain=message.status == "internal-error")
        if isinstance(message, Failure):
            return message
        if isinstance(message, Finished) and is_whole:
            return None
        raise RuntimeError(f"extractor {self.extractor.name} did not return one outcome per sample, in order")

    def _loaded(self) -> "Worker":
        """A worker that has loaded the extractor."""
        if self._worker is not None and self._worker.is_near_its_end:
            self.close()
        for _ in range(ATTEMPTS):
            if self._worker is not None:
                return self._worker
            assigned = partial(Assignment, self.extractor, self.threads, self.decoders)
            self._worker = Worker(assigned, fork=self.fork and can_fork())
            message = self._worker.receive(LOADING, self.memory, FREE_BEATS)
            if isinstance(message, Ready):
                self.environment = message.environment
            elif isinstance(message, Failure):
                self.close()
            elif isinstance(message, Refused):
                self.close()
                raise message.error
        if self._worker is None:
            assert isinstance(message, Failure)
            why = f"it took more than {LOADING:.0f} seconds" if message.status == "timeout" else message.why
            raise UnialignError(
                f"the extractor {self.extractor.name} cannot be loaded: {why}, before any sample was read; "
                "`unialign doctor` looks for what is wrong."
            )
        return self._worker


class Worker:
    """One worker process and our end of its channel."""

    def __init__(self, assigned: Callable[[str, int], Assignment], *, fork: bool) -> None:
        # Removed by this process: a killed worker cannot do it.
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        with contextlib.suppress(OSError):  # the disk is full; most extractors do not need it
            self.folder = tempfile.TemporaryDirectory(prefix="unialign-worker-", ignore_cleanup_errors=True)
        name = self.folder.name if self.folder else ""
        self.kills = kernel_kills()
        self.used = time.monotonic()
        self.pid, self.channel = (_fork if fork else _spawn)(assigned(name, os.getpid()))
        self.began_with = private_memory(self.pid)
        self.code: int | None = None

    @property
    def is_near_its_end(self) -> bool:
        """Whether it has been idle so long that it may be about to exit."""
        return time.monotonic() - self.used > IDLE / 2

    def tell(self, message: Request | Allowed) -> None:
        """Send it samples to extract, or a permission; a dead worker is noticed when its answer is received."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            self.channel.send(message, LOADING)

    def receive(self, seconds: float, memory: int, beats: int) -> "Message | Failure":
        """Its next message other than a heartbeat, or how it failed; after a failure it has ended.

        seconds: allowed without a message. memory: bytes that it may have taken. beats: allowed before the message.
        """
        waited, last, looked = 0.0, time.monotonic(), 0.0
        while True:
            try:
                before = self.channel.received
                message: Message | None = self.channel.receive(TICK)
            except Exception:  # noqa: BLE001 - the end of the channel, or whatever a dying process left in it
                return self._death()
            now = self.used = time.monotonic()
            waited, last = waited + min(now - last, LONGEST_TICK), now
            if isinstance(message, Beats):
                beats -= message.number
                waited = waited if beats < 0 else 0.0
            elif message is not None:
                return message
            elif self.channel.received > before:  # part of a long one
                waited = 0.0
            if now - looked >= TICK:
                looked = now
                if private_memory(self.pid) - self.began_with > memory:
                    self.end()
                    return Failure("out-of-memory", "took more memory than a worker may")
            if waited > seconds:
                self.end()
                return Failure("timeout", "gave no sign of life for as long as a sample may take (extract.timeout)")

    def _death(self) -> Failure:
        kills = kernel_kills()
        code = self.end()
        if code >= 0:
            return Failure("crashed", f"the process that worked on it ended with exit code {code}")
        if -code == signal.SIGKILL and kills > self.kills:
            return Failure("out-of-memory", "the kernel killed the process that worked on it")
        return Failure("crashed", f"the process that worked on it was ended by {signal.Signals(-code).name}")

    def end(self) -> int:
        """Kill it and everything it has started, unless it is dead already; returns its exit code or minus a signal."""
        if self.code is None:
            for kill in (os.killpg, os.kill):
                # Its process group does not exist yet if it has only just begun; then it has started nothing.
                with contextlib.suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)
            try:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # another part of this program waits for all children, and has reaped it
                self.code = -signal.SIGKILL
            self.channel.close()
            if self.folder:
                self.folder.cleanup()
        return self.code


def can_fork() -> bool:
    """Whether a fork of this process can compute: it cannot use a GPU whose driver is already loaded."""
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not any(driver in loaded for driver in DRIVERS)


def _fork(assignment: Assignment) -> tuple[int, Channel]:
    ours, theirs = connected()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns if there are other threads. Locks that they may hold are released by the libraries
        # themselves (zarr, OpenBLAS, logging) or not used by a worker; a worker that waits forever is ended at its
        # deadline.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        serve_forked(theirs, assignment)
    finally:
        # Not through the interpreter's exit: handlers registered there belong to the forking process.
        os._exit(0)


def _spawn(assignment: Assignment) -> tuple[int, Channel]:
    # By value if they belong to no module: classes defined in notebooks and in functions.
    data = cloudpickle.dumps(assignment)
    ours, theirs = connected()
    handle = theirs.fileno()
    code = f"from unialign.pipeline.extraction.worker import main; main({handle})"
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    # Duplicated onto itself, a handle is inherited; all others are closed.
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, handle, handle)]
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": path}, file_actions=actions
    )
    theirs.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
        ours.send_pickled(data, LOADING)
    return pid, ours


def _size(source: Source) -> int:
    try:
        return source.path.stat().st_size if source.path else 0
    except OSError:
        return 0


def _free_memory() -> int:
    free = available_memory()
    return sys.maxsize if free is None else max(LEAST_MEMORY, int(MEMORY_SHARE * free))
