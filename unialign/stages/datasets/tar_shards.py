"""Videos in tar files behind a URL, as WebDataset keeps them: found by reading the headers, not the files.

A sample is what shares a name up to its first dot: `0001.mp4` is a video, `0001.cls` its class (a number or a name), or
`0001.json` with the class as "class" or "label". Only headers are read, and those small members.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from unialign.cache import atomic
from unialign.errors import UsageError
from unialign.stages.remote_files import Pointer
from unialign.stages.video_containers import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from unialign.cache.remote.transport import Remote

# Bytes of one request for headers, and the most that one header may want; tar files that are read at a time.
WINDOW, LARGEST_READ, AT_ONCE = 16 << 10, 1 << 20, 8
# Members of one tar file, bytes of a label, and of its name.
MOST_MEMBERS, LABEL_BYTES, LABEL_CHARACTERS = 1_000_000, 64 << 10, 100
# Labels that are fetched at a time.
LABELS_AT_ONCE = 1000


@dataclass(frozen=True)
class Member:
    """A file inside a tar file: its bytes are the `size` bytes from `start`."""

    name: str
    start: int
    size: int


def videos_in(remote: "Remote", shards: Mapping[str, Pointer], kept: Path) -> dict[str, Pointer]:
    """A pointer to each video of the tar files, by a name with its class as a folder, as adapters expect it.

    shards: the tar files, by their names. kept: a folder for what their headers said. Raises `UsageError` for a file
    that is no tar file, is cut, or holds videos without a class.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        members = dict(zip(shards, pool.map(partial(_members, remote, kept), shards.values()), strict=True))
    found: dict[str, Pointer] = {}
    labels: dict[str, tuple[str, Pointer]] = {}
    for shard, inside in members.items():
        for key, endings in _samples(inside).items():
            video = next((each for ending, each in endings.items() if _is_video(ending)), None)
            if video is None:
                continue
            told = next((name for name in ("cls", "json") if name in endings), "")
            where = f"{remote.url}/{shard}: {video.name}"
            if not told:
                raise UsageError(f"{where} has no class; put {key}.cls with a number or a name beside it.")
            if endings[told].size > LABEL_BYTES:
                raise UsageError(f"{where}: its .{told} has {endings[told].size} bytes, too many for a class.")
            flat = key.replace("/", "-")
            suffix = PurePosixPath(video.name).suffix
            name = f"{PurePosixPath(shard).parent}/LABEL/{PurePosixPath(shard).stem}-{flat}{suffix}"
            labels[name] = (told, _part(shards[shard], endings[told]))
            found[name] = _part(shards[shard], video)
    texts = dict(zip(labels, _texts(remote, [pointer for _, pointer in labels.values()]), strict=True))
    named = {name: _label(kind, texts[name], remote.url, found[name]) for name, (kind, _) in labels.items()}
    return {name.replace("/LABEL/", f"/{named[name]}/", 1).removeprefix("./"): each for name, each in found.items()}


def _members(remote: "Remote", kept: Path, shard: Pointer) -> list[Member]:
    """The files in a tar file, from what was kept of it if its server says that it is the same."""
    path = kept / f"{shard.key}.json"
    if shard.tag and path.is_file():
        return [Member(*each) for each in json.loads(path.read_bytes())]
    found: list[Member] = []
    try:
        with tarfile.open(fileobj=_Headers(remote, shard), mode="r:") as archive:
            for each in archive:
                if each.size < 0 or (found and each.offset_data < found[-1].start + found[-1].size):
                    raise tarfile.ReadError("members overlap")
                if len(found) == MOST_MEMBERS:
                    raise UsageError(f"{remote.url}/{shard.path}: holds more than {MOST_MEMBERS:,} files.")
                if each.isfile() and not each.issparse():
                    found.append(Member(each.name, each.offset_data, each.size))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UsageError(f"{remote.url}/{shard.path}: is no whole tar file ({error}).") from error
    if found and found[-1].start + found[-1].size > shard.size:
        raise UsageError(f"{remote.url}/{shard.path}: is no whole tar file; upload it again.")
    if shard.tag:
        atomic.write_text(path, json.dumps([[each.name, each.start, each.size] for each in found]))
    return found


class _Headers(io.RawIOBase):
    """A remote file for `tarfile`, which reads its headers: a window of bytes around the last place."""

    def __init__(self, remote: "Remote", shard: Pointer) -> None:
        super().__init__()
        self.remote, self.shard = remote, shard
        self.at, self.first, self.window = 0, 0, b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.shard.size}[whence] + offset
        if self.at < 0:
            raise ValueError("a header leads before the beginning")
        return self.at

    def read(self, size: int = -1) -> bytes:
        from unialign.cache.remote.transport import Part, fetch

        stop = min(self.at + size, self.shard.size) if size >= 0 else self.shard.size
        if stop - self.at > LARGEST_READ:
            raise ValueError("a header is too large")
        if stop <= self.at:
            return b""
        if not self.first <= self.at or stop > self.first + len(self.window):
            self.first, end = self.at, min(max(stop, self.at + WINDOW), self.shard.size)
            (self.window,) = fetch([Part(self.remote, self.shard.path, self.at, end)])
        found = self.window[self.at - self.first : stop - self.first]
        self.at += len(found)
        return found


def _samples(members: Sequence[Member]) -> dict[str, dict[str, Member]]:
    """The members of each sample, by what follows the first dot of their names; hidden ones are left out."""
    found: dict[str, dict[str, Member]] = {}
    for each in members:
        path = PurePosixPath(each.name)
        stem, dot, ending = path.name.partition(".")
        if dot and stem and not any(part.startswith(".") for part in path.parts if part != "."):
            found.setdefault(str(path.parent / stem), {})[ending.lower()] = each
    return found


def _is_video(ending: str) -> bool:
    return PurePosixPath(f"x.{ending}").suffix in VIDEO_SUFFIXES


def _part(shard: Pointer, member: Member) -> Pointer:
    return Pointer(shard.url, shard.path, member.size, shard.tag, member.start)


def _texts(remote: "Remote", labels: Sequence[Pointer]) -> Iterator[bytes]:
    from unialign.cache.remote.transport import Part, fetch

    for first in range(0, len(labels), LABELS_AT_ONCE):
        some = labels[first : first + LABELS_AT_ONCE]
        wanted = [Part(remote, each.path, each.start, each.start + max(each.size, 1)) for each in some]
        yield from (data[: each.size] for data, each in zip(fetch(wanted), some, strict=True))


def _label(kind: str, data: bytes, url: str, video: Pointer) -> str:
    """The class of a video as the name of a folder."""
    where = f"{url}/{video.path}: the .{kind} of the video at byte {video.start}"
    try:
        text = data.decode()
        said: Any = text
        if kind == "json":
            values = json.loads(text)
            said = values.get("class", values.get("label")) if isinstance(values, dict) else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} cannot be read ({error}).") from error
    label = str(said).strip() if type(said) in (str, int) else ""
    if not label or len(label) > LABEL_CHARACTERS or not label.isprintable() or "/" in label or label.startswith("."):
        raise UsageError(f"{where} is no class: a number, or a name of up to {LABEL_CHARACTERS} characters without /.")
    return label
