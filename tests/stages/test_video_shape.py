"""Images as a player shows them: turned, mirrored, with square pixels, without what the stream cuts off."""

import struct
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.stages.made_videos import moving_frames, status, write_streams
from unialign.stages.video import decode_frames, square_size, turned

# Display matrices (a, b, c, d): coded (x, y) is shown at (a x + c y, b x + d y).
ORIENTATIONS: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
}


def filtered(source: Path, path: Path, change: str) -> Path:
    """A copy whose packets went through one of FFmpeg's bit stream filters."""
    with av.open(str(source)) as read, av.open(str(path), "w") as out:
        stream = read.streams.video[0]
        bits = av.BitStreamFilterContext(change, stream)
        copy = out.add_stream_from_template(stream)
        for packet in read.demux(stream):
            for changed in bits.filter(packet) if packet.size else bits.filter():
                changed.stream, changed.time_base = copy, stream.time_base
                out.mux(changed)
    return path


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations_are_applied(
    clips: dict[str, Path], tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    data = clips["clip.mp4"].read_bytes()
    place = data.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    coded, shown = next(decode_frames(clips["clip.mp4"])), next(decode_frames(path))
    np.testing.assert_array_equal(shown, ORIENTATIONS[matrix](coded))
    assert shown.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    clips = {}
    for name, kind in (("plain", Image.Exif()), ("turned", exif)):
        clips[name] = tmp_path / f"{name}.avi"
        with av.open(str(clips[name]), "w") as out:
            stream = out.add_stream("mjpeg", rate=30)
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
            for number, picture in enumerate(moving_frames(3)):
                file = BytesIO()
                Image.fromarray(picture).save(file, "JPEG", exif=kind)
                packet = av.Packet(file.getvalue())
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 30)
                out.mux(packet)
    coded = Image.fromarray(next(decode_frames(clips["plain"])))
    coded.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(next(decode_frames(clips["turned"])), np.asarray(ImageOps.exif_transpose(coded)))


def test_matroska_turns_too(clips: dict[str, Path], tmp_path: Path) -> None:
    with av.open(str(clips["clip.mkv"])) as read, av.open(str(tmp_path / "roll.mkv"), "w") as out:
        stream = read.streams.video[0]
        copy = out.add_stream_from_template(stream)
        copy.set_display_rotation(90)
        for packet in read.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    for coded, shown in zip(decode_frames(clips["clip.mkv"]), decode_frames(tmp_path / "roll.mkv"), strict=True):
        np.testing.assert_array_equal(shown, np.rot90(coded))


def test_what_a_stream_says_once_holds_for_all_that_follows(tmp_path: Path) -> None:
    plain = write_streams(tmp_path / "plain.ts", "mpegts", "libx264")
    path = filtered(plain, tmp_path / "once.ts", "h264_metadata=display_orientation=insert:flip=horizontal")
    for coded, shown in zip(decode_frames(plain), decode_frames(path), strict=True):
        np.testing.assert_array_equal(shown, coded[:, ::-1])


@given(angle=st.floats(-180, 180), mirrored=st.booleans(), noise=st.floats(0, 0.05))
def test_any_matrix_is_taken_as_its_nearest_quarter_turn(angle: float, mirrored: bool, noise: float) -> None:
    quarter = round(angle / 90)
    if abs(angle - 90 * quarter) > 40:
        return
    cosine, sine = np.cos(np.radians(angle)) + noise, np.sin(np.radians(angle)) - noise
    picture = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    # Counter-clockwise, then mirrored left to right.
    shown = turned(picture, (-cosine if mirrored else cosine, -sine, -sine if mirrored else sine, cosine))
    wanted = np.rot90(picture, quarter)
    np.testing.assert_array_equal(shown, wanted[:, ::-1] if mirrored else wanted)


@pytest.mark.parametrize(("container", "video"), [("matroska", "libx264"), ("mp4", "mpeg4"), ("mpegts", "libx264")])
@pytest.mark.parametrize(
    ("aspect", "size"),
    [((4, 3), (96, 171)), ((1, 2), (192, 128)), ((8, 9), (108, 128)), ((1280, 1281), (96, 128)), ((1, 1), (96, 128))],
)
def test_pixels_are_made_square(
    tmp_path: Path, container: str, video: str, aspect: tuple[int, int], size: tuple[int, int]
) -> None:
    path = write_streams(tmp_path / "clip", container, video, num_frames=5, aspect=Fraction(*aspect))
    found, seen = status(path)
    assert (found, seen.decoded, seen.size) == ("ok", 5, size)
    assert seen.pixel_aspect == (1 if size == (96, 128) else Fraction(*aspect))


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), sides=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_square_pixels_keep_every_row_and_column(height: int, width: int, sides: tuple[int, int]) -> None:
    new_height, new_width = square_size(height, width, Fraction(*sides))
    assert new_height >= height
    assert new_width >= width
    assert height == new_height or width == new_width
    assert abs(new_width * sides[1] * height - width * sides[0] * new_height) <= max(width, height) * max(sides)


def test_turned_pixels_are_stretched_before_they_are_turned(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "clip.mp4", "mp4", "mpeg4", num_frames=3, aspect=Fraction(4, 3))
    data = path.read_bytes()
    place = data.find(b"tkhd") + 44
    path.write_bytes(
        data[:place] + struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30) + data[place + 36 :]
    )
    assert status(path)[1].size == (171, 96)


def test_what_a_stream_cuts_off_on_the_left_is_not_shown(tmp_path: Path) -> None:
    plain = write_streams(tmp_path / "plain.ts", "mpegts", "libx264")
    path = filtered(plain, tmp_path / "cropped.ts", "h264_metadata=crop_left=16:crop_top=8")
    found, video = status(path)
    assert (found, video.decoded, video.size) == ("ok", 60, (88, 112))
    # Chroma is interpolated at the new edge.
    for whole, shown in zip(decode_frames(plain), decode_frames(path), strict=True):
        np.testing.assert_array_equal(shown[2:, 2:], whole[10:, 18:])


def test_images_keep_the_size_of_the_coded_ones_where_nothing_is_said(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "clip.mkv", "matroska", "ffv1", num_frames=4)
    assert [picture.shape for picture in decode_frames(path)] == [picture.shape for picture in moving_frames(4)]
