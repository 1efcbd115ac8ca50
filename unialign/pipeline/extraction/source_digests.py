"""Digests of source files, cached by size and modification time, so that a second run does not read the videos."""

import json
import time
from contextlib import suppress
from pathlib import Path

from unialign.cache.atomic import make_shared_folder, sweep_beside, write_text
from unialign.cache.digests import text_digest
from unialign.cache.lock import store_lock
from unialign.errors import LockedStore
from unialign.stages.frame_files import content_digest, content_stamp
from unialign.stages.remote_files import RemotePath, read_pointer

# After this many nanoseconds, a second change of a file gets a different time on every file system.
SETTLED = 2 * 10**9


def _entries(known: object) -> dict[str, list[int | str]]:
    """The valid entries of a stored cache of digests; others are ignored."""
    return {
        path: entry
        for path, entry in (known.items() if isinstance(known, dict) else ())
        if isinstance(entry, list) and all(type(part) in (int, str) for part in entry)
    }


class SourceDigests:
    """SHA-256 of the source files of one collection, with a cache of them next to the stores.

    The cache is only a convenience: without it files are read and hashed again. An entry is valid if size, times
    (nanoseconds) and inode of the file are unchanged, and the file had not been changed just before it was read: clocks
    of file systems are coarse. The change time (ctime) counts too, which cannot be set: copies that keep the
    modification time, and clocks that were set back, do not hide a change.
    """

    def __init__(self, cache: Path, collection: str) -> None:
        """Read the stored digests, if there are any."""
        self._path = cache / ".digests" / f"{collection}.json"
        self._known = self._stored()
        self._changed = False

    def _stored(self) -> dict[str, list[int | str]]:
        if self._path.is_file():
            with suppress(ValueError, RecursionError):
                return _entries(json.loads(self._path.read_text()))
        return {}

    @staticmethod
    def stamp(path: Path) -> list[int | str]:
        """What identifies a version of a file: size, modification time, inode, change time; of a folder of images, a
        digest of these of all images.

        Empty if the file is missing, cannot be accessed, or was changed just now. Of a remote file, what its server
        says identifies the version; empty if it says nothing.
        """
        if isinstance(path, RemotePath):
            return [text_digest(pointer.text())] if (pointer := read_pointer(path)).tag else []
        try:
            found = content_stamp(path)
        except OSError:
            return []
        if not found or max(state[-1] for state in found) > time.time_ns() - SETTLED:
            return []
        return list(found[0]) if path.is_file() else [text_digest(repr(found))]

    def of(self, path: Path) -> str:
        """Digest of a file or a folder of images, "sha256:<hex>"; "" if it is missing or cannot be read."""
        stamp, known = self.stamp(path), self._known.get(str(path), [])
        if stamp and known[:-1] == stamp:
            return str(known[-1])
        try:
            digest = content_digest(path)
        except OSError:
            return ""
        self.learn(path, stamp, digest)
        return digest

    def learn(self, path: Path, stamp: list[int | str], digest: str) -> None:
        """Store a digest that a worker computed, with the stamp that the file had before."""
        if stamp and digest:
            self._known[str(path)] = [*stamp, digest]
            self._changed = True

    def knows(self, path: Path) -> bool:
        """Whether part of the collection was made from that file, or its data root is that path."""
        return str(path) in self._known

    def place(self, root: Path) -> None:
        """Store the data root of the collection."""
        self._known.setdefault(str(root), [])
        self._changed = True

    def save(self) -> None:
        """Write the digests, unless another extraction of the collection does that, or the cache is read-only."""
        with suppress(LockedStore, OSError), store_lock(self._path, self._path.parents[1]):
            make_shared_folder(self._path.parent)
            sweep_beside(self._path)
            if self._changed:
                # Extractions that write another store, or join this one, have learned others meanwhile.
                self._known = {**self._stored(), **self._known}
                write_text(self._path, json.dumps(self._known))
                self._changed = False
