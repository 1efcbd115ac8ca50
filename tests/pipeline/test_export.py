"""Contract of the pyskl pickle: poses, labels and splits come back as they were, and what it cannot hold is said."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_stores import COLLECTION, frames_store, made_dataset, poses_store, write_store
from unialign.cache.arrays import ArraySpec
from unialign.cache.atomic import PREFIX
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import grow_store, write_shard
from unialign.errors import UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.exchange.pyskl_export import export_pyskl
from unialign.pipeline.exchange.pyskl_import import import_pyskl
from unialign.pipeline.manifest import load_manifest
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.pickles import load_restricted, write_pickle
from unialign.stages.datasets.pyskl import load_pyskl
from unialign.stages.datasets.splits import by_part
from unialign.stages.extraction.skeleton_arrays import image_spec, metre_spec, pixel_specs


def pixels(number: int, frames: int = 7) -> dict[str, np.ndarray]:
    """Two persons; the second comes late, and the first is gone in one frame."""
    random = np.random.default_rng(number)
    points = random.uniform(-5, 4000, (frames, 2, 17, 3)).astype(np.float32)
    points[..., 2] = random.uniform(0, 1, (frames, 2, 17))
    points[: number % frames, 1] = np.nan
    points[frames // 2, 0] = np.nan
    return {"keypoints": points, "frame_size": np.array([240, 320 + number], np.int32)}


def metres(number: int) -> dict[str, np.ndarray]:
    """As `pixels`, in space, with a joint that alone is missing."""
    random = np.random.default_rng(number)
    points = random.normal(0, 2, (5 + number, 2, 25, 3)).astype(np.float32)
    points[0, 0] = np.nan
    points[2, 1, 7] = np.nan
    return {"keypoints": points, "pixels": random.uniform(0, 1000, (5 + number, 2, 25, 2)).astype(np.float32)}


def ids(count: int) -> list[str]:
    return [f"clip{number:03d}" for number in range(count)]


def flat_store(cache: Path, values: Mapping[str, Mapping[str, np.ndarray]], failed: Sequence[str] = ()) -> StoreReader:
    return write_store(cache, "poses", pixel_specs(32, 2), values, failed=failed)


def export(reader: StoreReader, dataset: Dataset, target: Path) -> tuple[str, ...]:
    return export_pyskl(reader.path, dataset, target).not_held


def assert_same(first: StoreReader, second: StoreReader, names: Sequence[str]) -> None:
    assert first.ids == second.ids
    for sample in first.ids:
        left, right = first.read_one(sample, names), second.read_one(sample, names)
        for name in names:
            assert left[name].dtype == right[name].dtype
            np.testing.assert_array_equal(left[name], right[name])


def test_poses_in_pixels_come_back_with_labels_and_splits(tmp_path: Path) -> None:
    dataset = made_dataset()
    reader = flat_store(tmp_path / "a", {name: pixels(n) for n, name in enumerate(ids(20))}, failed=["clip003"])
    seen: list[tuple[int, int]] = []
    done = export_pyskl(reader.path, dataset, tmp_path / "p.pkl", lambda *step: seen.append(step))
    assert (done.samples, done.bytes, seen[-1]) == (19, (tmp_path / "p.pkl").stat().st_size, (38, 38))
    config = Config(cache=tmp_path / "b")
    back = import_pyskl(tmp_path / "p.pkl", load_pyskl(tmp_path / "p.pkl"), config)
    assert_same(reader, StoreReader(back.extraction.store), ["keypoints", "frame_size"])
    stored = load_manifest(tmp_path / "b", "pyskl")
    held = set(reader.ids)
    assert {sample.id: sample.label for sample in stored.samples} == {
        sample.id: sample.label for sample in dataset.samples if sample.id in held
    }
    for protocol in dataset.protocols:
        split, found = dataset.split(protocol), stored.split(protocol)
        assert found == Split(*(tuple(name for name in side if name in held) for side in (split.train, split.test)))


def test_the_file_is_what_pyskl_reads(tmp_path: Path) -> None:
    reader = flat_store(tmp_path, {name: pixels(n) for n, name in enumerate(ids(20))})
    export(reader, made_dataset(), tmp_path / "p.pkl")
    content = load_restricted(tmp_path / "p.pkl")
    assert set(content) == {"split", "annotations"}
    assert list(content["split"]) == ["whole_train", "whole_val", "seen_train", "seen_val"]
    assert content["split"]["whole_val"] == [f"clip{n:03d}" for n in range(12, 20)]
    entry: dict[str, Any] = content["annotations"][5]
    shapes = {name: entry.pop(name) for name in ("keypoint", "keypoint_score")}
    assert entry == {
        "frame_dir": "clip005",
        "label": 1,
        "total_frames": 7,
        "img_shape": (240, 325),
        "original_shape": (240, 325),
    }
    points = pixels(5)["keypoints"].swapaxes(0, 1)
    assert (shapes["keypoint"].dtype, shapes["keypoint_score"].dtype) == (np.float32, np.float32)
    # Absent persons are zeros, as pyskl writes them; nobody else is touched.
    absent = np.isnan(points).all(axis=(2, 3))
    assert absent.sum() == 6
    assert not shapes["keypoint"][absent].any()
    assert not shapes["keypoint_score"][absent].any()
    np.testing.assert_array_equal(shapes["keypoint"][~absent], points[~absent][..., :2])
    np.testing.assert_array_equal(shapes["keypoint_score"][~absent], points[~absent][..., 2])


def test_a_store_in_float16_stays_readable(tmp_path: Path) -> None:
    """As stores of poses were before revision 2."""
    specs = (replace(pixel_specs(32, 2)[0], dtype="float16"), pixel_specs(32, 2)[1])
    values = {name: {**pixels(n), "keypoints": pixels(n)["keypoints"].astype("f2")} for n, name in enumerate(ids(20))}
    reader = write_store(tmp_path / "a", "poses", specs, values)
    export(reader, made_dataset(), tmp_path / "p.pkl")
    assert load_restricted(tmp_path / "p.pkl")["annotations"][0]["keypoint"].dtype == np.float16
    back = import_pyskl(tmp_path / "p.pkl", load_pyskl(tmp_path / "p.pkl"), Config(cache=tmp_path / "b"))
    for name, stored in values.items():
        np.testing.assert_array_equal(
            StoreReader(back.extraction.store).read_one(name)["keypoints"], stored["keypoints"].astype(np.float32)
        )


def test_poses_in_space_come_back_without_a_score(tmp_path: Path) -> None:
    specs = (metre_spec(32, 2), image_spec(32, 2))
    reader = write_store(tmp_path / "a", "poses", specs, {name: metres(n) for n, name in enumerate(ids(20))})
    not_held = export(reader, made_dataset(), tmp_path / "p.pkl")
    assert "the array pixels" in not_held
    first = load_restricted(tmp_path / "p.pkl")["annotations"][0]
    assert set(first) == {"frame_dir", "label", "total_frames", "keypoint"}
    assert (first["keypoint"].shape, first["keypoint"].dtype) == ((2, 5, 25, 3), np.float32)
    back = import_pyskl(tmp_path / "p.pkl", load_pyskl(tmp_path / "p.pkl"), Config(cache=tmp_path / "b"))
    assert_same(reader, StoreReader(back.extraction.store), ["keypoints"])


def test_an_import_for_a_dataset_takes_its_ids_and_leaves_nobody_out(tmp_path: Path) -> None:
    dataset = made_dataset()
    specs = pixel_specs(2048, 4)
    long = np.random.default_rng(0).uniform(1, 90, (1100, 4, 17, 3)).astype(np.float32)
    long[..., 2] /= 100
    size = np.array([9, 9], np.int32)
    values: dict[str, dict[str, np.ndarray]] = {
        name: {"keypoints": long[: 40 + n], "frame_size": size} for n, name in enumerate(ids(20))
    }
    values["clip000"]["keypoints"] = long
    reader = write_store(tmp_path / "a", "poses", specs, values)
    export(reader, dataset, tmp_path / "p.pkl")
    back = import_pyskl(tmp_path / "p.pkl", dataset, Config(cache=tmp_path / "b"))
    assert back.extraction.store.parts[-3] == COLLECTION
    assert_same(reader, StoreReader(back.extraction.store), ["keypoints", "frame_size"])
    fields = StoreReader(back.extraction.store).store.key.fields
    assert (fields["num_people"], fields["max_frames"]) == (4, 1104)
    again = import_pyskl(tmp_path / "p.pkl", dataset, Config(cache=tmp_path / "b"))
    assert (again.extraction.extracted, again.extraction.reused) == (0, 20)


def test_what_the_pickle_does_not_hold_is_said(tmp_path: Path) -> None:
    specs = (*pixel_specs(32, 2), ArraySpec("fps", "float32", (), ()))
    values = {name: {**pixels(n), "fps": np.asarray(30, np.float32)} for n, name in enumerate(ids(18))}
    reader = write_store(tmp_path, "poses", specs, values, failed=["clip001", "clip002"])
    grow_store(reader.store, 4)
    again = [Entry("clip000", "ok", "sha256:new"), Entry("clip004", "no-person")]
    write_shard(reader.store, 3, again, [values["clip005"], {}])
    dataset = replace(made_dataset(), descriptions=(("a",), ("b",), ("c",), ("d",)))
    assert export(reader, dataset, tmp_path / "p.pkl") == (
        "the key, and what the records say: source digests and counts",
        "the names of the 4 classes",
        "the descriptions of the classes",
        "the array fps",
        "1 sample quarantined as no-person",
        "2 samples quarantined as unreadable",
        "2 samples of tiny never extracted",
        "2 superseded versions of samples that were extracted again",
    )


def test_what_the_store_does_not_hold_is_said(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(1, 90, (1, 4, 17, 2))
    score = np.ones((1, 4, 17), np.float16)
    common = {"img_shape": (240, 320), "original_shape": (480, 640), "total_frames": 4, "keypoint_score": score}
    entries = [
        {**common, "frame_dir": "clip000", "label": 0, "keypoint": points},
        {**common, "frame_dir": "clip001", "label": 3, "keypoint": points.astype(np.float16)},
        {**common, "frame_dir": "elsewhere", "label": 0, "keypoint": points.astype(np.float16)},
    ]
    write_pickle(tmp_path / "p.pkl", {"annotations": entries})
    done = import_pyskl(tmp_path / "p.pkl", made_dataset(2, 0), Config(cache=tmp_path / "b"))
    assert done.not_held == (
        "entries of annotations beside those of the format, and original_shape",
        "1 annotation that is no sample of the dataset",
        "1 labels that are not those of the dataset",
        "digits of 1 arrays beyond float32",
    )
    write_pickle(tmp_path / "q.pkl", {"annotations": entries[2:]})
    with pytest.raises(UsageError, match="holds no sample of dataset tiny"):
        import_pyskl(tmp_path / "q.pkl", made_dataset(), Config(cache=tmp_path / "b"))


def refused(tmp_path: Path, reader: StoreReader, dataset: Dataset, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        export_pyskl(reader.path, dataset, tmp_path / "p.pkl")
    assert PREFIX not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.pkl"))


def test_other_modalities_and_arrays_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, frames_store(tmp_path, made_dataset()), made_dataset(), "holds poses, and these are frames")
    odd = (ArraySpec("keypoints", "float16", (8, 3), ("frame", "channel"), ragged=True),)
    reader = write_store(tmp_path / "odd", "poses", odd, {"clip000": {"keypoints": np.zeros((2, 3), np.float16)}})
    refused(tmp_path, reader, made_dataset(), "no array 'keypoints' with the coordinates")


def test_samples_without_a_label_and_other_collections_are_refused(tmp_path: Path) -> None:
    reader = poses_store(tmp_path, made_dataset())
    refused(tmp_path, reader, made_dataset(12, 4), r"4 samples have no label in dataset tiny \(clip016\)")
    other = replace(made_dataset(), collection="other")
    refused(tmp_path, reader, other, "is of made, but dataset tiny is of other")
    none = flat_store(tmp_path / "none", {"clip000": {}}, failed=["clip000"])
    refused(tmp_path, none, made_dataset(), "holds no sample with poses")
    (tmp_path / "q.pkl").touch()
    with pytest.raises(UsageError, match="exists"):
        export_pyskl(reader.path, made_dataset(), tmp_path / "q.pkl")


def test_numbers_that_would_change_are_refused(tmp_path: Path) -> None:
    flat = pixel_specs(32, 2)

    def store(name: str, change: Mapping[str, np.ndarray], specs: Sequence[ArraySpec] = flat) -> StoreReader:
        return write_store(tmp_path / name, "poses", specs, {"clip000": {**pixels(0), **change}})

    zero = pixels(0)["keypoints"]
    zero[1, 0] = 0
    refused(tmp_path, store("zero", {"keypoints": zero}), made_dataset(), "keypoints of sample clip000 would change")
    infinite = pixels(0)["keypoints"]
    infinite[1, 0, 0] = np.inf
    refused(tmp_path, store("inf", {"keypoints": infinite}), made_dataset(), r"clip000 cannot be held .*infinite")
    small = store("small", {"frame_size": np.array([0, 320], np.int32)})
    refused(tmp_path, small, made_dataset(), "cannot be held by a pyskl pickle: annotation 0 .*'img_shape'")
    sizeless = write_store(tmp_path / "n", "poses", flat[:1], {"clip000": {"keypoints": zero + 1}})
    refused(tmp_path, sizeless, made_dataset(), r"no 'img_shape'|come back with img_shape")


def test_labels_and_splits_that_would_change_are_refused(tmp_path: Path) -> None:
    reader = flat_store(tmp_path, {"clip000": pixels(0), "clip001": pixels(1)})
    samples = (Sample("clip000", 0, {}), Sample("clip001", 1, {}))
    rule = partial(by_part, {"clip000": "train", "clip001": "test"})
    dataset = Dataset("tiny", COLLECTION, Path("nowhere"), ("a", "b"), samples, {"odd_": rule})
    refused(tmp_path, reader, dataset, "a label or a split would change")


def test_a_pickle_that_is_written_is_read_without_trust(tmp_path: Path) -> None:
    value = {"split": {"a": ["x"]}, "annotations": [{"keypoint": np.zeros((1, 2, 17, 2), np.float16), "label": 1}]}
    write_pickle(tmp_path / "p.pkl", value)
    found = load_restricted(tmp_path / "p.pkl")
    np.testing.assert_array_equal(found["annotations"][0].pop("keypoint"), value["annotations"][0].pop("keypoint"))  # type: ignore[index]
    assert found == value
    assert (tmp_path / "p.pkl").read_bytes()[:2] == b"\x80\x04"
