"""The list of a dataset beside its stores: what it keeps."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from unialign.cache.keys import digest
from unialign.pipeline.manifest import load_manifest, manifest_path, save_manifest
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.ntu import load_ntu
from unialign.stages.datasets.splits import by_part, few_shots, holdout
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS


def a_dataset(parts: dict[str, str]) -> Dataset:
    samples = tuple(Sample(name, 0, {}) for name in sorted(parts))
    return Dataset("tiny", "made", Path("nowhere"), ("wave",), samples, {"split": partial(by_part, parts)})


def test_all_three_parts_are_kept(tmp_path: Path) -> None:
    save_manifest(a_dataset({"a": "train", "b": "val", "c": "test"}), tmp_path)
    assert load_manifest(tmp_path, "tiny").split() == Split(("a",), ("c",), ("b",))


def test_a_list_from_before_there_was_val_opens(tmp_path: Path) -> None:
    dataset = a_dataset({"a": "train", "c": "test"})
    save_manifest(dataset, tmp_path)
    body = json.loads(manifest_path(tmp_path, "made", "tiny").read_text())
    assert body["protocols"] == {"split": {"train": ["a"], "test": ["c"]}}
    assert load_manifest(tmp_path, "tiny").split() == Split(("a",), ("c",))


def test_the_list_of_a_dataset_of_ones_own_has_no_colon_in_its_name(tmp_path: Path) -> None:
    dataset = replace(a_dataset({"a": "train", "c": "test"}), name="mine:moves")
    save_manifest(dataset, tmp_path)
    (path,) = (tmp_path / "made" / "datasets").iterdir()
    assert path.name == "mine.moves.json"
    assert load_manifest(tmp_path, "mine:moves").name == "mine:moves"
    # That of an earlier version keeps its name, and is written on.
    earlier = path.rename(path.with_name("mine:moves.json"))
    save_manifest(replace(dataset, classes=("bow",)), tmp_path)
    assert load_manifest(tmp_path, "mine:moves").classes == ("bow",)
    assert [each.name for each in earlier.parent.iterdir()] == ["mine:moves.json"]


def test_unseen_classes_are_kept_and_known_of_lists_from_before(tmp_path: Path) -> None:
    names = [f"S001C001P{person:03d}R001A{action:03d}" for person in (1, 3) for action in range(1, 61)]
    for name in names:
        (tmp_path / f"{name}.skeleton").touch()
    dataset = load_ntu(tmp_path, "ntu60")
    save_manifest(dataset, tmp_path / "cache")
    unseen = ZERO_SHOT_SPLITS["synse-55-5"].unseen
    path = manifest_path(tmp_path / "cache", "ntu", "ntu60")
    body = json.loads(path.read_text())
    del body["candidates"], body["unseen"], body["digest"]
    earlier = {**body, "digest": digest(body)}
    for text in (path.read_text(), json.dumps(earlier)):
        path.write_text(text)
        found = load_manifest(tmp_path / "cache", "ntu60")
        assert found.split("synse-55-5") == dataset.split("synse-55-5")
        assert (found.split("synse-55-5").candidates, found.split("synse-55-5").unseen) == (unseen, unseen)
        assert (found.split("generalised-synse-55-5").candidates, found.split("xsub").unseen) == ((), ())
        assert found.split("generalised-synse-55-5").unseen == unseen


def test_which_samples_are_tested_can_be_said_of_a_list_too(tmp_path: Path) -> None:
    people = {"a": "anna", "b": "ben", "c": "anna"}
    samples = tuple(Sample(name, 0, {}, {"subject": who}) for name, who in people.items())
    dataset = Dataset("tiny", "made", Path("nowhere"), ("wave",), samples, {"holdout": holdout})
    save_manifest(dataset, tmp_path)
    for found in (dataset, load_manifest(tmp_path, "tiny"), few_shots(dataset, 2, 0, "subject=ben")):
        assert found.split("subject=ben") == Split(("a", "c"), ("b",))
    assert len(few_shots(dataset, 1, 0, "subject=ben").split("subject=ben").train) == 1
