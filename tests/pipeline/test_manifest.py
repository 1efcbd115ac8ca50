"""The list of a dataset beside its stores: what it keeps."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from unialign.pipeline.manifest import load_manifest, manifest_path, save_manifest
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.splits import by_part, few_shots, holdout


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


def test_which_samples_are_tested_can_be_said_of_a_list_too(tmp_path: Path) -> None:
    people = {"a": "anna", "b": "ben", "c": "anna"}
    samples = tuple(Sample(name, 0, {}, {"subject": who}) for name, who in people.items())
    dataset = Dataset("tiny", "made", Path("nowhere"), ("wave",), samples, {"holdout": holdout})
    save_manifest(dataset, tmp_path)
    for found in (dataset, load_manifest(tmp_path, "tiny"), few_shots(dataset, 2, 0, "subject=ben")):
        assert found.split("subject=ben") == Split(("a", "c"), ("b",))
    assert len(few_shots(dataset, 1, 0, "subject=ben").split("subject=ben").train) == 1
