"""A cache in object storage, and its local side: a folder with all of it but the files of the shards.

Commands that are given `--cache s3://bucket/cache` work on that folder, the mirror, as on any cache: metadata, records,
indexes and lists of datasets lie in it, and are brought up to date first. Only what a shard consists of does not: it is
read from the storage, and an extraction sends it there as soon as it is written, then its record, and deletes it here.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from unialign.cache import atomic
from unialign.cache.index import INDEX_BYTES, NAME
from unialign.cache.mirrors import ABOUT, bucket_of, url_of
from unialign.cache.reader import StoreReader
from unialign.cache.records import shard_of
from unialign.cache.remote.putting import Taken, called, is_s3, put, told
from unialign.cache.remote.remote_reader import LIMIT, RemoteReader
from unialign.cache.remote.transport import Part, Remote, fetch
from unialign.cache.schema import METADATA_BYTES, RECORD_BYTES
from unialign.cache.store import is_store_name
from unialign.errors import CacheProblem, UsageError

# Files that are fetched at a time, and bytes of a dataset's list.
AT_ONCE, LIST_BYTES = 256, 1 << 30
Reader = StoreReader | RemoteReader
_NAME = re.compile(r"[^./\\\0][^/\\\0]*")


def mirror_of(url: str) -> Path:
    """The folder of the mirror of the cache at a URL, in this user's folder for what programs can make again."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]
    return home / "unialign" / "buckets" / f"{PurePosixPath(url).name}-{digest}"


def mirrored(url: str) -> Path:
    """The mirror of the cache at a URL, brought up to date.

    Raises `UsageError` for a web server, which takes no files, `CacheProblem` if the storage cannot be listed or read.
    """
    remote = Remote(url)
    if remote.web:
        raise UsageError(
            f"{url}: a web server takes no files, so it holds no cache that can be extended; name its stores one by "
            "one (train.stores), or give s3://, gs:// or another storage."
        )
    mirror = mirror_of(remote.url)
    pull(mirror, remote, listed(remote))
    if not (mirror / ABOUT).is_file():
        atomic.write_text(mirror / ABOUT, json.dumps({"url": remote.url}))
    return mirror


def reader_at(path: Path, limit: int = LIMIT) -> Reader:
    """A reader of the store at a path, wherever its shards are. limit: bytes of the blocks kept on the local disk."""
    url = url_of(path)
    return RemoteReader(url, path.parents[2] / ".remote" if limit else None, limit) if url else StoreReader(path)


def listed(remote: Remote, below: str = "", *, must_exist: bool = True) -> dict[str, Mapping[str, Any]]:
    """What the storage says of each file below a remote folder, or a folder in it, by name.

    Raises `CacheProblem` if it cannot be listed, with `must_exist` also if its bucket is not there.
    """
    system, root = remote.system()
    system.invalidate_cache()
    bucket, found = root.partition("/")[0], {}
    with suppress(FileNotFoundError):
        found = called(remote, below, lambda: system.find(f"{root}/{below}".rstrip("/"), detail=True))
    if not found and must_exist and is_s3(remote):
        # Nothing is found in a bucket that is not there either.
        try:
            called(remote, "", lambda: system.ls(bucket))
        except FileNotFoundError as error:
            raise CacheProblem(f"{remote.url}: there is no bucket {bucket}; create it first.") from error
    return {name.removeprefix(root).lstrip("/"): info for name, info in found.items()}


def pull(mirror: Path, remote: Remote, files: Mapping[str, Mapping[str, Any]], below: str = "") -> None:
    """Fetch what belongs into the mirror and is not there as it is in the storage.

    below: only of that store. Raises `CacheProblem` for what cannot be fetched, and names that are none.
    """
    wanted = {
        name: limit
        for name in files
        if name.startswith(below) and (limit := _limit(name)) and _differs(mirror, name, files)
    }
    # A store is one as soon as its group's metadata is there: those come last.
    names = sorted(wanted, key=lambda name: (name.endswith(".zarr/zarr.json"), name))
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        for name, data in zip(some, fetch([Part(remote, name, limit=wanted[name]) for name in some]), strict=True):
            atomic.write_file(mirror / name, data)


def _limit(name: str) -> int:
    """The most bytes that a file of the mirror may have; 0 for one that does not belong there."""
    parts = name.split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        return 0
    if len(parts) == 3 and parts[1] == "datasets" and parts[2].endswith(".json"):
        return LIST_BYTES
    if len(parts) < 4 or not is_store_name(parts[2]):
        return 0
    tail = parts[3:]
    if tail[-1] == "zarr.json" and len(tail) < 3:
        return METADATA_BYTES
    if len(tail) == 2 and tail[0] == "records":
        return INDEX_BYTES if tail[1] == NAME else RECORD_BYTES if shard_of(tail[1]) is not None else 0
    return 0


def _differs(mirror: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a file is not here as it is there: by its size, and by its MD5, which S3 gives as tag of small files."""
    path, info = mirror / name, files[name]
    try:
        if path.stat().st_size != int(info.get("size") or 0):
            return True
        tag = str(info.get("ETag") or "").strip('"')
        return tag != hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except FileNotFoundError:
        return True


def send(mirror: Path, path: Path, *, create: bool = False) -> None:
    """Put a file of a mirror into the storage. create: only if nothing is there.

    Raises `CacheProblem` if something else is there, or the storage fails.
    """
    remote, name = Remote(bucket_of(mirror)), path.relative_to(mirror).as_posix()
    data = path.read_bytes()
    try:
        put(remote, name, data, create=create)
    except Taken as error:
        if fetch([Part(remote, name, limit=len(data))]) != [data]:
            raise CacheProblem(
                f"{remote.url}/{name} is there and says something else: another extraction has written it meanwhile. "
                "Nothing of it was changed; repeat the command to go on with what is there."
            ) from error


def send_changed(mirror: Path, paths: Sequence[Path]) -> None:
    """Put those files into the storage that are not there as they are here."""
    remote = Remote(bucket_of(mirror))
    for path in paths:
        name = path.relative_to(mirror).as_posix()
        there = told(remote, name)
        if there is None or _differs(mirror, name, {name: there}):
            send(mirror, path)
