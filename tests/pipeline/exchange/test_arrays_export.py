"""A store as npz, npy with CSV, WebDataset and a Hugging Face folder: the values are those of the store."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.cache.writing import write_store
from unialign.cli import app
from unialign.errors import UsageError
from unialign.pipeline.exchange.arrays_export import export_arrays
from unialign.stages.datasets.base import Dataset, Sample, Split

IDS = ("a/1", "b", "c")
SPECS = (
    ArraySpec("keypoints", "float32", (8, 2, 3), ("frame", "joint", "coordinate"), ragged=True, chunk=4),
    ArraySpec("size", "int32", (2,), ("axis",)),
)


@pytest.fixture
def store(tmp_path: Path) -> StoreReader:
    generator = np.random.default_rng(0)
    samples = {}
    for at, name in enumerate(IDS):
        keypoints = generator.normal(size=(3 + at, 2, 3)).astype(np.float32)
        keypoints[1, 0] = np.nan
        samples[name] = {"keypoints": keypoints, "size": np.array([at, 7], np.int32)}
    return write_store(
        tmp_path / "cache", "made", "poses", "mine", samples, arrays=SPECS, attributes={"licence": "MIT"}
    )


def made(root: Path) -> Dataset:
    samples = tuple(Sample(name, at % 2, {}) for at, name in enumerate((*IDS, "lost")))
    return Dataset(
        "made", "made", root, ("wave", "bow"), samples, {"split": lambda _: Split(("a/1", "c"), ("b", "lost"))}
    )


def test_npz_reads_back_and_says_where_it_is_from(tmp_path: Path, store: StoreReader) -> None:
    done = []
    size = export_arrays("npz", store.path, tmp_path / "a.npz", made(tmp_path), lambda *at: done.append(at))
    assert size == (tmp_path / "a.npz").stat().st_size
    assert done[-1] == (6, 6)
    found = np.load(tmp_path / "a.npz")
    assert found["ids"].tolist() == list(IDS)
    assert (found["labels"].tolist(), found["splits"].tolist()) == ([0, 1, 0], ["train", "test", "train"])
    starts = np.concatenate([[0], np.cumsum(found["keypoints_lengths"])])
    for at, name in enumerate(IDS):
        np.testing.assert_array_equal(found["keypoints"][starts[at] : starts[at + 1]], store[name]["keypoints"])
        np.testing.assert_array_equal(found["size"][at], store[name]["size"])
    assert json.loads(str(found["about"]))["attributes"]["licence"] == "MIT"


def test_npy_files_and_their_sheet(tmp_path: Path, store: StoreReader) -> None:
    export_arrays("npy", store.path, tmp_path / "out", made(tmp_path))
    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").read_text().splitlines()))
    assert [(row["id"], row["class"], row["split"]) for row in rows] == [
        ("a/1", "wave", "train"),
        ("b", "bow", "test"),
        ("c", "wave", "train"),
    ]
    first = int(rows[0]["keypoints_length"])
    keypoints = np.load(tmp_path / "out" / "keypoints.npy", mmap_mode="r")
    np.testing.assert_array_equal(keypoints[:first], store["a/1"]["keypoints"])
    assert np.load(tmp_path / "out" / "size.npy").shape == (3, 2)
    assert json.loads((tmp_path / "out" / "about.json").read_text())["collection"] == "made"


def test_webdataset_has_one_key_per_sample(tmp_path: Path, store: StoreReader) -> None:
    export_arrays("webdataset", store.path, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["00000000.json", "00000000.keypoints.npy", "00000000.size.npy"]
        for at, name in enumerate(IDS):
            said = json.loads(archive.extractfile(f"{at:08d}.json").read())  # type: ignore[union-attr]
            assert said == {"id": name}
            data = archive.extractfile(f"{at:08d}.keypoints.npy").read()  # type: ignore[union-attr]
            np.testing.assert_array_equal(np.load(io.BytesIO(data)), store[name]["keypoints"])
    again = tmp_path / "b.tar"
    export_arrays("webdataset", store.path, again)
    assert again.read_bytes() == (tmp_path / "a.tar").read_bytes()


def test_a_hugging_face_folder_names_its_splits(tmp_path: Path, store: StoreReader) -> None:
    export_arrays("huggingface", store.path, tmp_path / "hf", made(tmp_path))
    head = yaml.safe_load((tmp_path / "hf" / "README.md").read_text().split("---")[1])
    files = {each["split"]: each["path"] for each in head["configs"][0]["data_files"]}
    assert files == {"test": "data/test.jsonl", "train": "data/train.jsonl"}
    rows = {}
    for split, path in files.items():
        for line in (tmp_path / "hf" / path).read_text().splitlines():
            assert "NaN" not in line
            row = json.loads(line)
            rows[row["id"]] = (split, row)
    assert {name: split for name, (split, _) in rows.items()} == {"a/1": "train", "b": "test", "c": "train"}
    for name in IDS:
        values = np.array(rows[name][1]["keypoints"], np.float32)
        np.testing.assert_allclose(values, store[name]["keypoints"], rtol=1e-6)


def test_targets_that_exist_and_strange_datasets_are_refused(tmp_path: Path, store: StoreReader) -> None:
    (tmp_path / "a.npz").touch()
    with pytest.raises(UsageError, match="exists; remove it"):
        export_arrays("npz", store.path, tmp_path / "a.npz")
    assert export_arrays("npz", store.path, tmp_path / "a.npz", overwrite=True)
    for _ in range(2):
        export_arrays("npy", store.path, tmp_path / "folder", overwrite=True)
    other = Dataset("other", "other", tmp_path, ("x",), (Sample("z", 0, {}),), {"split": lambda _: Split((), ())})
    with pytest.raises(UsageError, match="holds no sample of other"):
        export_arrays("npz", store.path, tmp_path / "b.npz", other)


def test_a_failure_leaves_nothing(tmp_path: Path, store: StoreReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    for kind in ("npz", "npy", "webdataset", "huggingface"):
        with pytest.raises(KeyboardInterrupt):
            export_arrays(kind, store.path, tmp_path / "out" / kind, None, stop)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_from_the_command_line(tmp_path: Path, store: StoreReader) -> None:
    for target, more in (
        ("a.npz", ()),
        ("a.tar", ()),
        ("npy", ("--format", "npy")),
        ("hf", ("--format", "huggingface")),
    ):
        words = ["cache", "export", str(store.path), str(tmp_path / target), *more, "--json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["samples"] == 3
    done = CliRunner().invoke(app, ["cache", "export", str(store.path), str(tmp_path / "x"), "--format", "csv"])
    assert isinstance(done.exception, UsageError)
