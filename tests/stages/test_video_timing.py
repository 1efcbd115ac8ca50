"""Odd files that are whole: edit lists, repeated images, fragments, variable rates; and holes in time."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.stages.made_videos import NUM_FRAMES, moving_frames, remux, status
from unialign.stages.video import decode_frames


def test_frames_hidden_by_an_edit_list_are_not_missed(clips: dict[str, Path], tmp_path: Path) -> None:
    def earlier(_: int, packet: Any) -> Any:
        shift = round(10 / 30 / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    path = remux(clips["clip.mp4"], tmp_path / "edit.mp4", earlier, container_options={"avoid_negative_ts": "disabled"})
    found, video = status(path)
    assert found == "ok"
    assert video.decoded == NUM_FRAMES - 10


def with_edits(source: Path, path: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """A copy of an mp4, whose index stands at its end, with other edits: (milliseconds, first tick or -1)."""
    data = source.read_bytes()
    start = data.find(b"elst") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    body = struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">IiI", *edit, 1 << 16) for edit in edits)
    grown = bytearray(data[:start] + struct.pack(">I4s", 8 + len(body), b"elst") + body + data[end:])
    for name in (b"moov", b"trak", b"edts"):
        place = data.rfind(name, 0, start) - 4
        size = int.from_bytes(grown[place : place + 4], "big") + 8 + len(body) - (end - start)
        grown[place : place + 4] = size.to_bytes(4, "big")
    path.write_bytes(grown)
    return path


# 512 ticks a frame; the first frame is at tick 1024, since B-frames are decoded early.
EDITS = {
    "whole": ([(3000, 1024)], range(90)),
    "end": ([(1000, 1024)], range(30)),
    "start": ([(2000, 1024 + 30 * 512)], range(30, 90)),
    "both": ([(1000, 1024 + 15 * 512)], range(15, 45)),
    "later": ([(700, -1), (1000, 1024)], range(30)),
    "two": ([(500, 1024), (500, 1024 + 60 * 512)], [*range(15), *range(60, 75)]),
    "backwards": ([(500, 1024 + 60 * 512), (500, 1024)], [*range(60, 75), *range(15)]),
    "again": ([(500, 1024), (500, 1024)], [*range(15), *range(15)]),
    "too long": ([(9000, 1024)], range(90)),
}


@pytest.mark.parametrize("name", EDITS)
def test_only_what_an_edit_list_plays_is_shown_and_counted(clips: dict[str, Path], tmp_path: Path, name: str) -> None:
    edits, played = EDITS[name]
    path = with_edits(clips["clip.mp4"], tmp_path / "edited.mp4", edits)
    found, video = status(path)
    assert (found, video.decoded, video.declared) == ("ok", len(played), len(played)), video.reason
    whole = list(decode_frames(clips["clip.mp4"]))
    for place, shown in zip(played, decode_frames(path), strict=True):
        np.testing.assert_array_equal(shown, whole[place])


def test_images_that_repeat_the_one_before_are_not_missed(clips: dict[str, Path], tmp_path: Path) -> None:
    dropped = remux(
        clips["clip.avi"], tmp_path / "dropped.avi", lambda number, packet: None if 60 <= number < 64 else packet
    )
    found, video = status(dropped)
    assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 4, NUM_FRAMES)

    def not_coded(number: int, packet: Any) -> Any:
        if number not in (30, 31, 50):
            return packet
        # An MPEG-4 P image whose `vop_coded` bit is 0.
        again = av.Packet(bytes.fromhex("000001b650cf"))
        again.pts, again.dts, again.time_base, again.duration = (
            packet.pts,
            packet.dts,
            packet.time_base,
            packet.duration,
        )
        return again

    for name in ("again.avi", "again.mp4", "again.mkv"):
        found, video = status(remux(clips["clip.avi"], tmp_path / name, not_coded))
        assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 3, NUM_FRAMES)


@pytest.mark.parametrize("name", ["hidden.ivf", "hidden.webm", "hidden.mkv"])
def test_images_that_vp8_keeps_for_later_are_not_missed(clips: dict[str, Path], tmp_path: Path, name: str) -> None:
    def hidden(number: int, packet: Any) -> Any:
        if number % 10 != 5:
            return packet
        # The bit that says "show this" is the fifth of the first byte.
        data = bytearray(bytes(packet))
        data[0] &= ~16
        kept = av.Packet(bytes(data))
        kept.pts, kept.dts, kept.time_base, kept.duration = packet.pts, packet.dts, packet.time_base, packet.duration
        return kept

    found, video = status(remux(clips["clip.webm"], tmp_path / name, hidden))
    assert (found, video.decoded) == ("ok", NUM_FRAMES - 9)


def test_fragmented_mp4_is_ok(clips: dict[str, Path], tmp_path: Path) -> None:
    path = remux(
        clips["clip.mp4"],
        tmp_path / "f.mp4",
        lambda _, packet: packet,
        options={"movflags": "frag_keyframe+empty_moov"},
    )
    found, video = status(path)
    assert (found, video.decoded) == ("ok", NUM_FRAMES)


def write_timed(path: Path, times: Sequence[int]) -> Path:
    """One frame for each time, in thirtieths of a second, in a container that states a rate of 30 and no count."""
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for time, picture in zip(times, moving_frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_a_hole_in_a_constant_rate_is_found(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "hole.mkv", [*range(40), *range(50, 90)])
    found, video = status(path)
    assert (found, video.decoded, video.declared) == ("truncated", 80, 90)


def test_a_variable_rate_without_a_frame_count_is_ok(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "variable.mkv", [number + 2 * (number // 3) for number in range(60)])
    found, video = status(path)
    assert (found, video.decoded) == ("ok", 60)
    assert video.declared is not None
    assert video.declared > 90
