"""A disk that loses power: what `cache/atomic.py` asked of it, and every state that it may be found in afterwards.

The rules are those of POSIX read strictly. What was written to a file is sure after an fsync of the file; until then it
may be there, in part, as garbage, or not at all. A name (made, renamed, deleted) is sure after an fsync of its folder;
until then each change of a name may have reached the disk or not, whatever became of the others.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

# A file is its content, a folder the number of its inode; the root folder is inode 0.
Names = Mapping[str, int]


@dataclass(frozen=True)
class Change:
    """One change of names in a folder that is not yet durable: name -> inode, or None where the name is removed."""

    folder: int
    names: Mapping[str, int | None]


@dataclass(frozen=True)
class Disk:
    """What is sure, and what was asked for since.

    content: of each file by inode, as sure. written: content of files that were written since. folders: sure names by
    inode. changes: of names, in order.
    """

    content: Mapping[int, bytes] = field(default_factory=dict)
    written: Mapping[int, bytes] = field(default_factory=dict)
    folders: Mapping[int, Names] = field(default_factory=lambda: {0: {}})
    changes: tuple[Change, ...] = ()

    def states(self) -> Iterator[dict[str, bytes | None]]:
        """Every tree that may be found: path -> content, None for a folder."""
        variants = {number: _torn(self.content.get(number), data) for number, data in self.written.items()}
        for kept in _subsets(len(self.changes)):
            folders = {number: dict(names) for number, names in self.folders.items()}
            for change, on_disk in zip(self.changes, kept, strict=True):
                if on_disk:
                    for name, number in change.names.items():
                        folders.setdefault(change.folder, {}).pop(name, None)
                        if number is not None:
                            folders[change.folder][name] = number
            for chosen in product(*variants.values()):
                content = {**self.content, **dict(zip(variants, chosen, strict=True))}
                yield dict(_tree(0, "", folders, content))


def _subsets(number: int) -> Iterator[tuple[bool, ...]]:
    """Which of so many changes reached the disk: every subset; of many the first ones, all but one, and single ones."""
    if number <= 6:
        yield from product((True, False), repeat=number)
        return
    for place in range(number + 1):
        yield tuple(index < place for index in range(number))
        yield tuple(index != place for index in range(number))
        yield tuple(index == place for index in range(number))


def _torn(before: bytes | None, data: bytes) -> tuple[bytes, ...]:
    """What a file may hold that was written and not synced."""
    garbage = bytes(byte ^ 0x5A for byte in data)
    half = len(data) // 2
    return tuple(dict.fromkeys((data, before or b"", data[:half], bytes(len(data)), data[:half] + garbage[half:])))


def _tree(
    number: int, path: str, folders: Mapping[int, Names], content: Mapping[int, bytes]
) -> Iterator[tuple[str, bytes | None]]:
    for name, inner in folders.get(number, {}).items():
        where = f"{path}{name}"
        if inner in content:
            yield where, content[inner]
        else:
            yield where, None
            yield from _tree(inner, where + "/", folders, content)


def _without_lost(disk: Disk) -> Disk:
    """The same disk without what can have no name any more."""
    reached, waiting = set[int](), [0]
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            waiting += disk.folders.get(number, {}).values()
            named = [change.names.values() for change in disk.changes if change.folder == number]
            waiting += [inner for each in named for inner in each if inner is not None]
    return Disk(
        {number: data for number, data in disk.content.items() if number in reached},
        {number: data for number, data in disk.written.items() if number in reached},
        {number: names for number, names in disk.folders.items() if number in reached},
        tuple(change for change in disk.changes if change.folder in reached),
    )


class Recorder:
    """Stands for `os` in `cache/atomic.py`: does what is asked, and remembers the disk after each call.

    What lies under the root at the beginning is sure.

    root: the folder below which it records. forgetful: the path (see `called`) whose fsyncs do nothing, as if the line
    were not there. history: the disk after each call, with the number of samples that were reported as done.
    """

    def __init__(self, root: Path, forgetful: str = "") -> None:
        self.root = root
        self.forgetful = forgetful
        self.disk = Disk()
        self.history: list[tuple[Disk, int]] = []
        self.synced: set[str] = set()
        self.acknowledged = 0
        self._handles: dict[int, int] = {}
        self._next = 1
        # Names as the running system sees them.
        self._live: dict[int, dict[str, int]] = {0: {}}
        content: dict[int, bytes] = {}
        for path in sorted(root.rglob("*")):
            self._live[self._find(path.parent)][path.name] = self._next
            if path.is_dir():
                self._live[self._next] = {}
            else:
                content[self._next] = path.read_bytes()
            self._next += 1
        self.disk = Disk(content, {}, {number: dict(names) for number, names in self._live.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _find(self, path: Path) -> int:
        number = 0
        for part in path.relative_to(self.root).parts:
            number = self._live[number][part]
        return number

    def _note(self, disk: Disk) -> None:
        self.disk = disk
        self.history.append((disk, self.acknowledged))

    def _rename(self, path: Path, number: int | None) -> None:
        folder = self._find(path.parent)
        self._live[folder].pop(path.name, None)
        if number is not None:
            self._live[folder][path.name] = number
        change = Change(folder, {path.name: number})
        self._note(replace(self.disk, changes=(*self.disk.changes, change)))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        handle = os.open(path, flags, mode)
        if flags & os.O_CREAT and path.name not in self._live[self._find(path.parent)]:
            self.disk = replace(self.disk, written={**self.disk.written, self._next: b""})
            self._rename(path, self._next)
            self._next += 1
        self._handles[handle] = self._find(path)
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        count = os.write(handle, data)
        number = self._handles[handle]
        before = self.disk.written.get(number, self.disk.content.get(number, b""))
        self._note(replace(self.disk, written={**self.disk.written, number: before + bytes(data[:count])}))
        return count

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        number = self._handles[handle]
        name = self.called(number)
        self.synced.add(name)
        if name == self.forgetful:
            return
        folders = {inode: dict(names) for inode, names in self.disk.folders.items()}
        for change in self.disk.changes:
            if change.folder == number:
                for key, inner in change.names.items():
                    folders.setdefault(number, {}).pop(key, None)
                    if inner is not None:
                        folders[number][key] = inner
        written = dict(self.disk.written)
        content = {**self.disk.content, **({number: written.pop(number)} if number in written else {})}
        changes = tuple(change for change in self.disk.changes if change.folder != number)
        self._note(_without_lost(Disk(content, written, folders, changes)))

    def called(self, number: int, folder: int = 0, path: str = "") -> str:
        """The path of an inode, without what makes temporary names differ from run to run."""
        for name, inner in self._live.get(folder, {}).items():
            where = f"{path}/{name.split('-', 2)[-1] if name.startswith('.tmp-') else name}"
            if inner == number:
                return where
            found = self.called(number, inner, where) if inner in self._live else ""
            if found:
                return found
        return "" if folder or number else "/"

    def close(self, handle: int) -> None:
        self._handles.pop(handle)
        os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)
        assert source.parent == target.parent, "a rename from folder to folder is two changes, which may part"
        folder, number = self._find(source.parent), self._find(source)
        names = self._live[folder]
        del names[source.name]
        names[target.name] = number
        change = Change(folder, {source.name: None, target.name: number})
        self._note(replace(self.disk, changes=(*self.disk.changes, change)))

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)
        self._live[self._next] = {}
        self._rename(path, self._next)
        self._next += 1

    def unlink(self, path: Path) -> None:
        os.unlink(path)
        self._rename(path, None)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)
        self._rename(path, None)


def put(tree: Mapping[str, bytes | None], root: Path) -> None:
    """Make a folder hold that tree."""
    for name, data in tree.items():
        path = root / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
