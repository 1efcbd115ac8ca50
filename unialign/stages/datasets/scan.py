"""Finding files under a data root, and refusing names that could lead out of it or collide in a store."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from unialign.cache.errors import UsageError

VIDEO_SUFFIXES = frozenset({".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
MAX_NAME_LENGTH = 300


def walk_files(root: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `root`, folder by folder in sorted order; names that begin with a dot are left out.

    Links to folders inside the root are not followed (the folder is found by itself). Links to files are yielded;
    whoever uses one calls `refuse_link_outside`. Raises `UsageError` for a folder that cannot be listed and for a
    link to a folder outside the root.
    """
    pending = [str(root)]
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
            if entry.is_symlink() and entry.is_dir():
                refuse_link_outside(Path(entry.path), root)
            elif entry.is_dir(follow_symlinks=False):
                deeper.append(entry.path)
            else:
                yield entry
        pending.extend(reversed(deeper))


def refuse_link_outside(path: Path, root: Path) -> None:
    """Raise `UsageError` when `path`, with all links resolved, is not an existing thing below `root`."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(root)):
        raise UsageError(f"{path}: a link that leads out of the data root {root}; put the data itself below the root.")
    if not os.path.exists(real):
        raise UsageError(f"{path}: a link to nothing; remove it or restore its target.")


def check_name(name: str, where: str) -> str:
    """The name again, as a relative path with plain "/" separators and no "." parts.

    `where` begins the message: the file (and line) that the name comes from. Raises `UsageError` for a name that is
    empty, absolute, longer than 300 characters, leads upwards, or holds control characters or backslashes.
    """
    shown = ascii(name if len(name) <= 80 else name[:77] + "...")
    if not name.strip():
        raise UsageError(f"{where}: an empty name; give the path of a file relative to the data root.")
    if len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"{where}: the name {shown} has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed."
        )
    if "\\" in name or any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise UsageError(
            f"{where}: the name {shown} holds a backslash, a control character or bytes that are no text; rename it."
        )
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive:
        raise UsageError(f"{where}: the name {shown} is absolute; give a path relative to the data root.")
    if ".." in path.parts:
        raise UsageError(f"{where}: the name {shown} holds '..'; give a path below the data root.")
    if not path.parts:
        raise UsageError(f"{where}: the name {shown} names no file; give a path relative to the data root.")
    return path.as_posix()


def refuse_collisions(ids: Iterable[str], where: str) -> None:
    """Raise `UsageError` when two ids differ only in case or in the Unicode form of a letter.

    Such ids are one file on some file systems and two on others.
    """
    seen: dict[str, str] = {}
    for identifier in ids:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", identifier).casefold())
        other = seen.setdefault(folded, identifier)
        if other != identifier:
            raise UsageError(
                f"{where}: the sample ids {other!a} and {identifier!a} differ only in case or Unicode form; rename one."
            )
