"""Several extractors on clips that are decoded once: each gives what it gives alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_pose_network import NoNetwork
from tests.stages.made_videos import moving_frames
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.poses import YoloPoses
from unialign.stages.extraction.together import Together, parts
from unialign.stages.video import Video, encode_clip


@dataclass(frozen=True)
class NoPoses(YoloPoses):
    """Poses by no network, in batches of 4."""

    def network(self, device: str, sides: tuple[int, ...]) -> Any:
        return NoNetwork()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Clips of 1 to 60 frames, among them a missing, a cut, a narrow and a long one."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for number, frames in enumerate([5, 1, 30, 2, 60, 9, 3, 1, 1, 12]):
        path = folder / f"clip{number}.mp4"
        encode_clip(path, moving_frames(frames, 16 if number == 5 else 96, 320 if number == 5 else 128), fps=20)
        found.append(Source(path.stem, path))
    data = (folder / "clip2.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    return [
        *found[:4],
        Source("cut", folder / "cut.mp4"),
        Source("none"),
        Source("gone", folder / "gone.mp4"),
        *found[4:],
    ]


def poses(**parameters: Any) -> NoPoses:
    return NoPoses(Path(), "", batch_frames=4, image_size=64, max_frames=48, device="cpu", **parameters)


def same(one: Outcome, other: Outcome) -> bool:
    arrays = [{name: (value.dtype, value.tobytes()) for name, value in each.arrays.items()} for each in (one, other)]
    return (one.id, one.status, one.source, one.detail, arrays[0]) == (
        other.id,
        other.status,
        other.source,
        other.detail,
        arrays[1],
    )


@pytest.mark.parametrize("threads", ["1", "3"])
def test_each_gives_what_it_gives_alone(
    threads: str, sources: Sequence[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    several = (poses(), Frames(short_side=32, num_frames=8))
    decoded: Counter[str] = Counter()
    frames = Video.frames

    def counted(self: Video) -> Iterator[np.ndarray]:
        if type(self) is Video:
            decoded[self.path.stem] += 1
        return frames(self)

    monkeypatch.setattr(Video, "frames", counted)
    together = [parts(each, 2) for each in Together(several).run(sources)]
    assert set(decoded.values()) == {1}
    for extractor, found in zip(several, zip(*together, strict=True), strict=True):
        alone = list(extractor.run(sources))
        assert [one.id for one in alone] == [source.id for source in sources]
        assert all(map(same, found, alone))
    statuses = [Counter(each.status for each in found) for found in zip(*together, strict=True)]
    assert statuses[0]["too-long"] == 1
    assert statuses[1]["too-long"] == 0
    assert statuses[1]["unreadable"] >= 1
    assert all(each["missing-file"] == 2 for each in statuses)


def test_what_one_raises_ends_all(sources: Sequence[Source]) -> None:
    class Breaking(NoPoses):
        def outcome(self, clip: Any) -> Outcome:
            if clip.video.source.id == "clip3":
                raise ZeroDivisionError
            return super().outcome(clip)

    breaking = Breaking(Path(), "", batch_frames=4, image_size=64, max_frames=48, device="cpu")
    for several in ((breaking, Frames()), (Frames(), breaking)):
        with pytest.raises(ZeroDivisionError):
            list(Together(several).run(sources))
