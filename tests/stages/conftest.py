"""What several tests of videos begin with."""

from pathlib import Path

import pytest

from tests.stages.made_videos import moving_frames, write_video


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in every container that is decoded, by file name."""
    folder, pictures = tmp_path_factory.mktemp("clips"), moving_frames()
    kinds = {
        "clip.avi": ("avi", "mpeg4"),
        "clip.mkv": ("matroska", "libx264"),
        "clip.webm": ("webm", "libvpx"),
        "clip.mp4": ("mp4", "libx264"),
        "clip.ts": ("mpegts", "mpeg2video"),
        "clip.mpg": ("mpeg", "mpeg2video"),
        "clip.wmv": ("asf", "wmv2"),
    }
    return {name: write_video(folder / name, *kind, pictures) for name, kind in kinds.items()}
