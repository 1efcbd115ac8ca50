"""A part of a video: exactly the frames whose time is in it, as they are when the whole is decoded."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unialign.cache.digests import file_digest
from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.extraction.extractors import extract_configured
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.extraction.base import Source, source_digest
from unialign.stages.extraction.frames import Frames
from unialign.stages.video import Video, decode_frames, encode_clip, write_clip

FPS, COUNT = 10, 60


def frames() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.clip(generator.integers(0, 40, (48, 64, 3)) + at * 3, 0, 255).astype(np.uint8) for at in range(COUNT)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 10 per second, a keyframe every 25, B-frames between."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    options = {"crf": "20", "threads": "1", "x264-params": "keyint=25:scenecut=0:bframes=3:cpu-independent=1"}
    write_clip(path, frames(), FPS, options)
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, COUNT * 10 - 20), length=st.integers(11, 300))
def test_a_span_is_the_frames_that_begin_in_it(clip: Path, first: int, length: int) -> None:
    whole = list(decode_frames(clip))
    start, end = Fraction(first, 100), Fraction(min(first + length, COUNT * 10), 100)
    found = list(Video(clip, (start, end)).frames())
    expected = [frame for at, frame in enumerate(whole) if start <= Fraction(at, FPS) < end]
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["variable.mp4", "gestures.mp4"])
def test_real_clips_too(shared_data: Path, name: str) -> None:
    clips = sorted((shared_data / "videos" / ("odd" if name == "variable.mp4" else "gestures")).rglob("*.*"))
    for path in [each for each in clips if each.suffix in (".mp4", ".avi")][:3]:
        whole = list(decode_frames(path))
        video = Video(path)
        list(video.frames())
        length = Fraction(len(whole)) / Fraction(video.fps).limit_denominator(1000)
        cuts = [Fraction(0), length / 3, 2 * length / 3, length + Fraction(1, 2)]
        parts = [list(Video(path, span).frames()) for span in pairwise(cuts)]
        together = [frame for part in parts for frame in part]
        assert len(together) == len(whole)
        assert all(np.array_equal(one, other) for one, other in zip(together, whole, strict=True))


def test_spans_outside_of_the_video_are_refused(clip: Path) -> None:
    with pytest.raises(CorruptInput, match=r"ends at 5\.90 s, before 9 s, where the sample does") as raised:
        list(Video(clip, (Fraction(5), Fraction(9))).frames())
    assert raised.value.status == "truncated"
    assert len(list(Video(clip, (Fraction(5), Fraction(13, 2))).frames())) == 10
    with pytest.raises(CorruptInput, match=r"shows no frame from 1\.01 to 1\.09 s"):
        list(Video(clip, (Fraction("1.01"), Fraction("1.09"))).frames())


def write_list(root: Path, *lines: str) -> Path:
    (root / "labels.csv").write_text("\n".join(["path,start,end,label", *lines]))
    return root


def test_a_list_with_spans_cuts_one_video_into_samples(tmp_path: Path) -> None:
    root = tmp_path / "long"
    root.mkdir()
    encode_clip(root / "day.mp4", frames(), FPS)
    write_list(root, "day.mp4,0.5,2.50,walk", "day.mp4,2.5,4,run", "day.mp4,,,all", "day.mp4,4,6,walk")
    dataset = load_dataset("folder", root)
    assert [sample.id for sample in dataset.samples] == ["day", "day@0.5-2.5", "day@2.5-4", "day@4-6"]
    assert dataset.samples[1].span == (Fraction(1, 2), Fraction(5, 2))
    config = load_config({"cache": tmp_path / "cache", "data": root, "dataset": "folder"})
    done = extract_configured("frames", dataset, config)
    assert done.extracted == 4
    from unialign.cache.reader import StoreReader

    store = StoreReader(done.store)
    assert store["day@0.5-2.5"]["frame_index"].tolist() == list(range(20))
    sources = {source_digest(Source(each.id, root / "day.mp4", span=each.span)) for each in dataset.samples}
    assert set(store.sources().values()) == sources
    assert file_digest(root / "day.mp4") in sources
    assert len(sources) == 4
    assert extract_configured("frames", dataset, config).extracted == 0
    write_list(root, "day.mp4,0.5,2.50,walk", "day.mp4,2.5,4.5,run", "day.mp4,,,all", "day.mp4,4,6,walk")
    assert extract_configured("frames", load_dataset("folder", root), config).extracted == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.mp4,2,1,x", "line 2 is from '2' to '1'"),
        ("a.mp4,-1,1,x", "line 2 is from '-1' to '1'"),
        ("a.mp4,1,,x", "line 2 is from '1' to ''"),
        ("a.mp4,0,1e3,x", "give seconds with up to six decimals"),
        ("a.mp4,0,1.0000001,x", "give seconds with up to six decimals"),
        ("a.mp4,1,2,x\na.mp4,1.0,2.0,y", "lines 2 and 3 both list 'a.mp4'"),
    ],
)
def test_spans_that_are_none_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_dataset("folder", write_list(tmp_path, line))


def test_a_start_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,start,label\na.mp4,1,x\n")
    with pytest.raises(UsageError, match="has the column 'start' alone"):
        load_dataset("folder", tmp_path)


def test_the_outcome_of_a_span_counts_its_frames(clip: Path) -> None:
    source = Source("x", clip, span=(Fraction(1), Fraction(2)))
    (outcome,) = Frames(num_frames=4).run([source])
    assert (outcome.status, outcome.source, outcome.detail["decoded"]) == ("ok", source_digest(source), 10)
    assert outcome.arrays["frame_index"].tolist() == [1, 3, 6, 8]
