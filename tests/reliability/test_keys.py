"""R11: what decides bytes changes the key, what does not leaves it; a changed source is extracted again, it alone."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.made_extractor import Spectrum, extract
from tests.reliability.conftest import Report
from tests.reliability.scenes import make_scene
from unialign.cache.keys import Key, differences
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.pose_features import PoseFeatures
from unialign.stages.extraction.poses import YoloPoses
from unialign.stages.extraction.skeletons import PysklSkeletons, ReadySkeletons
from unialign.stages.extraction.text import TextEmbeddings

ONE, TWO = "1" * 64, "2" * 64
EXTRACTORS: dict[str, Any] = {
    "frames": Frames(),
    "bare frames": Frames(encoding="rgb24"),
    "yolo": YoloPoses(Path("weights.pt"), ONE),
    "skeletons": ReadySkeletons(),
    "pyskl": PysklSkeletons(Path("annotations.pkl"), "coco-17"),
    "features": PoseFeatures("stgcn++", Path("poses"), ONE, Path("encoder.pt"), ONE, clip_len=32),
    "text": TextEmbeddings("minilm", "", Path("model"), ONE, ONE, 384),
}

DECIDE: list[tuple[str, dict[str, Any]]] = [
    ("frames", {"short_side": 64}),
    ("frames", {"num_frames": 16}),
    ("frames", {"encoding": "rgb24"}),
    ("frames", {"quality": 80}),
    ("yolo", {"weights_digest": TWO}),
    ("yolo", {"confidence": 0.3}),
    ("yolo", {"num_people": 1}),
    ("yolo", {"image_size": 320}),
    ("yolo", {"max_frames": 512}),
    ("yolo", {"batch_frames": 8}),
    ("yolo", {"max_detections": 10}),
    ("yolo", {"longest_gap": 10}),
    ("skeletons", {"num_people": 1}),
    ("skeletons", {"max_frames": 512}),
    ("skeletons", {"body_rule": "energy"}),
    ("pyskl", {"layout": "ntu-25"}),
    ("pyskl", {"num_people": 1}),
    ("pyskl", {"max_frames": 512}),
    ("features", {"name": "shift-gcn"}),
    ("features", {"poses_key": TWO}),
    ("features", {"weights_digest": TWO}),
    ("features", {"num_offsets": 2}),
    ("features", {"flips": False}),
    ("features", {"clip_len": 48}),
    ("text", {"model": "other"}),
    ("text", {"weights_digest": TWO}),
    ("text", {"tokenizer": TWO}),
    ("text", {"long_text": "windows"}),
    ("text", {"normalise": False}),
]

DO_NOT: list[tuple[str, dict[str, Any]]] = [
    ("bare frames", {"quality": 80}),
    ("yolo", {"weights": Path("elsewhere") / "weights.pt"}),
    ("yolo", {"device": "cuda"}),
    ("pyskl", {"path": Path("elsewhere") / "annotations.pkl"}),
    ("features", {"poses": Path("elsewhere")}),
    ("features", {"weights": Path("elsewhere") / "encoder.pt"}),
    ("features", {"device": "cpu"}),
    ("text", {"weights": Path("elsewhere")}),
    ("text", {"device": "cpu"}),
]

# Library versions that a key holds: the function that tells one, by the modules that ask it.
VERSIONS = [
    ("frames", "unialign.stages.extraction.frames.version"),
    ("frames", "unialign.stages.extraction.frames.decoder_version"),
    ("yolo", "unialign.stages.extraction.poses.decoder_version"),
    ("yolo", "unialign.stages.extraction.ultralytics_pose.version"),
    ("text", "unialign.stages.extraction.text.version"),
]


def key_of(extractor: Any) -> str:
    """Digest of an extractor's key."""
    return Key(dict(extractor.key())).digest


def check_changes(key: Callable[[Any], str] = key_of) -> int:
    """Fails when a change that decides bytes keeps the key, or one that does not changes it; returns their number."""
    for name, change in DECIDE:
        one, other = EXTRACTORS[name], replace(EXTRACTORS[name], **change)
        assert key(one) != key(other), f"{name}: {change} keeps the key"
    for name, change in DO_NOT:
        one, other = EXTRACTORS[name], replace(EXTRACTORS[name], **change)
        assert key(one) == key(other), f"{name}: {change} changes the key"
    return len(DECIDE) + len(DO_NOT)


def test_what_decides_bytes_changes_the_key(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = check_changes()
    before = {name: key_of(EXTRACTORS[name]) for name, _ in VERSIONS}
    for name, where in VERSIONS:
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda *_: "0.0.1")
            assert key_of(EXTRACTORS[name]) != before[name], f"{where} is not in the key of {name}"
    report("R11", changes=changes + len(VERSIONS), wrong_keys=0)


def other_place(scene_files: Path, folder: Path) -> list[Source]:
    """The same files under another root, younger than before."""
    shutil.copytree(scene_files, folder)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    return [Source(path.stem, path) for path in sorted(folder.iterdir())]


def check_sources(folder: Path) -> int:
    """Changes of what an extraction is given, each with the samples that it must cost; returns their number."""
    scene = make_scene(folder, 12)
    number = 0

    def costs(samples: int, what: str, sources: list[Source], **settings: Any) -> None:
        nonlocal number
        done = extract(scene.cache, sources, settings.pop("extractor", Spectrum()), **settings)
        assert done.attempted == samples, f"{what} cost {done.attempted} samples instead of {samples}"
        assert done.reused == len(sources) - samples
        number += 1

    costs(0, "nothing", scene.sources)
    costs(0, "the order of samples", list(reversed(scene.sources)))
    costs(0, "fewer samples, as another split has", scene.sources[:5])
    costs(0, "the number of threads", scene.sources, threads=2)
    costs(0, "the size of new shards", scene.sources, shard_samples=9)
    costs(0, "a pause", scene.sources, extractor=Spectrum(pause=0.001))
    costs(0, "the root of the data and the age of the files", other_place(folder / "files", folder / "moved"))
    path = scene.sources[3].path
    assert path
    before, stamp = path.read_bytes(), path.stat()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    costs(1, "a bit of one source", scene.sources)
    costs(0, "nothing", scene.sources)
    path.unlink()
    costs(1, "a source that has gone", scene.sources)
    path.write_bytes(before)
    costs(1, "a source that is back", scene.sources)
    costs(12, "a parameter of the extractor", scene.sources, extractor=Spectrum(scale=1.5))
    return number


def test_a_change_costs_what_it_concerns(memory: Path, report: Report) -> None:
    report("R11", changes_of_sources_and_settings=check_sources(memory), reused_wrongly=0)


def test_meta_a_key_without_a_field_is_caught() -> None:
    def careless(extractor: Any) -> str:
        return Key({**extractor.key(), "weights": ""}).digest

    with pytest.raises(AssertionError, match="keeps the key"):
        check_changes(careless)


def test_meta_a_key_with_a_path_is_caught() -> None:
    def careless(extractor: Any) -> str:
        return Key({**extractor.key(), "at": str(getattr(extractor, "path", ""))}).digest

    with pytest.raises(AssertionError, match="changes the key"):
        check_changes(careless)


def test_meta_sources_told_by_name_alone_are_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "unialign.pipeline.extraction.source_digests.SourceDigests.stamp", staticmethod(lambda _: [0, 0, 0])
    )
    with pytest.raises(AssertionError, match="a bit of one source"):
        check_sources(memory)


def test_keys_differ_in_the_field_that_was_changed() -> None:
    for name, change in DECIDE:
        one, other = EXTRACTORS[name], replace(EXTRACTORS[name], **change)
        fields = {row["field"].split(".")[-1] for row in differences(one.key(), other.key())}
        known = {"weights_digest": "weights", "poses_key": "poses", "name": "extractor"}
        assert {known.get(field, field) for field in change} <= fields, f"{name}: {change} is told as {fields}"
