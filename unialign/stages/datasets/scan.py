"""Finding files below a data root, and rejecting names that could lead out of it or collide in a store."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TypeVar

from unialign.errors import UsageError
from unialign.stages.frame_files import is_frame
from unialign.stages.video_containers import VIDEO_SUFFIXES

MAX_NAME_LENGTH = 300
_KINDS_SHOWN = 5
_Path = TypeVar("_Path", bound=PurePath)


def walk_files(root: Path, roots: Sequence[Path] = ()) -> Iterator[os.DirEntry[str]]:
    """Every file below `root`, folder by folder in sorted order; hidden files and folders are left out.

    roots: other folders that links may point into. Linked folders there are followed, under the names of the links; a
    link to a folder inside the root is followed only if that is hidden (others are found by themselves). Links to files
    are yielded; whoever uses one calls `refuse_link_outside`. Raises `UsageError` for a folder that cannot be listed,
    for a link to a folder elsewhere, and for two links to one folder.
    """
    pending = [str(root)]
    real_root = os.path.realpath(root)
    # Bounds the cost of links to folders that contain links, and stops loops.
    linked: dict[str, str] = {}
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be listed ({error.strerror}); check its permissions.") from error
        deeper = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and os.path.isdir(entry.path):  # False for a link that points to itself
                refuse_link_outside(Path(entry.path), root, roots)
                real = os.path.realpath(entry.path)
                if Path(real).is_relative_to(real_root) and not _hidden(Path(real).relative_to(real_root)):
                    continue
                other = linked.setdefault(real, entry.path)
                if other != entry.path:
                    raise UsageError(f"{other} and {entry.path}: both lead to the folder {real}; remove one of them.")
                deeper.append(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                deeper.append(entry.path)
            else:
                yield entry
        pending.extend(reversed(deeper))


def clip_at(path: _Path) -> _Path | None:
    """The clip that a file is, or is part of: a video, or the folder of a numbered image; None for any other file."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return path
    return path.parent if is_frame(path.name) else None


def clip_name(path: PurePath) -> str:
    """The name of a clip: that of the folder of images, or of the video without its ending."""
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


@dataclass(frozen=True)
class ClipKind:
    """What the clips of a data root are.

    file: their kind in `Sample.files`. clip_at: (file) -> the file or folder that is the clip, None for another file.
    name_of: (clip) -> its name without an ending. title: for messages.
    """

    file: str
    clip_at: Callable[[PurePath], PurePath | None]
    name_of: Callable[[PurePath], str]
    title: str


VIDEOS = ClipKind("video", clip_at, clip_name, "videos")


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def refuse_link_outside(path: Path, root: Path, roots: Sequence[Path] = ()) -> None:
    """Raise `UsageError` if `path`, with all links resolved, does not exist below `root` or `roots`."""
    real = os.path.realpath(path)
    if not any(Path(real).is_relative_to(os.path.realpath(allowed)) for allowed in (root, *roots)):
        raise UsageError(
            f"{path}: a link that leads out of the data root {root}; put the data itself below the root, or name the "
            "folder that it leads to in `roots:` of unialign.yaml."
        )
    if not os.path.exists(real):
        raise UsageError(f"{path}: a link to nothing; remove it or restore its target.")


def relative_name(name: str, root: Path, roots: Sequence[Path], where: str) -> tuple[str, Path]:
    """The plain name of a file named by a list (see `check_name`), and the folder that it is below.

    An absolute path below `root` or one of `roots` is split into that folder and the rest, so that no id reveals where
    a machine keeps its data. Raises `UsageError` as `check_name` does, and for an absolute path elsewhere.
    """
    path = Path(name)
    if not path.is_absolute() or ".." in path.parts or "\0" in name:
        return check_name(name, where), root
    for written in (path, Path(os.path.realpath(path.parent), path.name)):
        for allowed in (root, *roots):
            for folder in (allowed, Path(os.path.realpath(allowed))):
                if written != folder and written.is_relative_to(folder):
                    return check_name(written.relative_to(folder).as_posix(), where), allowed
    raise UsageError(
        f"{where}: the name {name[:80]!a} is absolute and not below {root}; give a path relative to the data "
        "root, or name the folder that it lies in in `roots:` of unialign.yaml."
    )


def check_name(name: str, where: str) -> str:
    """The name normalized to a relative path with "/" separators and no "." parts.

    `where` begins the message: the file (and line) that the name comes from. Raises `UsageError` for a name that is
    empty, absolute, longer than 300 characters, leads upwards, or contains control characters or backslashes.
    """
    shown = ascii(name if len(name) <= 80 else name[:77] + "...")
    if not name.strip():
        raise UsageError(f"{where}: an empty name; give the path of a file relative to the data root.")
    if len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"{where}: the name {shown} has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed."
        )
    if "\\" in name:
        raise UsageError(
            f"{where}: the name {shown} holds a backslash; write / between folders, and rename a file with one in its "
            "own name."
        )
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise UsageError(f"{where}: the name {shown} holds a control character or bytes that are no text; rename it.")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive:
        raise UsageError(f"{where}: the name {shown} is absolute; give a path relative to the data root.")
    if ".." in path.parts:
        raise UsageError(f"{where}: the name {shown} holds '..'; give a path below the data root.")
    if not path.parts:
        raise UsageError(f"{where}: the name {shown} names no file; give a path relative to the data root.")
    return path.as_posix()


def refuse_collisions(ids: Iterable[str], where: str) -> None:
    """Raise `UsageError` if two ids differ only in case or in the Unicode form of a letter.

    Such ids are one file on some file systems and two on others.
    """
    seen: dict[str, str] = {}
    for identifier in ids:
        other = seen.setdefault(_folded(identifier), identifier)
        if other != identifier:
            raise UsageError(
                f"{where}: the sample ids {other!a} and {identifier!a} differ only in case or Unicode form; rename one."
            )


def looks(name: str) -> str:
    """The common form of names that look the same except for case: ignores Unicode form and invisible characters."""
    return _folded("".join(each for each in name if unicodedata.category(each) != "Cf"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def kinds_of(names: Sequence[PurePath]) -> str:
    """Number of files per extension, the most common first: "12 .mts, 1 .txt"."""
    counts = Counter(name.suffix.lower() or "without ending" for name in names).most_common()
    more = len(names) - sum(count for _, count in counts[:_KINDS_SHOWN])
    shown = [f"{count} {kind}" for kind, count in counts[:_KINDS_SHOWN]]
    return ", ".join([*shown, *([f"{more} others"] if more else [])])
