"""Whose collection it is: two places of one name never share one; changed and moved data keep theirs."""

import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline.test_pickled_sources import check, configured, extract, pickled
from unialign.errors import StaleCache
from unialign.pipeline.collection import own_collection
from unialign.pipeline.config import Config, load_config
from unialign.pipeline.datasets import rooted_dataset, the_dataset
from unialign.pipeline.extraction.extractors import extract_configured
from unialign.pipeline.manifest import save_manifest
from unialign.stages.datasets.folder import load_folder


def collection(config: Config) -> str:
    return rooted_dataset(config).collection


def test_two_lists_of_one_name_are_two_collections(tmp_path: Path) -> None:
    first = configured(pickled(tmp_path / "a" / "train.pkl", {"a": 1, "b": 2, "c": 3}), tmp_path / "cache")
    second = configured(pickled(tmp_path / "b" / "train.pkl", {"a": 4, "b": 5, "c": 6}), tmp_path / "cache")
    assert extract(first).store.parts[-3] == collection(first) == "pyskl-train"
    other = extract(second)
    assert (other.extracted, other.reused) == (3, 0)
    assert other.store.parts[-3] == collection(second) != "pyskl-train"
    assert collection(second).startswith("pyskl-train-")
    assert (extract(first).extracted, extract(second).extracted) == (0, 0)
    check(first)
    check(second)


def test_a_list_that_changes_keeps_its_collection_and_is_stale(tmp_path: Path) -> None:
    config = configured(pickled(tmp_path / "train.pkl", {"a": 1, "b": 2, "c": 3}), tmp_path / "cache")
    extract(config)
    pickled(tmp_path / "train.pkl", {"a": 4, "b": 5, "c": 6, "d": 7})
    assert collection(config) == "pyskl-train"
    with pytest.raises(StaleCache, match="3 samples"):
        check(config)


@pytest.mark.parametrize("memory", [True, False])
def test_moved_data_are_found_by_what_they_hold(tmp_path: Path, memory: bool) -> None:
    old = configured(pickled(tmp_path / "a" / "train.pkl", {"a": 1, "b": 2, "c": 3}), tmp_path / "cache")
    extract(old)
    if not memory:
        shutil.rmtree(tmp_path / "cache" / ".digests")
    moved = configured(pickled(tmp_path / "b" / "train.pkl", {"a": 1, "b": 2, "c": 9, "d": 4}), tmp_path / "cache")
    assert collection(moved) == "pyskl-train"
    assert extract(moved).extracted == 2


def clips(root: Path, seed: int) -> Path:
    """Three "videos" whose bytes depend on the seed; nobody decodes them here."""
    for number, name in enumerate(("jump/x", "jump/y", "run/z")):
        path = root / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([seed, number]) * 40)
    return root


def frames(root: Path, cache: Path) -> Config:
    return load_config({"data": root, "cache": cache, "dataset": "folder"}, environment={})


def test_two_folders_of_one_name_are_two_collections(tmp_path: Path) -> None:
    first, second, copy = (frames(tmp_path / name / "clips", tmp_path / "cache") for name in ("a", "b", "copy"))
    for config, seed in ((first, 1), (second, 2), (copy, 1)):
        assert config.data is not None
        clips(config.data, seed)
    assert extract_configured("frames", rooted_dataset(first), first).attempted == 3
    assert extract_configured("frames", rooted_dataset(second), second).attempted == 3
    assert collection(first) == collection(copy) == "folder-clips"
    assert collection(second).startswith("folder-clips-")
    assert extract_configured("frames", rooted_dataset(copy), copy).attempted == 0
    # A third version of the same clips, and a fourth at a place that had one.
    third = frames(clips(tmp_path / "c" / "clips", 3), tmp_path / "cache")
    assert len({collection(first), collection(second), collection(third)}) == 3
    clips(tmp_path / "b" / "clips", 4)
    assert extract_configured("frames", rooted_dataset(second), second).attempted == 3
    assert collection(second) == collection(frames(tmp_path / "b" / "clips", tmp_path / "cache"))


def test_a_collection_of_before_is_found_by_the_files_in_its_memory(tmp_path: Path) -> None:
    config = frames(clips(tmp_path / "clips", 1), tmp_path / "cache")
    extract_configured("frames", rooted_dataset(config), config)
    known = {str(tmp_path / "clips" / f"{name}.mp4"): [80, 1, 1, "sha256:00"] for name in ("jump/x", "run/z")}
    (tmp_path / "cache" / ".digests" / "folder-clips.json").write_text(json.dumps(known))
    clips(tmp_path / "clips", 7)
    assert collection(config) == "folder-clips"
    elsewhere = frames(clips(tmp_path / "b" / "clips", 8), tmp_path / "cache")
    assert collection(elsewhere) != "folder-clips"


def test_a_list_alone_is_told_by_its_labels(tmp_path: Path) -> None:
    dataset = load_folder(clips(tmp_path / "a" / "clips", 1))
    save_manifest(dataset, tmp_path / "cache")
    assert (
        own_collection(load_folder(clips(tmp_path / "b" / "clips", 2)), tmp_path / "cache").collection == "folder-clips"
    )
    more = clips(tmp_path / "c" / "clips", 3)
    shutil.move(more / "jump" / "x.mp4", more / "run" / "x.mp4")
    assert own_collection(load_folder(more), tmp_path / "cache").collection != "folder-clips"


def test_a_root_that_has_gone_still_tells_whose_list_is_meant(tmp_path: Path) -> None:
    configs = [frames(clips(tmp_path / name / "clips", seed), tmp_path / "cache") for seed, name in enumerate("ab")]
    for config in configs:
        extract_configured("frames", rooted_dataset(config), config)
    names = [collection(config) for config in configs]
    for name in "ab":
        shutil.rmtree(tmp_path / name)
    assert [the_dataset(config).collection for config in configs] == names
