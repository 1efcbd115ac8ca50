"""Poses and frames in one go: the stores have the bytes that they have if each is extracted alone."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.cache.test_store import tree_digest
from tests.made_pose_network import NoNetwork
from tests.reliability.scenes import FULL
from tests.stages.made_videos import moving_frames
from unialign.cli import app
from unialign.pipeline.extraction import bundles
from unialign.pipeline.extraction.extract import Extraction, Settings, file_task, run_extraction
from unialign.pipeline.extraction.pace import Pace
from unialign.pipeline.extraction.together import extract_together
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.poses import DetectionJob, YoloPoses
from unialign.stages.video import encode_clip


@dataclass(frozen=True)
class NoPoses(YoloPoses):
    """Poses without a network. deadly: a clip that kills the process when its poses are extracted."""

    deadly: str = ""

    def network(self, device: str, sides: tuple[int, ...]) -> Any:
        return NoNetwork(takes_frames=True)

    def tracked(self, clip: DetectionJob) -> Outcome:
        if clip.video.source.id == self.deadly:
            os._exit(5)
        return super().tracked(clip)


@dataclass(frozen=True)
class Counted(Frames):
    """Frames that count how many clips were worked on, in a folder."""

    calls: Path = Path()

    def outcome(self, video: SourceVideo) -> Outcome:
        (self.calls / f"{video.source.id}-{os.getpid()}").touch()
        return super().outcome(video)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder, found = tmp_path_factory.mktemp("clips"), []
    for number, frames in enumerate([5, 9, 1, 2, 20, 9, 3, 1, 1, 12, 4]):
        path = folder / f"clip{number:02d}.mp4"
        encode_clip(path, moving_frames(frames), fps=20)
        found.append(Source(path.stem, path))
    (folder / "cut.mp4").write_bytes((folder / "clip04.mp4").read_bytes()[:900])
    return [*found, Source("cut", folder / "cut.mp4"), Source("none", folder / "none.mp4")]


def poses(deadly: str = "") -> NoPoses:
    return NoPoses(Path(), "", batch_frames=4, image_size=64, max_frames=16, device="cpu", deadly=deadly)


def frames() -> Frames:
    return Frames(short_side=32, num_frames=8)


def alone(cache: Path, extractor: Any, sources: Sequence[Source]) -> Extraction:
    return run_extraction(extractor, sources, cache=cache, collection="made", settings=settings_of(extractor))


def settings_of(extractor: Any) -> Settings:
    """Shards of the two stores do not end with the same samples."""
    return Settings(shard_samples=3 if isinstance(extractor, YoloPoses) else 4)


def together(cache: Path, several: Sequence[Any], sources: Sequence[Source], paces: list[Pace]) -> list[Extraction]:
    tasks = [file_task(each, sources, cache=cache, collection="made", settings=settings_of(each)) for each in several]
    return extract_together(tasks, several, lambda pace: paces.append(pace))


def check(cache: Path, alone_in: Path, several: Sequence[Any], done: Sequence[Extraction], sources: Any) -> None:
    for extractor, found in zip(several, done, strict=True):
        expected = alone(alone_in, extractor, sources)
        assert (found.quarantined, found.problems) == (expected.quarantined, expected.problems)
        assert tree_digest(found.store) == tree_digest(expected.store)


def test_the_stores_have_the_bytes_of_separate_extractions(tmp_path: Path, sources: list[Source]) -> None:
    several, paces = (poses(), frames()), list[Pace]()
    done = together(tmp_path / "cache", several, sources, paces)
    check(tmp_path / "cache", tmp_path / "alone", several, done, sources)
    assert [each.extracted for each in done] == [10, 11]
    assert done[0].quarantined["too-long"] == 1
    assert (paces[-1].done, paces[-1].total) == (len(sources), len(sources))
    again = together(tmp_path / "cache", several, sources, paces)
    assert [(each.attempted, each.reused) for each in again] == [(0, 10), (0, 11)]


def test_a_clip_that_ends_one_extractor_is_kept_by_the_other(tmp_path: Path, sources: list[Source]) -> None:
    several = (poses("clip05"), frames())
    done = together(tmp_path / "cache", several, sources, [])
    assert done[0].quarantined["crashed"] == 1
    assert "crashed" not in done[1].quarantined
    check(tmp_path / "cache", tmp_path / "alone", several, done, sources)


def test_what_one_store_has_is_extracted_for_the_other_only(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "calls").mkdir()
    several = (poses(), Counted(short_side=32, num_frames=8, calls=tmp_path / "calls"))
    first = sources[2:8]
    for cache in (tmp_path / "cache", tmp_path / "alone"):
        alone(cache, frames(), first)
    done = together(tmp_path / "cache", several, sources, [])
    assert [each.attempted for each in done] == [len(sources), len(sources) - len(first)]
    calls = {path.name.split("-")[0] for path in (tmp_path / "calls").iterdir()}
    assert calls == {source.id for source in sources} - {source.id for source in first}
    check(tmp_path / "cache", tmp_path / "alone", (several[0], frames()), done, sources)


def shared_work(cache: Path, calls: Path, sources: Sequence[Source], **how: Any) -> list[Extraction]:
    several = (poses(), Counted(short_side=32, num_frames=8, calls=calls))
    tasks = [
        file_task(each, sources, cache=cache, collection="made", settings=replace(settings_of(each), **how))
        for each in several
    ]
    return extract_together(tasks, several)


def test_processes_that_join_decode_each_clip_once(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MOST_SAMPLES", 4)
    (tmp_path / "calls").mkdir()
    cache, context = tmp_path / "cache", multiprocessing.get_context("fork")
    others = [
        context.Process(target=shared_work, args=(cache, tmp_path / "calls", sources), kwargs={"join": True})
        for _ in range(2)
    ]
    for process in others:
        process.start()
    for process in others:
        process.join(60)
    assert [process.exitcode for process in others] == [0, 0]
    calls = [path.name.split("-")[0] for path in (tmp_path / "calls").iterdir()]
    assert sorted(calls) == sorted(source.id for source in sources)
    done = shared_work(cache, tmp_path / "calls", sources, join=True)
    assert [each.extracted for each in done] == [0, 0]
    check(cache, tmp_path / "alone", (poses(), frames()), done, sources)


def test_whoever_is_killed_while_several_join_the_bytes_are_the_same(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "calls").mkdir()
    cache, context = tmp_path / "cache", multiprocessing.get_context("fork")
    for seconds in (0.15, 0.25, 0.35):
        process = context.Process(target=shared_work, args=(cache, tmp_path / "calls", sources), kwargs={"join": True})
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
    done = shared_work(cache, tmp_path / "calls", sources, join=True)
    check(cache, tmp_path / "alone", (poses(), frames()), done, sources)


@pytest.mark.skipif(not FULL, reason="Dask starts slowly; test_pose_networks.py has the same without it")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_on_a_cluster_each_clip_is_decoded_once(tmp_path: Path, sources: list[Source]) -> None:
    (tmp_path / "calls").mkdir()
    done = shared_work(tmp_path / "cache", tmp_path / "calls", sources, cluster="local:1")
    assert [each.extracted for each in done] == [10, 11]
    calls = [path.name.split("-")[0] for path in (tmp_path / "calls").iterdir()]
    assert sorted(calls) == sorted(source.id for source in sources)
    check(tmp_path / "cache", tmp_path / "alone", (poses(), frames()), done, sources)


@pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the extra ultralytics")
def test_extract_all_makes_every_configured_modality(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clips = sorted((shared_data / "videos" / "gestures").rglob("*.mp4"))
    for name, clip in (("bow", clips[0]), ("wave", clips[-1])):
        (tmp_path / "clips" / name).mkdir(parents=True)
        shutil.copy(clip, tmp_path / "clips" / name)
    weights = shared_data / "weights" / "yolo11n-pose.pt"
    words = ["extract", "all", "--dataset", "folder", "--root", "clips", "--weights", str(weights), "--json"]
    words += ["extract.poses.image_size=96", "extract.frames.short_side=64"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code in (0, 3), shown.output
    found = json.loads(shown.stdout.splitlines()[-1])["extractions"]
    assert [each["modality"] for each in found] == ["poses", "frames", "text"]
    assert found[1]["extracted"] == 2
    assert found[0]["speed"]["frames"] == found[1]["speed"]["frames"] > 20
