"""A web server with range requests over a folder, which can be told to misbehave, and stores to put behind it."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from tests.cache.test_store import ARRAYS, sample
from unialign.cache.arrays import ArraySpec
from unialign.cache.index import write_index
from unialign.cache.keys import Key
from unialign.cache.reader import Recorded
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard


@dataclass
class Site:
    """A folder as a web site.

    faults: answers to come, by how often each: "range" sends whole files, "cut" ends before the promised length,
    "gone" is 404, "refused" 403, "busy" 503, "slow" waits, "elsewhere" redirects to 127.0.0.1. only: of paths that hold
    this text.
    """

    folder: Path
    url: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    only: str = "/c/"
    closed: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, path: str) -> str:
        with self.lock:
            for name, times in self.faults.items():
                if times and self.only in path:
                    self.faults[name] -= 1
                    return name
        return ""

    @property
    def shards_asked(self) -> list[tuple[str, str]]:
        """Requests for shard files: path and range."""
        return [each for each in self.asked if "/c/" in each[0]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    site: Site


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; with Nagle's algorithm each answer would wait 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        site = self.server.site
        if site.closed:
            # Connections outlive the server's socket.
            self.close_connection = True
            return
        asked = self.headers.get("Range", "")
        with site.lock:
            site.asked.append((self.path, asked))
        fault = site.fault(self.path)
        path = site.folder / unquote(self.path).lstrip("/")
        if fault == "elsewhere":
            self._send(302, b"", {"Location": site.url + self.path})
            return
        if fault == "slow":
            time.sleep(1.0)
        codes = {"gone": 404, "refused": 403, "busy": 503}
        if fault in codes or not path.is_file():
            self._send(codes.get(fault, 404), b"", {})
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if not found or fault == "range":
            self._send(200, data, {})
            return
        start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        part = data[start:stop]
        self._send(206, part, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, cut=fault == "cut")

    def _send(self, code: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Site]:
    """The folder on a port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = Site(folder, f"http://127.0.0.1:{server.server_address[1]}")
    # A client that was told to wait no longer hangs up, and the handler would print that.
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.site
    finally:
        server.site.closed = True
        server.shutdown()
        thread.join()
        server.server_close()


def made(
    cache: Path,
    codec: str,
    num_samples: int = 11,
    *,
    modality: str = "poses",
    arrays: Sequence[ArraySpec] = ARRAYS,
    shift: int = 0,
    bad: Sequence[int] = (),
) -> Store:
    """A store of `test_store.sample`s, four a shard, with its index; sample n holds the values of n + shift."""
    key = Key({"extractor": "fake", "revision": 1})
    path = store_path(cache, "made", modality, key)
    store = create_store(Store(path, "made", modality, key, tuple(arrays), 4, {"licence": "none"}, codec))
    grow_store(store, -(-num_samples // 4))
    for shard in range(-(-num_samples // 4)):
        numbers = range(shard * 4, min(shard * 4 + 4, num_samples))
        entries = [Entry(f"clip{n:03d}", "truncated" if n in bad else "ok", f"sha256:{n}") for n in numbers]
        values = [{} if n in bad else {spec.name: sample(n + shift)[spec.name] for spec in arrays} for n in numbers]
        write_shard(store, shard, entries, values)
    write_index(store)
    return store


def window(value: np.ndarray, start: int, entries: int) -> np.ndarray:
    """That many entries from the first one on, and behind the last one the first one again."""
    return value[(start + np.arange(entries)) % len(value)]


def check_all(reader: Recorded) -> None:
    """Every sample of a store of `made` has its values."""
    for n, name in enumerate(reader.ids):
        found = reader.read_one(name)
        assert list(found) == [spec.name for spec in ARRAYS]
        for array, value in sample(n).items():
            assert found[array].dtype == value.dtype
            np.testing.assert_array_equal(found[array], value)
