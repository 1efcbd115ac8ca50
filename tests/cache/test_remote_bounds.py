"""Contract of what a web server or an object store may answer: no more than was asked for, and nothing to unpack."""

import gzip
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from tests.cache.test_store import build
from unialign.cache.index import write_index
from unialign.cache.remote import remote_reader as remotes
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.errors import CacheProblem, UsageError

# A gigabyte of zeros, packed.
BOMB = gzip.compress(bytes(1 << 20), 9) * 1024


@contextmanager
def serving(store: Path, bad: str, how: str) -> Iterator[str]:
    """A store on the web, of which one file is answered otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition(".zarr/")[2]
            data = (store / name).read_bytes()
            if name == bad and how == "gzip":
                self.send_response(200)
                self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(BOMB)
            elif name == bad:
                self.send_response(200)
                self.end_headers()
                try:
                    for _ in range(4096):
                        self.wfile.write(bytes(1 << 20))
                except OSError:
                    return
            else:
                asked = self.headers.get("Range")
                start, stop = (0, len(data)) if asked is None else map(int, asked.removeprefix("bytes=").split("-"))
                part = data[start : stop + 1] if asked else data
                self.send_response(206 if asked else 200)
                self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
                self.end_headers()
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{store.name}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("how", ["gzip", "endless"])
@pytest.mark.parametrize("bad", ["zarr.json", "records/index.bin", "feature/c/0/0"])
def test_an_answer_that_is_too_much_is_rejected_and_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, how: str
) -> None:
    store = build(tmp_path)
    write_index(store)
    monkeypatch.setattr(remotes, "INDEX_BYTES", 32 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(store.path, bad, how) as url:
        wanted = "compresses it" if how == "gzip" else "larger than" if bad.startswith(("z", "r")) else "ignores ranges"
        with pytest.raises((CacheProblem, UsageError), match=wanted):
            RemoteReader(url).read_one("clip000")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_whole_file_of_another_file_system_is_measured_before_it_is_fetched(tmp_path: Path) -> None:
    store = build(tmp_path)
    write_index(store)
    system = fsspec.filesystem("memory")
    for path in store.path.rglob("*"):
        if path.is_file():
            system.pipe(f"/bounds/{path.relative_to(store.path.parent)}", path.read_bytes())
    url = f"memory://bounds/{store.path.name}"
    assert RemoteReader(url).read_one("clip000")["count"] == 0
    system.pipe(f"/bounds/{store.path.name}/zarr.json", bytes(17 << 20))
    with pytest.raises(CacheProblem, match="larger than 16777216 bytes"):
        RemoteReader(url)
    system.rm("/bounds", recursive=True)
