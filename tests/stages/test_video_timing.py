"""Odd files that are whole: edit lists, repeated pictures, fragments, variable rates, rotation; and holes in time."""

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


def test_repeated_pictures_of_an_avi_are_not_missed(clips: dict[str, Path], tmp_path: Path) -> None:
    dropped = remux(
        clips["clip.avi"], tmp_path / "dropped.avi", lambda number, packet: None if 60 <= number < 64 else packet
    )
    found, video = status(dropped)
    assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 4, NUM_FRAMES)

    def not_coded(number: int, packet: Any) -> Any:
        if number not in (30, 31, 50):
            return packet
        # An MPEG-4 P picture whose `vop_coded` bit is 0.
        again = av.Packet(bytes.fromhex("000001b650cf"))
        again.pts, again.dts, again.time_base, again.duration = (
            packet.pts,
            packet.dts,
            packet.time_base,
            packet.duration,
        )
        return again

    found, video = status(remux(clips["clip.avi"], tmp_path / "again.avi", not_coded))
    assert (found, video.decoded, video.declared) == ("ok", NUM_FRAMES - 3, NUM_FRAMES)


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


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_is_applied(clips: dict[str, Path], tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    data = clips["clip.mp4"].read_bytes()
    place = data.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    upright, turned = next(decode_frames(clips["clip.mp4"])), next(decode_frames(path))
    np.testing.assert_array_equal(turned, np.rot90(upright, turns))
    assert turned.flags.c_contiguous
