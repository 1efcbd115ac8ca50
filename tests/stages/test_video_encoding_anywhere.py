"""Contract of `stages.video.encode_clip`: the same images give the same bytes on every processor.

Each encoding is a process of its own, in which FFmpeg and x264 are kept from vector instructions of this processor, or
memory that nobody wrote holds other bytes. 40 frames of this size are enough for each of these to have changed a clip.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.made_videos import moving_frames
from unialign.stages.video import ENCODER, write_clip

# libavutil's AV_CPU_FLAG_*: none; MMX to SSE2; these to AVX2.
INSTRUCTIONS = {"none": 0x0, "SSE2": 0x1B, "AVX2": 0xC3DB}
CHANGES = [{"MALLOC_PERTURB_": "1"}, {"MALLOC_PERTURB_": "170"}, *({"INSTRUCTIONS": name} for name in INSTRUCTIONS)]


def digest(folder: Path, **environment: str) -> str:
    """SHA-256 of a clip that another process encodes."""
    command = [sys.executable, "-m", "tests.stages.test_video_encoding_anywhere", str(folder / "clip.mp4")]
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    return hashlib.sha256((folder / "clip.mp4").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "=".join(*change.items()))
def test_another_processor_encodes_the_same_bytes(here: str, change: dict[str, str], tmp_path: Path) -> None:
    assert digest(tmp_path, **change) == here


def main(path: Path, instructions: str | None) -> None:
    options = dict(ENCODER)
    if instructions is not None:
        import ctypes

        (library,) = (Path(sys.modules["av"].__file__ or "").parents[1] / "av.libs").glob("libavutil*")
        ctypes.CDLL(str(library)).av_force_cpu_flags(INSTRUCTIONS[instructions])
        options["x264-params"] += ":no-asm=1" if instructions == "none" else f":asm={instructions}"
    write_clip(path, moving_frames(40, 48, 64), 25, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ.get("INSTRUCTIONS"))
