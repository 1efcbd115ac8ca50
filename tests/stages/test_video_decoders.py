"""Contract of other decoders than PyAV: its frames up to rounding, or its own bytes; refused where they cannot run."""

import struct
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stages.made_videos import moving_frames
from unialign.errors import CorruptInput, UsageError
from unialign.stages import video_decoders
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.poses import YoloPoses
from unialign.stages.video import Video, encode_clip
from unialign.stages.video_decoders import TORCHCODEC, TORCHCODEC_CUDA, check_decoder, load_decoder

# Levels of 255 by which colors may differ on average; another row or column would be farther off.
ROUNDING = 1.5


def _runs() -> bool:
    try:
        load_decoder(TORCHCODEC)
    except UsageError:
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not _runs(), reason="torchcodec or FFmpeg's libraries are not installed")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Colors that change smoothly and wander: at sharp edges decoders interpolate differently."""
    down, right = np.mgrid[:96, :128]
    colors = [127 + 60 * np.sin((down * (turn + 1) / 2 + right) * np.pi / 64) for turn in range(3)]
    ground = np.stack(colors, axis=-1).astype(np.uint8)
    encode_clip(tmp_path / "clip.mp4", [np.roll(ground, 6 * number, axis=1) for number in range(12)], fps=10)
    return tmp_path / "clip.mp4"


def both(path: Path, span: Any = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The frames by PyAV and by torchcodec."""
    return list(Video(path, span).frames()), list(Video(path, span, TORCHCODEC).frames())


@needs_torchcodec
def test_the_frames_of_a_plain_clip_are_those_of_pyav_up_to_rounding(clip: Path) -> None:
    ours, theirs = both(clip)
    assert len(ours) == len(theirs) == 12
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert other.dtype == np.uint8
        assert np.abs(one.astype(int) - other.astype(int)).mean() < ROUNDING
    assert any(not np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@needs_torchcodec
def test_real_clips_have_all_their_frames(shared_data: Path) -> None:
    for folder in ("gestures", "daily", "fights"):
        ours, theirs = both(next(iter(sorted((shared_data / "videos" / folder).rglob("*.mp4")))))
        assert len(ours) == len(theirs) > 0
        assert np.abs(ours[-1].astype(int) - theirs[-1].astype(int)).mean() < ROUNDING


def turned(clip: Path, path: Path) -> Path:
    """The clip with a display matrix of a quarter turn in its track header."""
    data = bytearray(clip.read_bytes())
    # version and flags, times, id, duration and reserved fields, layer, group, volume: 40 bytes before the matrix.
    place = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[place : place + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@needs_torchcodec
def test_what_decoders_show_differently_is_decoded_by_pyav(tmp_path: Path, clip: Path) -> None:
    """Not square, full range, 4:4:4, an avi (torchcodec loses its last frames), turned, a part."""
    import av

    def written(name: str, change: Any, pixels: str = "yuv420p") -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
            change(stream)
            for image in moving_frames(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)))
            container.mux(stream.encode())
        return tmp_path / name

    def wide(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    def full(stream: Any) -> None:
        stream.codec_context.color_range = 2

    def same(stream: Any) -> None:
        pass

    paths = [written("wide.mp4", wide), written("full.mp4", full), written("fine.mp4", same, "yuv444p")]
    paths += [written("old.avi", same), turned(clip, tmp_path / "turned.mp4")]
    for path, span in [*((path, None) for path in paths), (clip, (Fraction(1, 5), Fraction(1)))]:
        ours, theirs = both(path, span)
        assert len(ours) > 1
        assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True)), path.name


@needs_torchcodec
def test_a_clip_that_is_cut_is_found(tmp_path: Path, clip: Path) -> None:
    import av

    with av.open(str(clip)) as whole, av.open(str(tmp_path / "whole.mkv"), "w") as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptInput) as raised:
        list(Video(tmp_path / "cut.mkv", None, TORCHCODEC).frames())
    assert raised.value.status == "truncated"


@needs_torchcodec
def test_a_decoder_has_a_key_of_its_own_and_pyavs_stays(clip: Path) -> None:
    keys = [Frames(num_frames=4, short_side=32, decoder=name).key() for name in video_decoders.DECODERS]
    assert set(keys[0]["decoder"]) == {"av", "libavcodec", "libswscale"}  # type: ignore[arg-type]
    assert len({str(key) for key in keys}) == 3
    (outcome,) = Frames(num_frames=4, short_side=32, decoder=TORCHCODEC).run([Source("clip", clip)])
    assert (outcome.status, outcome.detail["decoded"]) == ("ok", 12)


def test_a_decoder_without_its_library_or_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown decoder 'nvdec'; known are pyav, torchcodec, torchcodec-cuda"):
        check_decoder("nvdec")
    with monkeypatch.context() as patch:

        def absent(name: str) -> str:
            raise PackageNotFoundError(name)

        patch.setattr(video_decoders, "version", absent)
        for refused in (lambda: Frames(decoder=TORCHCODEC), lambda: YoloPoses(Path("w.pt"), "", decoder=TORCHCODEC)):
            with pytest.raises(UsageError, match=r"pip install 'unialign\[torchcodec\]'"):
                refused()
    monkeypatch.setattr(video_decoders, "_library", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="decodes on an NVIDIA GPU, and there is none here; take torchcodec or pyav"):
        load_decoder(TORCHCODEC_CUDA)
