"""The worker process of an extraction: it runs the extractor and reports its results to the supervisor, step by step.

It writes nothing to a store: outcomes travel through a channel to the process that holds the store's lock. So it may be
killed at any moment. It exits when its supervisor does, and by itself when it has been idle for a while.

Loading is separate from the samples: `extractor.run(())` loads what the extractor needs, and no sample is to blame for
errors there (an unavailable device, weights that were replaced). They end the extraction.
"""

import contextlib
import faulthandler
import gc
import os
import re
import resource
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import unialign
from unialign.errors import UnialignError
from unialign.pipeline.extraction.channel import Channel, copied, inherited
from unialign.pipeline.extraction.hardware import environment_of, keep_freed_memory, limit_threads
from unialign.pipeline.extraction.parent import die_with
from unialign.stages.extraction.ahead import use_decoders
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.extraction.heartbeat import listen
from unialign.types import Json

# Idle seconds after which a worker exits by itself: on a cluster it is not told when its client is gone.
IDLE = 60.0
# Seconds between two reports of progress.
REPORT_EVERY = 0.5
# Seconds of work whose outcomes are sent together: a message takes as long as a small sample.
SEND_EVERY = 0.02
# Characters of an error message that are kept; those of network libraries can span pages.
LONGEST = 300


@dataclass(frozen=True)
class Ready:
    """The extractor is loaded. environment: what computes here, for the records."""

    environment: Mapping[str, Json]


@dataclass(frozen=True)
class Made:
    """The outcomes of the next samples."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Beats:
    """Heartbeats since the last report."""

    number: int


@dataclass(frozen=True)
class Raised:
    """An exception while samples were being processed; with several samples it is not known which one caused it."""

    status: str
    why: str


@dataclass(frozen=True)
class Refused:
    """An exception that is not caused by a sample."""

    error: Exception


@dataclass(frozen=True)
class Finished:
    """The extractor has finished."""


@dataclass(frozen=True)
class Request:
    """Samples to extract. allowed: how many outcomes may be given before an `Allowed` permits more."""

    sources: tuple[Source, ...]
    allowed: int


@dataclass(frozen=True)
class Allowed:
    """How many outcomes of the request may be given in all."""

    number: int


Message = Ready | Made | Beats | Raised | Refused | Finished


@dataclass(frozen=True)
class Assignment:
    """What a worker starts with. threads: of networks. decoders: threads that decode, 0: as many as there are cores.
    folder: for temporary files, removed by whoever started it; "": the default one.
    """

    extractor: Extractor
    threads: int
    decoders: int
    folder: str
    parent: int


def main(handle: int) -> None:
    """The whole life of a worker with its own interpreter. handle: its end of the channel."""
    channel = inherited(handle)
    try:
        assignment: Assignment | None = channel.receive(IDLE)
    except EOFError:
        return
    if assignment is None:
        return
    _isolate(assignment)
    serve(channel, assignment)


def serve_forked(channel: Channel, assignment: Assignment) -> None:
    """The whole life of a worker that was forked off a process with its libraries loaded.

    It works in a new thread: OpenMP keeps a team for each thread that called a network. The team of the forking thread
    no longer exists, and the network would wait for it forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    _isolate(assignment)
    # Inherited objects are never garbage; inspecting them would copy their memory pages.
    gc.freeze()
    thread = threading.Thread(target=serve, args=(channel, assignment))
    thread.start()
    thread.join()


def serve(channel: Channel, assignment: Assignment) -> None:
    """Load the extractor, then extract what is requested, until there are no more requests."""
    report = _Report(channel)
    listen(report.beat)
    limit_threads(assignment.threads)
    keep_freed_memory()
    use_decoders(assignment.decoders)
    # The supervisor is gone: nobody to work for.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            list(assignment.extractor.run(()))
        except Exception as error:  # noqa: BLE001 - it is raised by the supervisor
            channel.send(Refused(_portable(error)))
            return
        channel.send(Ready(environment_of(assignment.extractor, assignment.threads)))
        while (message := channel.receive(IDLE)) is not None:
            # Permission may come too late to matter.
            if isinstance(message, Request):
                _extract(channel, report, assignment.extractor, message)


class _Report:
    """Sends heartbeats, a few per second at most."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.number = 0
        self.last = 0.0

    def beat(self) -> None:
        self.number += 1
        now = time.monotonic()
        if now - self.last >= REPORT_EVERY:
            self.channel.send(Beats(self.number))
            self.number, self.last = 0, now


def _extract(channel: Channel, report: _Report, extractor: Extractor, request: Request) -> None:
    report.number = 0
    made: list[Outcome] = []
    last: Message = Finished()
    sent, sources, allowed = time.monotonic(), request.sources, request.allowed
    try:
        for number, outcome in enumerate(extractor.run(sources), start=1):
            made.append(outcome)
            if number == allowed or time.monotonic() - sent >= SEND_EVERY:
                channel.send(Made(tuple(made)))
                allowed = _allowed(channel, allowed, number if number < len(sources) else 0)
                made, sent = [], time.monotonic()
    except UnialignError as error:
        last = Refused(_portable(error))
    except Exception as error:  # noqa: BLE001 - whatever a decoder or network raises is reported for its sample
        last = Raised(status_of(error), why(error, sources))
    if made:
        channel.send(Made(tuple(made)))
    channel.send(last)


def _allowed(channel: Channel, allowed: int, given: int) -> int:
    """How many outcomes may be given by now; waits until it is more than those that are `given`."""
    while True:
        message = channel.receive(IDLE if given >= allowed else 0.0)
        if isinstance(message, Allowed):
            allowed = message.number
        elif given < allowed:
            return allowed


def _isolate(assignment: Assignment) -> None:
    """Die with the parent, ignore its keyboard signals, leave no core dump, keep temporary files together."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else output may stop it, if the terminal is set to do so
    die_with(assignment.parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if assignment.folder:
        os.environ["TMPDIR"] = tempfile.tempdir = assignment.folder


def status_of(error: Exception) -> str:
    """The status of a sample that raises an error. Memory: of the machine, or of a GPU (torch has its own class)."""
    lacks_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return "out-of-memory" if lacks_memory else "internal-error"


def why(error: Exception, sources: Sequence[Source] = ()) -> str:
    """One line for a record: type and message of an error, and where it was raised.

    The location is the innermost one in this package, or else in the extractor. Without folders of this machine and
    memory addresses, so that the same fault gives the same line everywhere.
    """
    text = " ".join(str(error).split())
    for folder in {str(source.path.parent) for source in sources if source.path}:
        text = text.replace(f"{folder}/", "")
    text = re.sub(r"(?<![\w.:/])/(?:[^\s/'\":,]+/)+", "", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return f"{f'{type(error).__name__}: {text[:LONGEST]}'.rstrip(': ')} ({_place(error)})"


def _place(error: Exception) -> str:
    package = Path(unialign.__file__).parent
    calls = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename) != Path(__file__)
    ]
    ours = [(path.relative_to(package.parent), line) for path, line in calls if path.is_relative_to(package)]
    path, line = ours[-1] if ours else (Path(calls[0][0].name), calls[0][1]) if calls else (Path(__file__).name, 0)
    return f"{path}:{line}"


def _portable(error: Exception) -> Exception:
    """The error in a form that can be sent through the channel; a defect keeps its traceback, as a note."""
    if not isinstance(error, UnialignError):
        error.add_note("in the worker process:\n" + "".join(traceback.format_exception(error)))
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        copied(error)
    except Exception:  # noqa: BLE001 - whatever a library's exception raises when it is copied
        portable = RuntimeError(f"{type(error).__name__}: {error}")
        portable.__notes__ = list(getattr(error, "__notes__", ()))
        return portable
    return error
