"""Folders of numbered files that are clips: images ("rawframes", img_00001.jpg), or keypoints of OpenPose."""

import os
import re
from itertools import pairwise
from pathlib import Path

from unialign.cache.digests import file_digest, text_digest
from unialign.errors import CorruptInput
from unialign.stages.remote_files import RemotePath, local_file

# mmaction2 and TSN: img_00001.jpg; also image_00001.jpg, frame_000001.png, 00001.jpg. Beside them may lie optical flow,
# whose names (flow_x_00001.jpg, x_00001.jpg) are none of these.
_NAME = re.compile(r"((?:img|image|im|frame)?[_-]?)(\d{1,9})\.(jpg|jpeg|png|bmp|webp)", re.ASCII | re.IGNORECASE)
_KEYPOINTS = re.compile(r"(.*_)(\d{12})_(keypoints\.json)", re.ASCII)
# Two hours at 30 images per second.
MAX_FRAMES = 216_000


def is_frame(name: str) -> bool:
    """Whether a file is named like an image of such a folder."""
    return _NAME.fullmatch(name) is not None


def is_keypoint_frame(name: str) -> bool:
    """Whether a file is named as OpenPose names the keypoints of a frame."""
    return _KEYPOINTS.fullmatch(name) is not None


def frame_files(folder: Path) -> list[Path]:
    """The images of a clip in the order of their numbers.

    Raises `OSError` for a folder that cannot be listed, `CorruptInput` ("unreadable") for one without images, with
    images named in two ways or of one number, with links, which may lead anywhere, or with more than 216,000 images;
    and ("truncated") if a number is missing.
    """
    found = _numbered(folder, _NAME, "image")
    if not found:
        raise unusable(folder, "holds no images named img_00001.jpg and so on")
    return found


def keypoint_frames(folder: Path) -> list[Path]:
    """The files of OpenPose in a folder in the order of their frames. Raises as `frame_files` does."""
    found = _numbered(folder, _KEYPOINTS, "file")
    if not found:
        raise unusable(folder, "holds no files named NAME_000000000000_keypoints.json and so on", what="file")
    return found


def _numbered(folder: Path, named: re.Pattern[str], what: str) -> list[Path]:
    """The files in the order of their numbers. what: a word for one of them."""
    found: dict[int, Path] = {}
    kinds: set[tuple[str, str]] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            match = named.fullmatch(entry.name)
            if match is None:
                continue
            kinds.add((match[1].lower(), match[3].lower()))
            path = folder / entry.name
            other = found.setdefault(int(match[2]), path)
            if other is not path:
                raise unusable(folder, f"{other.name} and {path.name} have one number", what=what)
            if not entry.is_file(follow_symlinks=False):
                raise unusable(folder, f"{path.name} is a link, or no file", what=what)
            if len(found) > MAX_FRAMES:
                raise unusable(folder, f"holds more than {MAX_FRAMES:,} frames", what=what)
    if len(kinds) > 1:
        sign = "." if named is _NAME else "_"
        several = " and ".join(sorted(f"NUMBER{sign}".join(kind) for kind in kinds)[:2])
        raise unusable(folder, f"holds {what}s named in several ways, {several}", what=what)
    numbers = sorted(found)
    missing = next((one + 1 for one, other in pairwise(numbers) if other != one + 1), None)
    if missing is not None:
        first, last = numbers[0], numbers[-1]
        raise unusable(folder, f"lacks {what} number {missing} of {first} to {last}", "truncated", what=what)
    return [found[number] for number in numbers]


def content_digest(path: Path) -> str:
    """Digest of what a clip is made from: a file's content, or names and contents of the numbered files in a folder.

    "" for a path that is neither and for a folder without usable ones. A remote file is fetched. Raises `OSError` as
    `file_digest` does, and what `remote_files.held` raises.
    """
    if isinstance(path, RemotePath):
        try:
            with local_file(path) as local:
                return file_digest(local)
        except CorruptInput:
            return ""
    if not path.is_dir():
        return file_digest(path) if path.is_file() else ""
    try:
        files = _numbered(path, _NAME, "image") or _numbered(path, _KEYPOINTS, "file")
    except CorruptInput:
        return ""
    return text_digest("".join(f"{each.name} {file_digest(each)}\n" for each in files)) if files else ""


def content_stamp(path: Path) -> list[tuple[int, int, int, int]]:
    """Size, modification time, inode and change time (nanoseconds) of the file, or of each image in the folder.

    Empty for anything that is neither. Raises `OSError` if it cannot be accessed.
    """
    try:
        if path.is_dir():
            files = _numbered(path, _NAME, "image") or _numbered(path, _KEYPOINTS, "file")
        else:
            files = [path] if path.is_file() else []
    except CorruptInput:
        return []
    states = [each.stat() for each in files]
    return [(state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns) for state in states]


def unusable(folder: Path, reason: str, status: str = "unreadable", *, what: str = "image") -> CorruptInput:
    """The error for a folder that is no clip. what: a word for one of its files."""
    return CorruptInput(f"{folder}: {reason}; replace the {what}s or leave the sample out.", status)
