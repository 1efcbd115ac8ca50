"""Small files that would cost much: each is given to the reader of its kind in a process that may take a gigabyte.

    python -m tests.bombs FOLDER

The last line is JSON: by name what was said, seconds of work, and the most memory so far beside the imports in MiB.
"""

import gzip
import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.cache.test_store import build
from tests.forged import forge_group, forge_record
from unialign.cache.reader import StoreReader
from unialign.cache.verify import verify_store
from unialign.errors import UnialignError
from unialign.pipeline.exchange.hdf5_export import export_hdf5
from unialign.pipeline.exchange.hdf5_import import import_hdf5

SECONDS, MEMORY = 10, 1 << 30
BOMBS: dict[str, Callable[[Path], object]] = {}
Bomb = Callable[[Path], object]


def bomb(name: str) -> Callable[[Bomb], Bomb]:
    def keep(use: Bomb) -> Bomb:
        BOMBS[name] = use
        return use

    return keep


def _doubled(levels: int) -> bytes:
    """A tuple that holds another one twice, and so on."""
    return b")" + b"2\x86" * levels


def _text(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


_PICKLES = {
    "tuples as a key": b"\x80\x04}" + _doubled(60) + b"K\x01s.",
    "deep tuples as a key": b"\x80\x04})" + b"\x85" * 500_000 + b"K\x01s.",
    "tuples in a frozenset": b"\x80\x04(" + _doubled(60) + b"\x91.",
    "tuples in a set": b"\x80\x04\x8f(" + _doubled(60) + b"\x90.",
    "tuples in a list that becomes a set": b"\x80\x04]q\x00" + _doubled(60) + b"a0cbuiltins\nset\nh\x00\x85R.",
    "one long key again and again": b"\x80\x04}(" + b"K\x01" * 200_000 + b"tq\x000(" + b"h\x00K\x01" * 200_000 + b"u.",
    "one text encoded again and again": b"\x80\x02]("
    + _text(b"x" * 500_000)
    + b"q\x000"
    + _text(b"latin1")
    + b"q\x010c_codecs\nencode\nq\x020"
    + b"h\x02h\x00h\x01\x86R" * 70_000
    + b"e.",
    "one array of bytes copied again and again": b"\x80\x03cbuiltins\nbytearray\nq\x000B"
    + struct.pack("<I", 500_000)
    + b"x" * 500_000
    + b"q\x010]("
    + b"h\x00h\x01\x85R" * 60_000
    + b"e.",
    "one list made a set again and again": b"\x80\x03cbuiltins\nset\nq\x000]q\x01("
    + b"".join(b"J" + struct.pack("<I", number) for number in range(50_000))
    + b"e0]("
    + b"h\x00h\x01\x85R" * 60_000
    + b"e.",
    "deep lists": b"]" * 500_000 + b"a" * 499_999 + b".",
    "memo": b"\x80\x02Nr\xfe\xff\xff\x7f.",
}


def _pickle(content: bytes) -> Bomb:
    def use(folder: Path) -> object:
        from unialign.stages.datasets.pickles import load_restricted

        (folder / "x.pkl").write_bytes(content)
        return load_restricted(folder / "x.pkl")

    return use


BOMBS |= {f"pickle: {name}": _pickle(content) for name, content in _PICKLES.items()}


def _archive(parts: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", kind) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return memory.getvalue()


@bomb("npz: compressed zeros")
def _npz(folder: Path) -> object:
    from unialign.stages.archives import read_npz

    memory = io.BytesIO()
    np.savez_compressed(memory, a=np.zeros(1 << 27, np.uint8))
    return typed(lambda: read_npz(memory.getvalue()))


@bomb("npz: a header of a terabyte")
def _npz_header(folder: Path) -> object:
    from unialign.stages.archives import read_npz

    memory = io.BytesIO()
    np.lib.format.write_array_header_2_0(memory, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37,)})
    return typed(lambda: read_npz(_archive({"a.npy": memory.getvalue() + bytes(100)})))


def typed(read: Callable[[], object]) -> object:
    """What a reader below the commands raises as `ValueError` becomes one sentence in each of them."""
    try:
        return read()
    except ValueError as error:
        raise UnialignError(str(error)) from error


def _torch(content: Callable[[], bytes]) -> Bomb:
    """content: made when it is used, since the large one takes seconds."""

    def use(folder: Path) -> object:
        from unialign.stages.extraction.pose_encoder import load_encoder

        (folder / "x.pt").write_bytes(content())
        return load_encoder(folder / "x.pt")

    return use


BOMBS |= {
    "torch: compressed zeros": _torch(
        lambda: _archive({"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(1 << 27)}, zipfile.ZIP_DEFLATED)
    ),
    "torch: tuples as a key": _torch(
        lambda: _archive({"x/data.pkl": b"\x80\x02}" + _doubled(60) + b"K\x01s.", "x/version": b"3"})
    ),
    "torch: tuples as a key, as before 2018": _torch(
        lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02}" + _doubled(60) + b"K\x01s."
    ),
}


def _yaml(text: str) -> Bomb:
    def use(folder: Path) -> object:
        from unialign.pipeline.config import load_config

        (folder / "unialign.yaml").write_text(text)
        return load_config({}, file=folder / "unialign.yaml", environment={})

    return use


_LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
BOMBS |= {
    "yaml: aliases": _yaml(_LAUGHS),
    "yaml: merges": _yaml(_MERGES),
    "yaml: deep": _yaml("a: " + "[" * 50_000 + "]" * 50_000),
    "yaml: an alias of itself": _yaml("a: &a [*a]\n"),
    "yaml: deep by aliases": _yaml(
        "a0: &a0 []\n" + "".join(f"a{n}: &a{n} {'[' * 40}*a{n - 1}{']' * 40}\n" for n in range(1, 900))
    ),
    "yaml: many values": _yaml("a: [" + "[]," * 42_000 + "]"),
    "yaml: more values": _yaml("a: [" + "[]," * 340_000 + "]"),
    "yaml: many lines": _yaml("a:\n" + "- b\n" * 250_000),
    "yaml: a long number": _yaml("a: " + "9" * 100_000),
    "yaml: large": _yaml("a: " + "x" * (1 << 24)),
}


def _json(text: bytes) -> Bomb:
    def use(folder: Path) -> object:
        from unialign.pipeline.training.run_folder import read_json

        (folder / "x.json").write_bytes(text)
        return read_json(folder / "x.json")

    return use


BOMBS |= {
    "json: deep": _json(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
    "json: a long number": _json(b'{"a":' + b"9" * 5_000_000 + b"}"),
}


def _csv(write: Callable[[Any], object]) -> Bomb:
    def use(folder: Path) -> object:
        from unialign.stages.datasets.labels_csv import read_rows

        with (folder / "x.csv").open("w") as file:
            write(file)
        return read_rows(folder / "x.csv")

    return use


BOMBS |= {
    "csv: one huge field": _csv(lambda file: [file.write("x" * (1 << 20)) for _ in range(20)]),
    "csv: millions of columns": _csv(lambda file: [file.write("," * (1 << 20)) for _ in range(20)]),
    "csv: a row without end": _csv(lambda file: [file.write('"\n",' * (1 << 18)) for _ in range(20)]),
    "csv: millions of rows": _csv(lambda file: [file.write("a\n" * (1 << 19)) for _ in range(5)]),
}


@bomb("mat: zeros in many compressed variables")
def _mat(folder: Path) -> object:
    from unialign.stages.datasets.mat_files import read_mat_array

    packed = zlib.compress(struct.pack("<II", 14, 1 << 26) + bytes(1 << 26), 9)
    part = struct.pack("<II", 15, len(packed)) + packed
    (folder / "x.mat").write_bytes(b"x" * 124 + b"\x00\x01IM" + part * 60)
    return read_mat_array(folder / "x.mat", "d_skel", 1 << 20)


def _hdf5(change: Callable[[h5py.File, Path], object]) -> Bomb:
    def use(folder: Path) -> object:
        store = build(folder / "store", num_samples=3)
        export_hdf5(store.path, folder / "x.h5")
        with h5py.File(folder / "x.h5", "r+") as file:
            change(file, folder)
        return import_hdf5(folder / "x.h5", folder / "other")

    return use


def _replaced(name: str, *arguments: Any, **options: Any) -> Callable[[h5py.File, Path], object]:
    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, *arguments, **options)

    return change


def _linked(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = b"secret"
    del file["metadata"]
    file["metadata"] = h5py.ExternalLink("secret.h5", "/x")


def _outside(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(24))
    del file["records/shard"]
    file.create_dataset("records/shard", (3,), "i8", external=[(str(folder / "secret"), 0, 24)])


def _virtual(file: h5py.File, folder: Path) -> None:
    del file["records/shard"]
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (3,), "i8")
    file.create_virtual_dataset("records/shard", layout)


def _repeated(file: h5py.File, folder: Path) -> None:
    """A hundred thousand references to one text of a megabyte."""
    del file["records/text"]
    texts = file.create_dataset("records/text", (100_000,), h5py.string_dtype())
    texts[0] = "x" * (1 << 20)
    place = texts.id.get_offset()
    file.flush()
    with (folder / "x.h5").open("r+b") as raw:
        raw.seek(place)
        reference = raw.read(16)
        raw.seek(place)
        raw.write(reference * 100_000)


BOMBS |= {
    "hdf5: rows that were never written": _hdf5(_replaced("records/text", (10**8,), h5py.string_dtype())),
    "hdf5: unwritten rows of numbers": _hdf5(_replaced("records/shard", (10**11,), "i8")),
    "hdf5: compressed zeros": _hdf5(
        _replaced("records/shard", data=np.zeros(1 << 24, "i8"), chunks=(1 << 20,), compression="gzip")
    ),
    "hdf5: a link to another file": _hdf5(_linked),
    "hdf5: data in another file": _hdf5(_outside),
    "hdf5: a view of another file": _hdf5(_virtual),
    "hdf5: one text again and again": _hdf5(_repeated),
}


@bomb("store: chunks of a gigabyte in a kilobyte")
def _store(folder: Path) -> object:
    store = build(folder, num_samples=3, codec="zstd")
    forge_group(store.path, lambda body: body["arrays"][1].update(shape=[1 << 28]))
    return StoreReader(store.path).read_one("clip000")


@bomb("store: a record of many samples")
def _record(folder: Path) -> object:
    store = build(folder, num_samples=3)
    entry = {"id": "", "status": "truncated", "source": "", "lengths": {}, "detail": {}, "checksums": {}}
    forge_record(
        store.path, 0, lambda body: body.update(samples=[{**entry, "id": f"{n:09d}"} for n in range(120_000)], files={})
    )
    return StoreReader(store.path)


@bomb("store: deep metadata")
def _deep(folder: Path) -> object:
    store = build(folder, num_samples=3)
    (store.path / "zarr.json").write_bytes(b"[" * (1 << 23))
    assert verify_store(store.path)
    return StoreReader(store.path)


@bomb("pictures: of 60,000 x 60,000 pixels")
def _picture(folder: Path) -> object:
    from unialign.stages.images import decode_images

    data = np.frombuffer(gzip.compress(b""), np.uint8)
    size, offset = np.array([60_000, 60_000]), np.array([0, len(data)])
    return decode_images(data, offset, size, "jpeg", [0] * 16)


class TooSlow(BaseException):
    """Not to be caught by the readers."""


def _late(*_: object) -> None:
    raise TooSlow


def peak_mib() -> int:
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10


def main() -> None:
    folder = Path(sys.argv[1])
    # Imports take memory once, not for each bomb.
    import unialign.pipeline.config
    import unialign.pipeline.training.run_folder
    import unialign.stages.extraction.pose_encoder  # noqa: F401

    before = peak_mib()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _late)
    outcomes = {}
    for number, (name, use) in enumerate(BOMBS.items()):
        inside = folder / str(number)
        inside.mkdir()
        # Seconds of work; the machine may be busy with something else.
        signal.setitimer(signal.ITIMER_REAL, 60 * SECONDS)
        started = time.process_time()
        try:
            said = f"read: {type(use(inside)).__name__}"
        except UnialignError as error:
            said = f"refused: {error}"
        except (TooSlow, Exception) as error:  # noqa: BLE001 - whatever it was is the outcome
            said = f"{type(error).__name__}: {error}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        peak = peak_mib() - before
        print(name, said[:200], file=sys.stderr, flush=True)
        outcomes[name] = (said.replace(str(folder), "")[:300], round(time.process_time() - started, 2), peak)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
