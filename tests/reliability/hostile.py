"""A process that takes in stores from untrusted sources: changes a small one, signs it again, and uses it in every way.

    python -m tests.reliability.hostile FOLDER CODEC SEED FIRST COUNT

Every use ends in a typed error or in values that the shard files hold. Shards and batches lie in guarded memory, so
that a byte read or written beside them ends the process; the number of the case at work stands in FOLDER/at. The last
line is the counts as JSON.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.made_extractor import Spectrum, extract, make_files
from tests.reliability import mutations
from tests.reliability.guarded import Guarded
from unialign.cache import reader as reading
from unialign.cache import threads
from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Joined, columns_of
from unialign.cache.index import load_table
from unialign.cache.inventory import summarise
from unialign.cache.reader import StoreReader
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.repair import restore_group
from unialign.cache.shards import cut_chunks, index_bytes, little_endian
from unialign.cache.store import Store, create_store, open_store
from unialign.cache.verify import verify_store
from unialign.errors import UnialignError
from unialign.pipeline.exchange.hdf5_export import export_hdf5
from unialign.pipeline.extraction.extract import _clean

WINDOW, SECONDS = 9, 20
# Of so many cases one is listed and verified too, and one repaired and one exported.
LISTED, REPAIRED = 8, 16
# Larger batches are the caller's own wish.
MOST = 64 << 20


@dataclass(frozen=True)
class Signal(Spectrum):
    """Features of several kinds: two ragged axes, a shape without axes, chunks and none."""

    name = "signal"

    def arrays(self) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("rows", "float16", (64, 4), ("frame", "channel"), ragged=True, chunk=16),
            ArraySpec("times", "int64", (64,), ("frame",), ragged=True),
            ArraySpec("bytes", "uint8", (128,), ("byte",), ragged=True, chunk=32),
            ArraySpec("histogram", "float32", (8,), ("bin",)),
            ArraySpec("size", "int32", (), ()),
        )

    def run(self, sources: Sequence[Any]) -> Iterator[Any]:
        for found in super().run(sources):
            if found.status == "ok":
                rows, generator = found.arrays["rows"], np.random.default_rng(list(found.id.encode()))
                found.arrays["times"] = generator.integers(0, 2**60, len(rows))
                found.arrays["bytes"] = generator.integers(0, 256, int(generator.integers(1, 129)), dtype="uint8")
                found.arrays["size"] = np.asarray(len(rows), dtype="int32")
            yield found


class Wrong(AssertionError):
    """The package did something other than what it promises."""


class Play:
    """One store on disk, put back after each case."""

    def __init__(self, folder: Path, codec: str) -> None:
        self.cache = folder / "cache"
        self.store = extract(self.cache, make_files(folder / "files", 6, (3,)), Signal(), codec=codec).store
        self.wanted: Store = open_store(self.store)
        self.files = {path.relative_to(self.store).as_posix(): path.read_bytes() for path in _files(self.store)}
        self.sizes = {
            name: index_bytes(self.wanted.array(name.split("/")[0]), self.wanted.shard_samples) - 4
            for name in self.files
            if "/c/" in name
        }
        self.outside = folder / "outside"
        (self.outside / "c" / "0").mkdir(parents=True)
        for name in ("zarr.json", "000000.json", "index.bin", "c/0/0"):
            (self.outside / name).write_bytes(b"kept")
        self.around = self._surroundings()
        self.chunks = self._decoded_chunks()
        self.guard = Guarded()
        self.counts: Counter[str] = Counter()
        self.disk = dict(self.files)
        reading.map_handle = self.guard.map_handle
        # Threads would cost more than what they have to do.
        threads.usable_cores = lambda: 1

    def case(self, steps: list[mutations.Step], *, number: int, signed: bool) -> None:
        """Change the store, use it, put it back. Raises `Wrong`."""
        self.guard.at_end = number % 2 == 0
        self._write(mutations.applied(self.files, steps, self.sizes, signed=signed))
        odd = [step for step in steps if step[0] == "file"]
        for step in odd:
            # Where one of them took away what the next one needs.
            with contextlib.suppress(OSError):
                self._apply(*step[1:])
        self.counts["changed"] += bool(odd) or self.disk != self.files
        refused = self._use(random.Random(number), number)
        self.counts["refused" if refused else "served"] += 1
        if number % REPAIRED == 0:
            self._attempt(self._repair)
        if number % REPAIRED == 1:
            self._attempt(lambda: export_hdf5(self.store, self.cache / "x.h5"))
            (self.cache / "x.h5").unlink(missing_ok=True)
        if self._surroundings() != self.around:
            raise Wrong("something outside the store was changed")
        if odd or number % REPAIRED == 0:
            shutil.rmtree(self.store)
            self.disk = {}

    def _use(self, generator: random.Random, number: int) -> int:
        reader = self._attempt(lambda: StoreReader(self.store))
        if number % LISTED == 0 or reader is None:
            problem, damage = summarise(self.store).problem, self._attempt(lambda: verify_store(self.store))
            if reader is None and not problem and damage == []:
                raise Wrong("a store that is listed as whole, and found whole, cannot be opened")
        if reader is None:
            return True
        refused = False
        if number % LISTED == 0:
            self._attempt(lambda: [reader.table.entry(row) for row in range(len(reader.table))])
            self._attempt(reader.sources)
            self._attempt(lambda: load_table(reader.store))
        found = {}
        for name in reader.ids:
            one = self._attempt(lambda name=name: reader.read_one(name))
            refused |= one is None
            for array, value in (one or {}).items():
                self._check(reader.store, array, value, name)
            found[name] = one
        kind = BatchReader if reader.store.codec == "none" else FetchingReader
        batches = self._attempt(lambda: kind(columns_of(reader, window=WINDOW), reader.ids)) if reader.ids else None
        if batches is None:
            return refused
        if batches.buffer_bytes(len(reader.ids)) > MOST:
            self.counts["large"] += 1
            return refused
        return self._batches(batches, found, generator) | refused

    def _batches(self, batches: Joined, found: Mapping[str, Any], generator: random.Random) -> bool:
        size, refused = len(batches), False
        everywhere = np.arange(size)
        starts = np.array([[generator.randrange(length) for length in row] for row in batches.lengths.tolist()])
        starts[:, [not column.window for column in batches.columns.values()]] = 0
        alone = [(everywhere[n : n + 1], starts[n : n + 1]) for n in range(size)]
        for places, first in ((everywhere, starts), *alone):
            if refused is False and len(places) < size:
                break
            buffers = batches.buffers(len(places), self.guard.memory(batches.buffer_bytes(len(places))))
            batch = self._attempt(lambda p=places, f=first, b=buffers: batches.read(p, f, b))
            refused |= batch is None
            for row, place in enumerate(places.tolist() if batch else ()):
                one = found[batches.ids[place]]
                for at, (name, column) in enumerate(batches.columns.items()):
                    got = batch[name][row]
                    if one is None:
                        continue
                    value = one[name]
                    want = value[(np.arange(column.window) + first[row, at]) % len(value)] if column.window else value
                    if got.tobytes() != np.ascontiguousarray(want, little_endian(column.spec)).tobytes():
                        raise Wrong(f"a batch holds other values of {name} than the sample itself")
        return refused

    def _repair(self) -> object:
        restore_group(self.wanted)
        _clean(create_store(self.wanted), None, repair=True)
        reader = StoreReader(self.store)
        for name in reader.ids:
            for array, value in reader.read_one(name).items():
                self._check(reader.store, array, value, name)
        self.counts["repaired"] += 1
        return True

    def _check(self, store: Store, array: str, value: np.ndarray, sample: str) -> None:
        """Fails unless each chunk of a value lies in one of the array's shard files."""
        spec = store.array(array)
        step = spec.inner[0] if spec.inner else 0
        parts = [value[at : at + step] for at in range(0, len(value), step)] if step else [value]
        files = [data for name, data in self.disk.items() if name.startswith(f"{array}/c/")]
        for part in parts:
            data = np.ascontiguousarray(part, little_endian(spec)).tobytes()
            if not any(data in file for file in (files if store.codec == "none" else self.chunks)):
                raise Wrong(f"array {array} of sample {sample!r} holds what no shard file does")

    def _decoded_chunks(self) -> list[bytes]:
        reader = StoreReader(self.store)
        specs = self.wanted.arrays
        return [c for name in reader.ids for spec in specs for c in cut_chunks(spec, reader.read_one(name)[spec.name])]

    def _attempt(self, use: Any) -> Any:
        try:
            return use()
        except UnialignError as error:
            if not str(error) or "\n" in str(error):
                raise Wrong(f"not one sentence: {error}") from error
            self.counts[type(error).__name__] += 1
            return None

    def _surroundings(self) -> list[tuple[str, int, int]]:
        around = []
        for root in (self.outside, self.cache.parent, self.cache, self.store.parent):
            for path in sorted(root.iterdir() if root != self.outside else root.rglob("*")):
                state = path.lstat()
                around.append((str(path), state.st_ino if path != self.store else 0, state.st_mode))
        return around

    def _write(self, files: mutations.Files) -> None:
        for name, data in files.items():
            if self.disk.get(name) != data:
                path = self.store / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        self.disk = files

    def _apply(self, name: str, how: str, other: str, number: int) -> None:
        """A change that only a disk can hold."""
        path, data = self.store / name, self.disk[name]
        if not path.parent.resolve().is_relative_to(self.store):
            # An earlier step linked this folder away: the change would be made outside the store, by this test.
            return
        path.unlink(missing_ok=True)
        if how == "link":
            path.symlink_to(self.outside / "zarr.json")
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()
        elif how == "linked folder" and path.parent != self.store:
            shutil.rmtree(path.parent)
            path.parent.symlink_to(self.outside, target_is_directory=True)
        elif how != "delete":
            changed = bytearray(data)
            changed[number % len(data)] ^= 1
            texts = {"cut": data[: number % len(data)], "swap": self.disk[other], "append": data + b"\0"}
            path.write_bytes(texts.get(how, bytes(changed)))
            self.disk = {**self.disk, name: path.read_bytes()}


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def _hung(*_: object) -> None:
    raise Wrong("takes longer than it may")


def main() -> None:
    """Play the cases of a seed, or one read from standard input when COUNT is 0."""
    folder, codec, seed, first, count = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    # What the libraries have mapped already, and as much as a bomb may not take.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    (folder / "at").touch()
    play = Play(folder, codec)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (3 << 30), resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _hung)
    kept = json.load(sys.stdin) if not count else []
    cases = (
        [(number, None) for number in range(first, first + count)]
        if count
        else [(case["number"], case["steps"]) for case in kept]
    )
    with (folder / "at").open("w") as at:
        for number, given in cases:
            at.seek(0)
            at.write(f"{number:9d}")
            at.flush()
            generator = random.Random(f"{seed} {codec} {number}")
            steps = given if given is not None else mutations.drawn(generator, play.files, play.sizes)
            signal.alarm(SECONDS)
            try:
                play.case(steps, number=number, signed=generator.random() < 0.9)
            except Exception as error:
                error.add_note(f"case {number} of seed {seed}, {codec}: {json.dumps(steps)}")
                raise
            finally:
                signal.alarm(0)
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
    print(json.dumps({"cases": len(cases), "peak_mib": peak, **play.counts}))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
