"""A cache in object storage: the bytes of a local one, shards that leave as they are finished, one writer at a time."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from tests.pipeline.extraction.test_remote_sources import quick, s3, videos
from unialign.cache import lock
from unialign.cache.mirrors import bucket_of
from unialign.cache.reader import StoreReader
from unialign.cache.remote import outbox, putting
from unialign.cache.remote.mirror import mirror_of, mirrored, reader_at
from unialign.cache.remote.outbox import leased
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.cache.usage import cache_usage
from unialign.cache.verify import verify_store
from unialign.cli import app
from unialign.errors import CacheProblem, LockedStore, UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.exchange.remote_import import import_remote
from unialign.pipeline.manifest import load_manifest
from unialign.pipeline.prune import prune_stores
from unialign.pipeline.stores import open_chosen

__all__ = ["quick", "s3", "videos"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mirrors are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """The URL of an empty cache."""
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    s3.mkdir(name)
    return f"s3://{name}/cache"


def copied(s3: Any, url: str, folder: Path) -> str:
    """Digest of what is there."""
    s3.invalidate_cache()
    s3.get(url, str(folder), recursive=True)
    return tree_digest(folder)


def shards_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("c/*/*") if path.is_file() or any(path.rglob("*"))]


def test_a_store_in_a_bucket_has_the_bytes_of_a_local_one_and_is_extended(s3: Any, bucket: str, tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 22, bad=(3,))
    held: list[int] = []
    first = extract(mirrored(bucket), sources[:9], watch=lambda pace: held.append(len(shards_in(mirror_of(bucket)))))
    assert first.place == f"{bucket}/made/poses/{first.store.name}"
    # Another machine, with a mirror of its own.
    shutil.rmtree(mirror_of(bucket))
    done = extract(mirrored(bucket), sources)
    assert (done.extracted, done.reused, done.quarantined) == (13, 8, {"truncated": 1})
    for cache in (tmp_path / "local",):
        extract(cache, sources[:9])
        local = extract(cache, sources)
    assert copied(s3, done.place, tmp_path / "copy") == tree_digest(local.store)
    assert not shards_in(mirror_of(bucket))
    # Two arrays of a shard that is being sent.
    assert max(held) <= 2
    reader = reader_at(done.store)
    assert isinstance(reader, RemoteReader)
    for name in reader.ids:
        found, expected = reader.read_one(name), StoreReader(local.store).read_one(name)
        assert all((found[array] == expected[array]).all() for array in expected)
    assert not s3.find(f"{bucket}/.locks")


KILLED = """
import sys, os
from pathlib import Path
from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.remote.mirror import mirrored
from unialign.cache.remote.outbox import Outbox
real, calls = getattr(Outbox, sys.argv[3]), [0]
def killed(*given):
    calls[0] += 1
    if calls[0] == 3:
        if sys.argv[4] == "after":
            real(*given)
        os.kill(os.getpid(), 9)
    return real(*given)
setattr(Outbox, sys.argv[3], killed)
extract(mirrored(sys.argv[1]), make_files(Path(sys.argv[2]), 22))
"""


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_killed_extraction_leaves_nothing_that_counts_and_goes_on(
    s3: Any, bucket: str, tmp_path: Path, when: str
) -> None:
    sources = make_files(tmp_path / "files", 22)
    program = KILLED
    if when == "within":  # between a shard's files and its record
        program = (
            program.replace("real, calls", "from unialign.cache.remote import outbox\nreal, calls")
            .replace("getattr(Outbox, sys.argv[3])", "outbox.send")
            .replace("setattr(Outbox, sys.argv[3], killed)", "outbox.send = killed")
            .replace("(*given):", "(*given, **more):")
            .replace("real(*given)", "real(*given, **more)")
        )
    words = [bucket, str(tmp_path / "files"), "send_shard", when]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env={**os.environ, "PYTHONPATH": str(root)}, check=False, timeout=60
    )
    assert done.returncode == -9
    again = extract(mirrored(bucket), sources)
    assert again.reused == {"before": 8, "within": 4, "after": 12}[when]
    local = extract(tmp_path / "local", sources)
    assert copied(s3, again.place, tmp_path / "copy") == tree_digest(local.store)
    assert not s3.find(f"{bucket}/.locks")


def test_one_process_writes_a_store_at_a_time(s3: Any, bucket: str, tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 8)
    store = extract(mirrored(bucket), sources[:4]).store
    with leased(store, mirror_of(bucket)) as box:
        with pytest.raises(LockedStore, match=r"delete s3://.*\.lock\.000000000"):
            extract(mirrored(bucket), sources)
        # Somebody did so although this one lives: it notices before its next shard counts.
        s3.rm(f"{bucket}/{box.lease}")
        assert extract(mirrored(bucket), sources).extracted == 4
        with pytest.raises(LockedStore, match="was deleted while this process wrote"):
            box.send_shard(*written(store, mirror_of(bucket), tmp_path / "other"))


def written(store: Path, mirror: Path, folder: Path) -> tuple[Any, Any]:
    """Shard 1 of a store as another machine computes it, in its mirror."""
    from unialign.cache.records import read_record, record_path
    from unialign.cache.store import open_store

    other = extract(folder, make_files(folder / "files", 8), Spectrum(lenient=True)).store
    for path in other.rglob("*"):
        if path.is_file() and "/c/1/" in str(path):
            place = store / path.relative_to(other)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    record = record_path(store, 1)
    record.write_bytes(record_path(other, 1).read_bytes())
    return open_store(store), read_record(record)


def test_of_two_that_write_a_shard_one_wins(s3: Any, bucket: str, tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 8)
    store = extract(mirrored(bucket), sources[:4]).store
    name = f"{bucket}/made/poses/{store.name}/records/000001.json"
    with leased(store, mirror_of(bucket)) as box:
        given = written(store, mirror_of(bucket), tmp_path / "other")
        s3.pipe_file(name, b"another record")
        with pytest.raises(CacheProblem, match="is there and says something else"):
            box.send_shard(*given)
        assert s3.cat(name) == b"another record"
        s3.rm(name)
        box.send_shard(*given)
        box.send_metadata(given[0])


def test_a_dead_writer_of_another_machine_is_not_taken_for_dead(
    s3: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = make_files(tmp_path / "files", 4)
    store = extract(mirrored(bucket), sources).store
    me = {**lock.this_process(), "started": "1"}
    for host, fine in (("elsewhere", False), (me["host"], True)):
        s3.pipe_file(
            f"{bucket}/.locks/made-poses-{store.name}.lock.000000004", json.dumps({**me, "host": host}).encode()
        )
        if fine:
            assert extract(mirrored(bucket), sources).reused == 4
        else:
            with pytest.raises(LockedStore, match="elsewhere"):
                extract(mirrored(bucket), sources)


def test_a_storage_without_conditions_is_found_at_the_start(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = putting.called
    monkeypatch.setattr(putting.Remote, "system", without_conditions(putting.Remote.system))
    assert putting.called is real
    with pytest.raises(UsageError, match=r"overwrites files whatever the condition"):
        extract(mirrored(bucket), make_files(tmp_path / "files", 4))


def without_conditions(real: Callable[[Any], tuple[Any, str]]) -> Callable[[Any], tuple[Any, str]]:
    class Careless:
        def __init__(self, system: Any) -> None:
            self.system = system

        def __getattr__(self, name: str) -> Any:
            return getattr(self.system, name)

        def pipe_file(self, path: str, data: bytes, mode: str) -> None:
            self.system.pipe_file(path, data)

    def system(remote: Any) -> tuple[Any, str]:
        found, root = real(remote)
        return Careless(found), root

    return system


def test_what_needs_the_shards_here_is_one_clear_error(bucket: str, tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    done = extract(mirrored(bucket), sources)
    mirror = mirror_of(bucket)
    assert bucket_of(mirror) == bucket
    for wrong, message in (
        (lambda: extract(mirror, sources, join=True), "--join needs a cache on a disk"),
        (lambda: extract(mirror, sources, repair=True), "--repair does not reach into"),
        (lambda: prune_stores(mirror, set(), dry_run=False), "cache prune needs"),
        (lambda: verify_store(done.store), "cache verify needs"),
        (lambda: cache_usage(mirror), "cache du needs"),
        (lambda: StoreReader(done.store), "bring the store into a local cache"),
        (lambda: mirrored("https://host/cache"), "a web server takes no files"),
        (lambda: import_remote(done.place, mirror), "cache import needs"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()
    with pytest.raises(CacheProblem, match="there is no bucket"):
        mirrored("s3://bucket-that-nobody-made/cache")


def test_a_missing_shard_file_is_found_before_anything_is_extracted(s3: Any, bucket: str, tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 8)
    done = extract(mirrored(bucket), sources[:4])
    s3.rm(f"{done.place}/histogram/c/0/0")
    with pytest.raises(CacheProblem, match="has 0 bytes instead of"):
        extract(mirrored(bucket), sources)


def test_a_server_says_in_its_own_way_that_a_condition_is_not_met() -> None:
    class Refused(Exception):
        def __init__(self, text: str = "", status: int = 0, code: str = "") -> None:
            super().__init__(text)
            self.status, self.response = status, {"Error": {"Code": code}}

    def chained(cause: Exception) -> Exception:
        error = OSError(5, None)
        error.__cause__ = cause
        return error

    remote = putting.Remote("s3://bucket/cache")
    said = (
        FileExistsError(),
        Refused("PreconditionFailed"),
        Refused(status=412),
        chained(Refused(code="PreconditionFailed")),
    )
    for error in said:
        with pytest.raises(putting.Taken):
            putting.called(remote, "x", failing_with(error))
    with pytest.raises(CacheProblem, match=r"s3://bucket/cache/x cannot be written \(OSError\)"):
        putting.called(remote, "x", failing_with(chained(Refused("with a signature"))))
    with pytest.raises(LockedStore):
        putting.called(remote, "x", failing_with(LockedStore("it is")))


def failing_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_what_is_seldom_there_is_said_clearly(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No samples: no records, and no index to send.
    store = extract(mirrored(bucket), []).store
    with monkeypatch.context() as patch:
        # Another process took the lock between the look and the write.
        patch.setattr(outbox, "_dead", lambda *given, **more: [])
        with leased(store, mirror_of(bucket)), pytest.raises(LockedStore), leased(store, mirror_of(bucket)):
            pass
    with pytest.raises(CacheProblem, match="cannot be written"):
        putting.put(putting.Remote("s3://bucket-that-nobody-made/cache"), "x", b"x")
    (mirror_of(bucket) / ".bucket.json").write_text("{}")
    with pytest.raises(CacheProblem, match=r"\.bucket\.json cannot be read; delete that folder"):
        extract(mirror_of(bucket), [])


def test_names_that_lead_out_of_the_mirror_are_left_alone(s3: Any, bucket: str, tmp_path: Path) -> None:
    for name in (
        "../../../x.json",
        "a/datasets/..\\x.json",
        ".locks/a",
        "a/b/../x.zarr/zarr.json",
        "a/b/c.zarr/zarr.json",
    ):
        s3.pipe_file(f"{bucket}/{name}", b"{}")
    assert [path.name for path in mirrored(bucket).rglob("*") if path.is_file()] == [".bucket.json"]


@pytest.fixture
def commands(bucket: str, videos: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command on a cache, by default that in the bucket."""

    def run(*words: str, cache: str = bucket) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--cache", cache, "--json"])
        assert done.exit_code in (0, 3), (done.output, done.exception)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def test_commands_take_a_url_as_cache_and_a_store_comes_back(
    s3: Any, bucket: str, commands: Callable[..., dict[str, Any]], videos: Path, tmp_path: Path
) -> None:
    words = ["extract", "frames", "--dataset", "folder", "--root", str(videos), "--short-side", "32"]
    there, here = commands(*words), commands(*words, cache=str(tmp_path / "local"))
    assert there["store"].startswith(bucket)
    assert copied(s3, there["store"], tmp_path / "copy") == tree_digest(Path(here["store"]))
    assert commands("cache", "ls")["stores"][0]["samples"] == 3
    assert commands("cache", "ls")["cache"] == bucket
    # Also on another machine, and without the videos: the list of the dataset is there.
    shutil.rmtree(mirror_of(bucket))
    assert (
        commands("extract", "frames", "--dataset", "folder", "--root", str(videos), "--short-side", "32")["reused"] == 3
    )
    shutil.rmtree(mirror_of(bucket))
    config = load_config({"cache": mirrored(bucket), "dataset": "folder"})
    dataset = load_manifest(config.cache, "folder")
    assert [sample.id for sample in dataset.samples] == ["jump/a", "jump/b", "wave/a", "wave/b c"]
    reader = open_chosen(config.cache, dataset, "frames", {}, keep=0)
    assert isinstance(reader, RemoteReader)
    assert reader.url == there["store"]
    back = commands("cache", "import", there["store"], cache=str(tmp_path / "back"))
    assert tree_digest(Path(back["store"])) == tree_digest(Path(here["store"]))
    assert not back["reused"]
    assert commands("cache", "import", there["store"], cache=str(tmp_path / "back"))["reused"]
