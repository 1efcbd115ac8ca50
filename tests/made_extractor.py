"""A small extractor over real files, for tests of the machinery around extractors."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.cache.arrays import ArraySpec, Json
from unialign.pipeline.extract import Extraction, Settings, run_extraction
from unialign.stages.extraction.base import Outcome, Source


@dataclass(frozen=True)
class Spectrum:
    """Features of a file's bytes: ragged rows and a histogram. `pause`: seconds a sample takes.

    calls: a folder in which each call leaves a file, so that tests can count. killer: id of a sample that kills its
    worker as long as the file `calls/armed` exists. lenient: reads what is bad, as after a passing failure.
    """

    scale: float = 1.0
    pause: float = 0.0
    calls: Path | None = None
    killer: str = ""
    lenient: bool = False

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

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        for source in sources:
            time.sleep(self.pause)
            if self.calls:
                (self.calls / f"{source.id}-{os.getpid()}-{time.monotonic_ns()}").touch()
                if source.id == self.killer and (self.calls / "armed").exists():
                    (self.calls / "armed").unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            if source.path is None or not source.path.is_file():
                yield Outcome(source.id, "missing-file")
                continue
            data = source.path.read_bytes()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if data.startswith(b"bad") and not self.lenient:
                yield Outcome(source.id, "truncated", digest, detail={"why": "starts with bad"})
                continue
            values = np.frombuffer(data, dtype="uint8").astype("float32") * self.scale
            rows = np.resize(values, (1 + len(data) % 64, 4)).astype("float16")
            histogram = np.histogram(values, bins=8, range=(0, 256))[0].astype("float32")
            yield Outcome(source.id, "ok", digest, {"rows": rows, "histogram": histogram})


def make_files(folder: Path, number: int, bad: tuple[int, ...] = ()) -> list[Source]:
    """Sources of files with made-up bytes; those in `bad` cannot be extracted."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for n in range(number):
        path = folder / f"clip{n:03d}.bin"
        if not path.exists():
            data = np.random.default_rng(n).integers(0, 256, size=50 + n, dtype="uint8").tobytes()
            path.write_bytes(b"bad" + data if n in bad else b"ok" + data)
        sources.append(Source(f"clip{n:03d}", path))
    return sources


def extract(cache: Path, sources: list[Source], extractor: Spectrum = Spectrum(), **settings: object) -> Extraction:
    """One extraction with shards of 4."""
    return run_extraction(
        extractor,
        sources,
        cache=cache,
        collection="made",
        settings=Settings(**{"shard_samples": 4, **settings}),  # type: ignore[arg-type]
    )
