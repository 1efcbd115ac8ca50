"""Other decoders than PyAV for `extract.decoder`: torchcodec, on the processor or on an NVIDIA GPU (NVDEC).

Their frames are those of PyAV up to the rounding of colors, and only for clips that every decoder shows alike;
`video.Video` decides which these are, judges damage, and decodes the others itself. docs/videos.md says what differs.

torchcodec-cuda was written without a GPU at hand: only what it shares with torchcodec on the processor was run.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from unialign.errors import UsageError

PYAV, TORCHCODEC, TORCHCODEC_CUDA = "pyav", "torchcodec", "torchcodec-cuda"
DECODERS = (PYAV, TORCHCODEC, TORCHCODEC_CUDA)
# How torchcodec says that a clip has fewer frames than packets: two fields can make a frame.
AT_THE_END = "no more frames"


def check_decoder(name: str) -> None:
    """Raise `UsageError` for an unknown decoder, or one whose library is not installed; it is not loaded."""
    if name not in DECODERS:
        raise UsageError(f"unknown decoder {name!r}; known are {', '.join(DECODERS)}.")
    if name != PYAV:
        _installed_version()


def load_decoder(name: str) -> None:
    """Raise `UsageError` where a decoder cannot run here: without FFmpeg's libraries, or without a GPU."""
    if name == PYAV:
        return
    _library()
    if name == TORCHCODEC_CUDA:
        import torch

        if not torch.cuda.is_available():
            raise UsageError(
                "extract.decoder=torchcodec-cuda decodes on an NVIDIA GPU, and there is none here; take torchcodec or "
                "pyav."
            )


def decoder_key(pyav: dict[str, str], name: str) -> dict[str, str]:
    """What a key says of a decoder: the versions of PyAV, and for another one its own. Raises as `load_decoder`."""
    if name == PYAV:
        return pyav
    found = _library().get_ffmpeg_library_versions()
    libraries = {library: ".".join(map(str, found[library])) for library in ("libavcodec", "libavfilter")}
    return {
        **pyav,
        "decoder": name,
        "torchcodec": _installed_version().partition("+")[0],
        **{f"torchcodec_{library}": number for library, number in libraries.items()},
    }


def torchcodec_frames(path: Path, stream: int, name: str) -> Iterator[np.ndarray]:
    """Every frame of a video stream as RGB uint8 (H, W, 3), in display order and in the host's memory.

    Raises what torchcodec raises: RuntimeError for a clip that it cannot read.
    """
    from torchcodec.decoders import VideoDecoder

    # An absolute path, since FFmpeg could take another name for the URL of a protocol.
    decoder: Any = VideoDecoder(
        str(path.resolve()),
        stream_index=stream,
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device="cuda" if name == TORCHCODEC_CUDA else "cpu",
    )
    for number in range(len(decoder)):
        try:
            image = decoder.get_frame_at(number).data
        except RuntimeError as error:
            if AT_THE_END in str(error):
                return
            raise
        yield image.cpu().numpy()


def _installed_version() -> str:
    try:
        return version("torchcodec")
    except PackageNotFoundError as error:
        raise UsageError(
            "extract.decoder=torchcodec needs the library; install it with: pip install 'unialign[torchcodec]'."
        ) from error


def _library() -> Any:
    _installed_version()
    try:
        import torchcodec._core as library

        library.get_ffmpeg_library_versions()
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            "torchcodec finds no libraries of FFmpeg 4 to 9; install them (on Debian: apt install ffmpeg), or take "
            "extract.decoder=pyav, which brings its own."
        ) from error
    return library
