"""The end of a file's structure: told for every cut, and within bounds for anything that stands there."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stages.made_videos import moving_frames, write_video
from unialign.stages.video_structure import ENDS, MOST_STEPS, is_cut

KINDS = {
    "gif": ("gif", "gif", "rgb8"),
    "ogg": ("ogg", "libvpx", "yuv420p"),
    "asf": ("asf", "wmv2", "yuv420p"),
    "mpegts": ("mpegts", "mpeg2video", "yuv420p"),
    "mov,mp4,m4a,3gp,3g2,mj2": ("mp4", "mpeg4", "yuv420p"),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_cut_is_told_and_the_place_is_kept(tmp_path: Path, name: str) -> None:
    container, codec, colours = KINDS[name]
    path = write_video(tmp_path / "clip", container, codec, moving_frames(10), colours=colours)
    data = path.read_bytes()
    with path.open("rb") as file:
        file.seek(7)
        assert not is_cut(file, name)
        assert file.tell() == 7
    # A cut between two boxes leaves whole boxes.
    boundaries = (
        {data.find(kind) - 4 for kind in (b"ftyp", b"free", b"mdat", b"moov")} if name.startswith("mov") else set()
    )
    # Before that FFmpeg opens none of them.
    lengths = range(len(data) // 8, len(data), len(data) // 40)
    for length in {*lengths, len(data) - 1} - boundaries:
        path.write_bytes(data[:length])
        with path.open("rb") as file:
            # Of an mp4, only what holds images or their index counts; a transport stream may end after any packet.
            left_out = name.startswith("mov") and length < data.find(b"mdat") + 4
            assert is_cut(file, name) or left_out or (name == "mpegts" and length % 188 == 0), length


@pytest.mark.parametrize(("length", "mark"), [(188, 0), (192, 4), (204, 0)])
@pytest.mark.parametrize("lost", [0, 77])
def test_transport_streams_of_all_packets(tmp_path: Path, length: int, mark: int, lost: int) -> None:
    path = write_video(tmp_path / "clip.ts", "mpegts", "mpeg2video", moving_frames(10))
    data = path.read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    whole = b"".join(bytes(mark) + packet + bytes(length - mark - 188) for packet in packets)[lost:]
    for end, wanted in ((len(whole), False), (len(whole) - 1, True), (len(whole) - length, False)):
        path.write_bytes(whole[:end])
        with path.open("rb") as file:
            assert is_cut(file, "mpegts") == wanted


@given(
    data=st.binary(max_size=300), start=st.sampled_from([b"", b"GIF89a", b"OggS", b"\0\0\0\1mdat", b"\0\0\0\x08free"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", [*ENDS, "avi"])
def test_anything_may_stand_in_a_file(tmp_path: Path, name: str, start: bytes, data: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(start + data)
    with path.open("rb") as file:
        assert is_cut(file, name) in (True, False)


@pytest.mark.parametrize(("name", "unit"), [("gif", b"\1\0"), ("mov,mp4,m4a,3gp,3g2,mj2", b"\0\0\0\x08free")])
def test_many_small_steps_end(tmp_path: Path, name: str, unit: bytes) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"GIF89a\1\0\1\0\0\0\0!\xfe"[: 15 * (name == "gif")] + unit * (MOST_STEPS + 10))
    started = time.process_time()
    with path.open("rb") as file:
        assert not is_cut(file, name)
    assert time.process_time() - started < 20
