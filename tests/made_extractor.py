"""A small extractor over real files, for tests of the machinery around extractors."""

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.pipeline.extraction.extract import Extraction, Settings, run_extraction
from unialign.stages.extraction.base import Extractor, Outcome, Source, source_digest
from unialign.stages.extraction.heartbeat import beat
from unialign.types import Json


def _fill() -> None:
    np.ones(1 << 30, dtype="uint8")


def _leak() -> None:
    held = []
    while True:
        held.append(np.ones(40 << 20, dtype="uint8"))
        time.sleep(0.02)


def _fail() -> None:
    raise AttributeError(f"'NoneType' object at {id(held_by_nobody):#x} has no attribute 'frames' of {Path.cwd()}/clip")


def _lack_memory() -> None:
    raise MemoryError


def _slow() -> None:
    for _ in range(12):
        time.sleep(0.25)
        beat()


def _endless() -> None:
    while True:
        beat()


held_by_nobody = object()

# What a file can make the extractor do that begins with `deed:NAME` and a line feed.
DEEDS: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "leave": sys.exit,
    "hang": lambda: time.sleep(1e6),
    "endless": _endless,
    "fill": _fill,
    "leak": _leak,
    "raise": _fail,
    "lack-memory": _lack_memory,
    "slow": _slow,
}


@dataclass(frozen=True)
class Spectrum:
    """Features of a file's bytes: ragged rows and a histogram. `pause`: seconds a sample takes.

    calls: a folder in which each call leaves a file, so that tests can count. killer: id of a sample that kills its
    worker as long as the file `calls/armed` exists. lenient: reads what is bad, as after a passing failure.
    ahead: sources that are read before the first outcome is given, as by a network that takes several at once.
    A file that begins with `deed:NAME` does what `DEEDS` says.
    """

    scale: float = 1.0
    pause: float = 0.0
    calls: Path | None = None
    killer: str = ""
    lenient: bool = False
    ahead: int = 0

    modality = "poses"
    name = "spectrum"

    def key(self) -> Mapping[str, Json]:
        return {"extractor": self.name, "revision": 1, "parameters": {"scale": self.scale}}

    def arrays(self) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("rows", "float16", (64, 4), ("frame", "channel"), ragged=True, chunk=16),
            ArraySpec("histogram", "float32", (8,), ("bin",)),
        )

    def attributes(self) -> Mapping[str, Json]:
        return {"licence": "none"}

    def digest(self, source: Source) -> str:
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        waiting: deque[Outcome] = deque()
        for source in sources:
            waiting.append(self.outcome(source))
            if len(waiting) > self.ahead:
                yield waiting.popleft()
        yield from waiting

    def outcome(self, source: Source) -> Outcome:
        time.sleep(self.pause)
        if self.calls:
            (self.calls / f"{source.id}-{os.getpid()}-{time.monotonic_ns()}").touch()
            if source.id == self.killer and (self.calls / "armed").exists():
                (self.calls / "armed").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        if source.path is None or not source.path.is_file():
            return Outcome(source.id, "missing-file")
        data = source.path.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if data.startswith(b"bad") and not self.lenient:
            return Outcome(source.id, "truncated", digest, detail={"why": "starts with bad"})
        if data.startswith(b"deed:") and not self.lenient:
            DEEDS[data.split(b"\n")[0].removeprefix(b"deed:").decode()]()
        values = np.frombuffer(data, dtype="uint8").astype("float32") * self.scale
        rows = np.resize(values, (1 + len(data) % 64, 4)).astype("float16")
        histogram = np.histogram(values, bins=8, range=(0, 256))[0].astype("float32")
        return Outcome(source.id, "ok", digest, {"rows": rows, "histogram": histogram})


@dataclass(frozen=True)
class Marked(Spectrum):
    """The same, but some samples are given a status from the start. marks: status and reason by id."""

    marks: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def outcome(self, source: Source) -> Outcome:
        if source.id not in self.marks:
            return super().outcome(source)
        status, why = self.marks[source.id]
        return Outcome(source.id, status, self.digest(source), detail={"why": why})


def make_files(
    folder: Path, number: int, bad: tuple[int, ...] = (), deeds: Mapping[int, str] | None = None
) -> list[Source]:
    """Sources of files with made-up bytes; those in `bad` cannot be extracted, those in `deeds` do something."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for n in range(number):
        path = folder / f"clip{n:03d}.bin"
        if not path.exists():
            data = np.random.default_rng(n).integers(0, 256, size=50 + n, dtype="uint8").tobytes()
            head = b"bad" if n in bad else f"deed:{deeds[n]}\n".encode() if deeds and n in deeds else b"ok"
            path.write_bytes(head + data)
        sources.append(Source(f"clip{n:03d}", path))
    return sources


def extract(cache: Path, sources: list[Source], extractor: Extractor = Spectrum(), **settings: object) -> Extraction:
    """One extraction with shards of 4."""
    return run_extraction(
        extractor,
        sources,
        cache=cache,
        collection="made",
        settings=Settings(**{"shard_samples": 4, **settings}),  # type: ignore[arg-type]
    )
