"""Whether a video file is complete, from structure that FFmpeg does not check."""

import os
from collections.abc import Callable
from typing import BinaryIO

# ASF: the GUID of the object that holds the file's size (8CABDCA1-A947-11CF-8EE4-00C00C205365).
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Maximum number of steps through a file's structure before the check gives up: a gif of 500 MB has as many.
MOST_STEPS = 2_000_000
# Packets of a transport stream: length (plain, with a leading timestamp, with a trailing checksum), offset of "G".
TS_PACKETS = ((188, 0), (192, 4), (204, 0))
# An Ogg page has a header and at most 255 segments of 255 bytes.
OGG_PAGE = 27 + 255 + 255 * 255


def is_cut(file: BinaryIO, container: str) -> bool:
    """Whether a file in that container (FFmpeg's name) ends before its own structure does; keeps the file position.

    Checked are: asf (its header holds the file size), mp4 and mov (a box that extends past the end), ogg (the last page
    is marked), mpegts (all packets have the same length) and gif (its last block). False for other containers.
    """
    ends = ENDS.get(container)
    if ends is None:
        return False
    place = file.tell()
    try:
        return ends(file, file.seek(0, os.SEEK_END))
    finally:
        file.seek(place)


def _asf(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    head = file.read(2**16)
    start = head.find(ASF_PROPERTIES)
    fields = head[start + 24 : start + 92]
    if start < 0 or len(fields) < 68:
        return False
    # The file id, then the size; after five times and counts come the flags, of which the first means "broadcast".
    return not fields[64] & 1 and int.from_bytes(fields[16:24], "little") > size


def _boxes(file: BinaryIO, size: int) -> bool:
    place = 0
    for _ in range(MOST_STEPS):
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if len(head) < 8 or length < 8:
            # The end of the file; a box of length 0, which extends to it; or not a box.
            return False
        place += length
        if place > size:
            # Other data that some phones append after the boxes is not damage.
            return kind in (b"moof", b"mdat", b"moov")
    return False


def _ogg(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 2 * OGG_PAGE))
    tail = file.read()
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return True
    segments = tail[start + 27 : start + 27 + tail[start + 26]]
    return not tail[start + 5] & 4 or start + 27 + tail[start + 26] + sum(segments) > len(tail)


def _mpegts(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    head = file.read(5 * max(length for length, _ in TS_PACKETS) + 256)
    for length, mark in TS_PACKETS:
        for start in range(mark, mark + length):
            marks = head[start : start + 5 * length : length]
            if len(marks) > 2 and not marks.strip(b"G"):
                return (size - start + mark) % length != 0
    return False


def _gif(file: BinaryIO, size: int) -> bool:
    file.seek(10)
    head = file.read(3)
    place = 13 + _gif_palette(head[0]) if len(head) == 3 else size
    in_blocks = False
    for _ in range(MOST_STEPS):
        if place >= size:
            return True
        file.seek(place)
        kind = file.read(10)
        if in_blocks:
            # Each block starts with its length, which is 0 for the last one.
            place += 1 + kind[0]
            in_blocks = kind[0] > 0
        elif kind[:1] == b";":
            return False
        elif kind[:1] == b",":
            place += 11 + (_gif_palette(kind[9]) if len(kind) == 10 else size)
            in_blocks = True
        elif kind[:1] == b"!":
            place += 2
            in_blocks = True
        else:
            # Zeros or other bytes that some programs leave between blocks: FFmpeg skips them too.
            place += 1
    return False


def _gif_palette(flags: int) -> int:
    """Size in bytes of the color table that a descriptor announces."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


ENDS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "asf": _asf,
    "mov,mp4,m4a,3gp,3g2,mj2": _boxes,
    "ogg": _ogg,
    "gif": _gif,
    "mpegts": _mpegts,
}
