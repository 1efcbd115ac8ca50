"""What the bytes of a video file say about its end, where FFmpeg does not ask: is it all there?"""

import os
from collections.abc import Callable
from typing import BinaryIO

# Of an ASF file: the object that holds its size (8CABDCA1-A947-11CF-8EE4-00C00C205365).
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# Steps along the structure of a file, after which it is left alone: gifs of 500 MB have as many.
MOST_STEPS = 2_000_000
# Packets of a transport stream: their length (plain, with a time in front, with a checksum behind), and where "G" is.
TS_PACKETS = ((188, 0), (192, 4), (204, 0))
# A page of Ogg has at most 255 segments of 255 bytes, and a header.
OGG_PAGE = 27 + 255 + 255 * 255


def is_cut(file: BinaryIO, container: str) -> bool:
    """Whether a file of that container (FFmpeg's name) ends before its own structure does; the place in it is kept.

    Known are: asf (its header holds the size of the file), mp4 and mov (a box that passes the end), ogg (the last page
    is marked), mpegts (all packets have one length) and gif (its last block). False where there is no such mark.
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
    # The file identifier, then the size; after five times and counts the flags, of which the first says "broadcast".
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
            # The end of the file; a box of length 0, which goes up to it; or no box.
            return False
        place += length
        if place > size:
            # What else stands behind the boxes of some phones is no loss.
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
            # Each block has its length in front, and the last one none.
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
            # Zeros, or what else some programs leave between blocks: FFmpeg steps over it too.
            place += 1
    return False


def _gif_palette(flags: int) -> int:
    """Bytes of the colours that a description announces."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


ENDS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "asf": _asf,
    "mov,mp4,m4a,3gp,3g2,mj2": _boxes,
    "ogg": _ogg,
    "gif": _gif,
    "mpegts": _mpegts,
}
