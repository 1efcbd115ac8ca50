"""Compressed and remote stores: samples per second of `FetchingReader`, compared with reading samples one by one by
zarr.

    python benchmarks/remote.py --samples 4096 --rounds 3

Codecs none, zstd, blosc, each from the local disk, a web server, one that delays each answer by 20 ms ("slow"), and an
S3 server, all on this machine. `light` samples in one random order per epoch, batches of 64. The readers alternate in
every round. "first" is an epoch with an empty disk cache, "again" the next one, "no cache" has none. The zarr loop
reads `array[slot]` for every array of a sample, through zarr's own store class, for `--seconds`: a whole epoch would
take an hour. The servers are written in Python, so without a cache they are the bottleneck, except for "slow".
"""

import argparse
import functools
import http.server
import io
import logging
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import zarr
from workloads import BATCH, SHARD, WORKLOADS, sample_id, values

from unialign.cache.batches.joined import columns_of
from unialign.cache.index import write_index
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.remote.fetching import FetchingReader
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard

CODECS = ("none", "zstd", "blosc")
LIMIT = 64 << 30
BUCKET = "features"


def make_store(folder: Path, codec: str, samples: int) -> Store:
    """One store of the four arrays of `light`."""
    arrays, key = WORKLOADS["light"].arrays, Key({"extractor": "made", "revision": 1})
    path = store_path(folder / codec, "benchmark", "light", key)
    store = create_store(Store(path, "benchmark", "light", key, arrays, SHARD, {}, codec))
    grow_store(store, -(-samples // SHARD))
    for shard in range(-(-samples // SHARD)):
        numbers = range(shard * SHARD, min((shard + 1) * SHARD, samples))
        columns = {spec.name: values(spec, numbers, 0) for spec in arrays}
        rows = [{name: np.asarray(column[slot]) for name, column in columns.items()} for slot in range(len(numbers))]
        write_shard(store, shard, [Entry(sample_id(number), "ok", "sha256:made") for number in numbers], rows)
    write_index(store)
    return store


class Handler(http.server.SimpleHTTPRequestHandler):
    """A file server with range requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    seconds = 0.0

    def send_head(self) -> io.BytesIO | None:
        time.sleep(self.seconds)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return None
        size, asked = path.stat().st_size, self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = (int(first), min(int(last or size) + 1, size)) if first else (size - int(last or size), size)
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        return io.BytesIO(body)

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_slowly(folder: str, port: "multiprocessing.Queue[int]") -> None:
    """Like a server some hundred kilometers away, or an object store."""
    Handler.seconds = 0.02
    serve_http(folder, port)


def serve_http(folder: str, port: "multiprocessing.Queue[int]") -> None:
    # With the default backlog of five, simultaneous connections are dropped and retried after seconds.
    http.server.ThreadingHTTPServer.request_queue_size = 128
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    server.daemon_threads = True
    port.put(server.server_address[1])
    server.serve_forever()


def serve_s3(folder: str, port: "multiprocessing.Queue[int]") -> None:
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import BaseWSGIServer

    BaseWSGIServer.request_queue_size = 1024
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port.put(server.get_host_and_port()[1])
    threading.Event().wait()


@contextmanager
def server(run: Callable[..., None], folder: Path) -> Iterator[str]:
    """A server in a separate process."""
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=run, args=(str(folder), port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=120)}"
    finally:
        process.terminate()
        process.join()


def epoch(reader: FetchingReader, order: np.ndarray) -> float:
    """Samples per second of whole batches into the same memory."""
    buffers = reader.buffers(BATCH)
    started = time.perf_counter()
    for start in range(0, len(order) - BATCH + 1, BATCH):
        reader.read(order[start : start + BATCH], buffers=buffers)
    return (len(order) // BATCH * BATCH) / (time.perf_counter() - started)


def zarr_loop(where: str, options: dict[str, object], order: np.ndarray, seconds: float) -> float:
    """Samples per second of `array[slot]` for every array, through zarr's store class."""
    store = (
        zarr.storage.FsspecStore.from_url(where, storage_options=options, read_only=True) if "://" in where else where
    )
    group = zarr.open_group(store, mode="r")
    arrays = [group[spec.name] for spec in WORKLOADS["light"].arrays]
    rows = [np.empty((BATCH, *spec.shape), dtype=spec.dtype) for spec in WORKLOADS["light"].arrays]
    started, done = time.perf_counter(), 0
    for position in order.tolist():
        for array, row in zip(arrays, rows, strict=True):
            row[done % BATCH] = array[position]
        done += 1
        if time.perf_counter() - started > seconds:
            break
    return done / (time.perf_counter() - started)


def one_round(
    where: str, options: dict[str, object], order: np.ndarray, seconds: float, blocks: Path
) -> dict[str, float]:
    """Every reader of one location once."""
    ids = [sample_id(number) for number in range(len(order))]

    def fetching(cache: Path | None) -> FetchingReader:
        store = RemoteReader(where, cache, LIMIT, options) if "://" in where else StoreReader(Path(where))
        return FetchingReader(columns_of(store), ids)

    rates = {}
    if "://" in where:
        shutil.rmtree(blocks, ignore_errors=True)
        reader = fetching(blocks)
        rates["first"] = epoch(reader, order)
        rates["again"] = epoch(reader, order[::-1].copy())
        reader = fetching(None)
        # The indexes are read once, within the first few batches.
        rates["no cache"] = epoch(reader, order[: min(len(order), 16 * BATCH)])
    else:
        reader = fetching(None)
        epoch(reader, order)
        rates["again"] = epoch(reader, order[::-1].copy())
    rates["zarr loop"] = zarr_loop(where, options, order, seconds)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "made", "AWS_SECRET_ACCESS_KEY": "made", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = Path(temporary), {}
        site = folder / "site"
        stores = {codec: make_store(site, codec, arguments.samples) for codec in CODECS}
        for codec, store in stores.items():
            size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
            print(f"{codec}: {size / 2**20:.0f} MiB")
        with (
            server(serve_http, site) as http_url,
            server(serve_slowly, site) as slow_url,
            server(serve_s3, site) as s3_url,
        ):
            s3_options: dict[str, object] = {"endpoint_url": s3_url}
            s3 = fsspec.filesystem("s3", **s3_options)
            s3.mkdir(BUCKET)
            for store in stores.values():
                for path in store.path.rglob("*"):
                    if path.is_file():
                        s3.pipe(f"{BUCKET}/{path.relative_to(site).as_posix()}", path.read_bytes())
            for number in range(arguments.rounds):
                order = np.random.default_rng(number).permutation(arguments.samples)
                for codec, store in stores.items():
                    below = store.path.relative_to(site).as_posix()
                    places = {
                        "local": (str(store.path), {}),
                        "http": (f"{http_url}/{below}", {}),
                        "slow": (f"{slow_url}/{below}", {}),
                        "s3": (f"s3://{BUCKET}/{below}", s3_options),
                    }
                    for place, (where, options) in places.items():
                        rates = one_round(where, options, order, arguments.seconds, folder / "blocks")
                        for name, rate in rates.items():
                            found.setdefault((place, codec, name), []).append(rate)
        print("place  codec  reader     samples/s  of zarr loop")
        for (place, codec, name), rates in found.items():
            ratio = statistics.median(rates) / statistics.median(found[place, codec, "zarr loop"])
            print(f"{place:6} {codec:6} {name:10} {statistics.median(rates):9.0f}  {ratio:8.1f}")


if __name__ == "__main__":
    main()
