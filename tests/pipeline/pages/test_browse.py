"""`unialign browse` on small stores."""

from pathlib import Path

import numpy as np
import pytest

from tests.made_stores import CLASSES, frames_store, made_dataset, made_stores, poses_store, text_store
from tests.pipeline.pages.test_report import content_of, numbers
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.pages.browse import write_browser


def config_of(cache: Path) -> Config:
    return with_values(Config(), {"cache": cache})


def test_a_page_shows_every_sample_and_why_some_are_not_stored(tmp_path: Path) -> None:
    cache, dataset = tmp_path / "cache", made_dataset()
    frames_store(cache, dataset)
    poses_store(cache, dataset, failed=["clip003"])
    text_store(cache)
    save_manifest(dataset, cache)
    page = write_browser(config_of(cache), out=tmp_path / "page.html")
    found = content_of(page.path)
    assert found["clips"]["ids"] == [sample.id for sample in dataset.samples]
    assert numbers(found["clips"]["labels"]) == [sample.label for sample in dataset.samples]
    assert found["clips"]["notes"][3] == "train; poses: unreadable"
    assert found["clips"]["notes"][4] == "train"
    assert found["verdict"] == ["poses: 19 of 20 samples (1 unreadable)."]
    statuses = {
        each["name"]: [each["words"][code] for code in numbers(each["codes"])] for each in found["clips"]["statuses"]
    }
    assert statuses["frames"] == ["ok"] * 20
    assert statuses["poses"][2:5] == ["ok", "unreadable", "ok"]
    # One of each class, then the second of each: the first four are of four classes.
    assert [found["shown"][place]["clip"] for place in range(5)] == [0, 1, 2, 3, 4]
    assert found["texts"]["nearest"]
    assert len(found["shown"]) == 20
    (again,) = {write_browser(config_of(cache), out=tmp_path / "again.html").path.read_bytes()}
    assert again == page.path.read_bytes()


def test_skeletons_without_frames_are_drawn_alone(tmp_path: Path) -> None:
    cache, dataset = tmp_path / "cache", made_dataset()
    reader = poses_store(cache, dataset)
    found = content_of(write_browser(config_of(cache), reader.store.name, out=tmp_path / "page.html").path)
    # No list of samples is beside the store.
    assert found["classes"] == ["(no label)"]
    clip = found["shown"][1]
    assert clip["image"] is None
    joints = np.array(numbers(clip["people"]["points"])).reshape(clip["count"], clip["people"]["persons"], 17, 2)
    assert clip["people"]["persons"] == 1
    # The empty frame is drawn with the pose before it, and said to be lost.
    assert clip["people"]["states"][0][2] == "-"
    np.testing.assert_array_equal(joints[2], joints[1])
    assert 0 <= joints.min() < joints.max() <= 256 * 16


def test_of_several_stores_the_one_that_is_named_is_shown(tmp_path: Path) -> None:
    cache, dataset = tmp_path / "cache", made_dataset()
    stores = [frames_store(cache, dataset, fields={"parameters": number}) for number in (1, 2)]
    save_manifest(dataset, cache)
    for store in stores:
        found = content_of(write_browser(config_of(cache), store.store.name, out=tmp_path / "page.html").path)
        assert f"samples in {store.store.name}" in [note for _, _, note in found["cards"]]
        assert "not on this page: 1" in found["provenance"][-1]["title"]


def test_a_cache_without_stores_and_one_of_several_collections_are_said(tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="no store is in"):
        write_browser(config_of(tmp_path), out=tmp_path / "page.html")
    made_stores(tmp_path, made_dataset())
    (tmp_path / "made").rename(tmp_path / "made2")
    made_stores(tmp_path, made_dataset())
    with pytest.raises(UsageError, match="holds made, made2; name a store"):
        write_browser(config_of(tmp_path), out=tmp_path / "page.html")


def test_classes_of_the_dataset_name_the_samples(tmp_path: Path) -> None:
    made_stores(tmp_path, made_dataset())
    save_manifest(made_dataset(), tmp_path)
    found = content_of(write_browser(config_of(tmp_path), out=tmp_path / "page.html").path)
    assert found["classes"] == list(CLASSES)
    assert found["map"]["views"][0]["name"] == "t-SNE"
