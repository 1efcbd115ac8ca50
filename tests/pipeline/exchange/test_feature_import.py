"""Ready-made features: every format, source and license recorded, and what is refused."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.exchange.feature_import import import_features, read_features
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.ntu_classes import NTU_CLASSES
from unialign.stages.datasets.splits import holdout
from unialign.stages.extraction.text import description_id, label_id

IDS = ["a/1", "b", "c"]
VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def dataset(root: Path, classes: tuple[str, ...] = ("wave", "bow")) -> Dataset:
    samples = tuple(Sample(name, at % len(classes), {}) for at, name in enumerate(IDS))
    return Dataset("made", "made", root, classes, samples, {"holdout": holdout})


def csv_text(header: bool) -> str:
    lines = ["id,f0,f1,f2,f3"] if header else []
    return "\n".join(
        [*lines, *(f"{name},{','.join(map(repr, row))}" for name, row in zip(IDS, VALUES.tolist(), strict=True))]
    )


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = VALUES
        file["ids"] = np.array(IDS, dtype=object)


WITH_IDS: dict[str, Callable[[Path], Any]] = {
    "a.npz": lambda path: np.savez(path, features=VALUES, ids=np.array(IDS), labels=np.arange(3)),
    "dict.pt": lambda path: torch.save({"features": torch.from_numpy(VALUES), "ids": IDS}, path),
    "by-id.pth": lambda path: torch.save(dict(zip(IDS, torch.from_numpy(VALUES), strict=True)), path),
    "header.csv": lambda path: path.write_text(csv_text(True)),
    "plain.csv": lambda path: path.write_text(csv_text(False)),
    "a.h5": write_hdf5,
}
WITHOUT_IDS: dict[str, Callable[[Path], Any]] = {
    "a.npy": lambda path: np.save(path, VALUES),
    "only.npz": lambda path: np.savez_compressed(path, arr_0=VALUES),
    "a.pt": lambda path: torch.save(torch.from_numpy(VALUES), path),
    "numbers.csv": lambda path: path.write_text("\n".join(",".join(map(repr, row)) for row in VALUES.tolist())),
}


@pytest.mark.parametrize("name", [*WITH_IDS, *WITHOUT_IDS])
def test_every_format_becomes_the_same_store(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (WITH_IDS | WITHOUT_IDS)[name](path)
    ids = None
    if name in WITHOUT_IDS:
        with pytest.raises(UsageError, match="has no ids of its 3 rows"):
            import_features(path, dataset(tmp_path), tmp_path / "cache")
        ids = tmp_path / "ids.txt"
        ids.write_text("\n".join(IDS) + "\n")
    store = import_features(path, dataset(tmp_path), tmp_path / "cache", ids=ids, source="SMIE", license="MIT")
    assert store.ids == tuple(IDS)
    for at, each in enumerate(IDS):
        np.testing.assert_allclose(store[each]["feature"], VALUES[at][None], rtol=1e-6)
        np.testing.assert_allclose(store[each]["tokens"], VALUES[at][None, None], rtol=1e-2, atol=1e-3)
    assert (store.attributes["source"], store.attributes["licence"], store.attributes["file"]) == ("SMIE", "MIT", name)
    assert store.attributes["file_digest"].startswith("sha256:")
    assert len(store.array_attributes("feature")["views"]) == 1


def test_real_clip_embeddings_of_ntu_become_labels_and_descriptions(tmp_path: Path, shared_data: Path) -> None:
    samples = (Sample("S001C001P001R001A001", 0, {}),)
    ntu = Dataset("ntu60", "ntu", tmp_path, NTU_CLASSES[:60], samples, {"holdout": holdout})
    folder = shared_data / "text" / "clip_ntu"
    for rows, kind in (("label", "lb"), ("description", "ad")):
        store = import_features(
            folder / f"vitb16_{kind}_60.npy",
            ntu,
            tmp_path,
            modality="text",
            rows=rows,
            source="MSF-GZSSAR, CLIP ViT-B/16",
        )
    assert len(store.ids) == 120
    for at, name in enumerate(NTU_CLASSES[:60]):
        for identifier, kind in ((label_id("{}", name), "lb"), (description_id(0, name), "ad")):
            np.testing.assert_array_equal(store[identifier]["embedding"], np.load(folder / f"vitb16_{kind}_60.npy")[at])
    with pytest.raises(UsageError, match=r"holds features \(120, 512\), but ntu60 has 60 classes"):
        import_features(folder / "vitb16_lb_120.npy", ntu, tmp_path, modality="text")


def save(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.ones(3), r"holds an array \(3,\) of float64, not rows of numbers"),
        (np.ones((0, 4)), "not rows of numbers"),
        (np.array([["a"]]), "not rows of numbers"),
        (np.ones((2, 3), complex), "not rows of numbers"),
        (np.ones((1, 70_000)), "rows of 70000 numbers"),
        (np.array([[1.0], [np.nan], [np.inf]]), r"row 1 holds numbers that are not finite \(2 rows do\)"),
        (np.array([[1e300]]), "row 0 holds numbers that are not finite"),
        (np.array([{"a": 1}]), "is no npy file of numbers"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, value: Any, problem: str) -> None:
    path = save(tmp_path / "a.npy", value)
    with pytest.raises(CorruptInput, match=problem) as raised:
        read_features(path)
    assert str(path) in str(raised.value)


def test_files_that_do_not_say_what_is_in_them_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", one=VALUES, two=VALUES)
    np.savez(tmp_path / "ids.npz", features=VALUES, ids=np.array(IDS[:2]))
    torch.save({"features": torch.ones(3, 4), "ids": [1, 2, 3]}, tmp_path / "ids.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pt")
    (tmp_path / "torn.csv").write_text("a,1,2\nb,1\n")
    (tmp_path / "no.h5").write_bytes(b"no")
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("features", (10**8, 64), "f4", chunks=(1000, 64))
    for name, problem in (
        ("two.npz", "which of 'one', 'two' are the features is not said"),
        ("ids.npz", "2 ids for 3 rows"),
        ("ids.pt", "the ids are no list of texts"),
        ("code.pt", "is no file of plain tensors"),
        ("torn.csv", "line 2 is not an id and 2 numbers"),
        ("no.h5", "is no HDF5 file"),
        ("huge.h5", "its features would take 25600000000 bytes"),
        ("absent.npy", "is no npy file of numbers"),
    ):
        with pytest.raises(CorruptInput, match=problem):
            read_features(tmp_path / name)
    with pytest.raises(UsageError, match="the extension decides the format"):
        read_features(tmp_path / "a.mat")


def test_rows_that_do_not_fit_the_dataset_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", VALUES)
    for lines, problem in (
        ("a\nb", "2 ids for 3 rows"),
        ("a\na\nb", "an id occurs twice"),
        ("x\ny\nz", "none of the 3 ids .'x'. is a sample of made"),
    ):
        (tmp_path / "ids.txt").write_text(lines)
        with pytest.raises(UsageError, match=problem):
            import_features(path, dataset(tmp_path), tmp_path / "cache", ids=tmp_path / "ids.txt")
    with pytest.raises(UsageError, match="known are pose-features, text"):
        import_features(path, dataset(tmp_path), tmp_path, modality="frames")
    with pytest.raises(UsageError, match="known are label and description"):
        import_features(path, dataset(tmp_path, ("a", "b", "c")), tmp_path, modality="text", rows="words")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*WITH_IDS, *WITHOUT_IDS]),
    changes=st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), max_size=5),
    kept=st.floats(0.1, 1),
)
def test_damage_is_an_error_of_the_file_and_nothing_else(tmp_path: Path, name: str, changes: list, kept: float) -> None:
    path = tmp_path / f"whole-{name}"
    if not path.exists():
        (WITH_IDS | WITHOUT_IDS)[name](path)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    damaged = tmp_path / f"damaged{path.suffix}"
    damaged.write_bytes(data[: max(1, int(kept * len(data)))])
    with contextlib.suppress(CorruptInput, UsageError):
        read_features(damaged)


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("wave/1.mp4", "wave/2.mp4", "bow/1.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    np.savez(tmp_path / "f.npz", features=VALUES, ids=np.array(["wave/1", "wave/2", "bow/1"]))
    words = [
        "cache",
        "import",
        "f.npz",
        "--dataset",
        "folder",
        "--root",
        "clips",
        "--source",
        "ours",
        "--license",
        "MIT",
        "--json",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["modality"], found["samples"]) == ("pose-features", 3)
    assert StoreReader(Path(found["store"])).attributes["licence"] == "MIT"
