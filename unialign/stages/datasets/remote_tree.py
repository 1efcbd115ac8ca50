"""The names of a data root behind a URL as a local tree: videos as pointers, lists and other small files as they are.

Every adapter of a dataset looks at names and lists only, so it reads the tree like a folder of videos. The names come
from the server's list of the folder; a plain web server has none, so there they come from `labels.csv`. A root of tar
files, or a pattern of their names, is one of WebDataset: the videos inside are the pointers (`tar_shards.py`).
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from unialign.cache import atomic
from unialign.errors import CacheProblem, MissingCache, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.scan import check_name
from unialign.stages.datasets.tar_shards import videos_in
from unialign.stages.remote_files import ABOUT, Pointer, RemotePath, tag_of
from unialign.stages.video_containers import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from unialign.cache.remote.transport import Remote

# Files of a remote root, and bytes of one that is no video and of all of those.
MOST_FILES = 2_000_000
LARGEST, LARGEST_TOTAL = 64 << 20, 1 << 30
# Requests at a time for the sizes of files on a web server.
AT_ONCE = 32
# Beside a tree: what the headers of its tar files said.
HEADERS = ".headers"
# A pattern of tar files: shards/train-{000000..000099}.tar.
_PATTERN = re.compile(r"(.+)/([^/{}]*)\{(\d{1,9})\.\.(\d{1,9})\}([^/{}]*\.tar)")


def remote_url(root: Path) -> str:
    """The URL that a configured path is, "" if it is none: a path keeps only one of the slashes of s3://."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(.+)", str(root), re.DOTALL)
    return f"{found[1]}:{'///' if found[1] == 'file' else '//'}{found[2]}" if found else ""


def tree_of(url: str, folder: Path) -> Path:
    """Where the tree of a URL is, in a folder of trees; named as the URL's last part is."""
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]
    return folder / digest / (PurePosixPath(_divided(url)[0]).name or "root")


def make_tree(url: str, folder: Path, spool: Path, limit: int) -> Path:
    """Bring the tree of a URL up to date; returns its path. spool, limit: see `remote_files.Spool`.

    Raises `UsageError` for a URL that cannot be listed, names that are none, and files that are too many or too large.
    """
    from unialign.cache.remote.transport import Remote

    place, names = _divided(url)
    remote, tree = Remote(place), tree_of(url, folder)
    found = dict(_listed(remote, names))
    videos = {name: each for name, each in found.items() if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES}
    shards = {name: each for name, each in found.items() if name.endswith(".tar")}
    others = {name: each for name, each in found.items() if name not in videos and name not in shards}
    if shards and not videos:
        videos = videos_in(remote, shards, tree.parent / HEADERS)
    _check_sizes(url, others)
    wanted = {name: each.text().encode() for name, each in videos.items()}
    wanted |= _contents(remote, others)
    about = json.dumps({"url": remote.url, "spool": str(spool), "limit": limit})
    _write(tree.parent / ABOUT, about.encode())
    for name, data in wanted.items():
        try:
            _write(tree / name, data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UsageError(f"{url}: {name} is a file, and a folder of others; rename one of them.") from error
    for path in [path for path in _below(tree) if path.relative_to(tree).as_posix() not in wanted]:
        atomic.remove(path)
    return tree


def _divided(url: str) -> tuple[str, list[str]]:
    """The folder of a URL, and the names that its last part stands for if it is a pattern of tar files.

    Raises `UsageError` for a pattern of too many.
    """
    match = _PATTERN.fullmatch(url)
    if match is None:
        return url.rstrip("/"), []
    place, before, first, last, after = match.groups()
    if not 0 <= int(last) - int(first) < MOST_FILES:
        raise UsageError(f"{url}: {first} to {last} are no names of tar files.")
    return place, [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]


def with_pointers(dataset: Dataset, tree: Path) -> Dataset:
    """The dataset with the videos of the tree as pointers, which are fetched when they are read."""

    def pointed(sample: Sample) -> Sample:
        video = sample.files.get("video")
        if video is None or not video.is_relative_to(tree) or video.suffix.lower() not in VIDEO_SUFFIXES:
            return sample
        return replace(sample, files={**sample.files, "video": RemotePath(video)})

    return replace(dataset, samples=tuple(map(pointed, dataset.samples)))


def _write(path: Path, data: bytes) -> None:
    """Write what has changed; what has not keeps its times, and so its known digest."""
    try:
        same = path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        same = False
    if not same:
        atomic.write_file(path, data)


def _below(tree: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(tree):
        for name in names:
            yield Path(folder, name)


def _listed(remote: "Remote", names: Sequence[str]) -> Iterator[tuple[str, Pointer]]:
    """Every file with its name below the root; hidden ones are left out. names: those that are meant, if not all."""
    every = _named_in_labels if remote.web else _found
    found = _looked_at(remote, names) if names else every(remote)
    for number, (name, info) in enumerate(found):
        if number == MOST_FILES:
            raise UsageError(f"{remote.url}: holds more than {MOST_FILES:,} files; give a folder below it.")
        plain = check_name(name, remote.url)
        if any(part.startswith(".") for part in PurePosixPath(plain).parts):
            continue
        size = info.get("size")
        if not isinstance(size, int):
            raise UsageError(f"{remote.url}/{plain}: the server does not say its size; serve it by another one.")
        yield plain, Pointer(remote.url, plain, size, tag_of(info))


def _found(remote: "Remote") -> Iterator[tuple[str, Mapping[str, Any]]]:
    system, root = remote.system()
    try:
        system.invalidate_cache()
        found = system.find(root, detail=True)
    except Exception as error:
        # Not the message: it may hold a signature.
        raise UsageError(
            f"{remote.url} cannot be listed ({type(error).__name__}); check the address, the access and the connection."
        ) from error
    if not found:
        raise UsageError(f"{remote.url}: no such folder, or nothing in it; check the address.")
    for path, info in found.items():
        # Object stores list folders that somebody made as empty files.
        if info.get("type") == "file" and not path.endswith("/"):
            yield path.removeprefix(root).lstrip("/"), info


def _named_in_labels(remote: "Remote") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """`labels.csv` and the files that it names, as far as they exist."""
    from unialign.cache.remote.transport import Part, fetch

    try:
        (data,) = fetch([Part(remote, "labels.csv", limit=LARGEST)])
    except MissingCache as error:
        raise UsageError(
            f"{remote.url}: a web server does not list its files, so it needs a labels.csv (path,label) beside them."
        ) from error
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        names = list(dict.fromkeys(check_name(str(row.get("path") or ""), f"{remote.url}/labels.csv") for row in rows))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{remote.url}/labels.csv: is no CSV in UTF-8 ({error}).") from error
    yield "labels.csv", {"size": len(data)}
    yield from _looked_at(remote, names)


def _looked_at(remote: "Remote", names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those of the files that exist."""
    system, root = remote.system()

    def info(name: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = system.info(f"{root}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise CacheProblem(f"{remote.url}/{name} cannot be looked at ({type(error).__name__}).") from error
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, found in zip(names, pool.map(info, names), strict=True):
            if found is not None:
                yield name, found


def _check_sizes(url: str, others: Mapping[str, Pointer]) -> None:
    for name, each in others.items():
        if each.size > LARGEST:
            raise UsageError(
                f"{url}/{name}: is no video and has {each.size / 1e6:.0f} MB; move it out of the data root."
            )
    if sum(each.size for each in others.values()) > LARGEST_TOTAL:
        raise UsageError(
            f"{url}: {len(others):,} files that are no videos have more than {LARGEST_TOTAL >> 30} GB; only videos are "
            "fetched one at a time, so copy this data root to a disk."
        )


def _contents(remote: "Remote", others: Mapping[str, Pointer]) -> dict[str, bytes]:
    from unialign.cache.remote.transport import Part, fetch

    parts = [Part(remote, each.path, 0, each.size) for each in others.values() if each.size]
    found = dict(zip((part.path for part in parts), fetch(parts), strict=True))
    return {name: found.get(name, b"") for name in others}
