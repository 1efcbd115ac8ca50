"""The Python front door: light to import, documented, and every block of docs/python.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import unialign as ua
from tests.made_stores import made_dataset, pose_features_store, poses_store

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def features(count: int = 10, scale: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    return {f"s{number:02d}": {"feature": np.full(4, scale * number, np.float32)} for number in range(count)}


def test_importing_loads_no_network_library() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import unialign; spent = time.perf_counter() - start\n"
        "heavy = {'torch', 'zarr', 'numba', 'dask', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(spent)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(ua.__all__) <= set(dir(ua))
    for name in ua.__all__:
        value = getattr(ua, name)
        assert name.startswith("__") or value.__doc__, name
    for name in ("open_store", "list_stores", "batches", "dataset", "write_store", "load_dataset"):
        assert f"ua.{name}" in page
    with pytest.raises(AttributeError, match="open_store"):
        ua.open_stoer  # type: ignore[attr-defined]  # noqa: B018


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    known: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), known)
    assert known["poses"]["clip007"]["keypoints"].shape == (27, 2, 17, 3)  # type: ignore[index]


def test_the_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made_dataset()
    poses_store(tmp_path / "cache", dataset)
    pose_features_store(tmp_path / "cache", dataset)
    monkeypatch.chdir(tmp_path)
    text = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_a_store_tells_what_it_holds(tmp_path: Path) -> None:
    store = ua.write_store(tmp_path, "mine", "pose-features", "encoder", features(), attributes={"licence": "MIT"})
    assert len(store) == 10
    assert "s03" in store
    assert "s99" not in store
    assert 3 not in store
    assert list(store) == sorted(features())
    with pytest.raises(ua.UsageError, match="samples go by id, not by 3"):
        store[3]  # type: ignore[index]
    np.testing.assert_array_equal(store["s03"]["feature"], np.full(4, 3, np.float32))
    assert store.attributes["licence"] == "MIT"
    assert "pose-features of mine: 10 of 10 samples" in repr(store)
    assert "feature: float32 (axis0 4)" in repr(store)
    assert [each.where for each in ua.list_stores(tmp_path)] == [store.where]
    assert len(ua.open_store(store.path)) == len(ua.open_store("encoder", cache=str(tmp_path))) == 10


def test_a_folder_without_stores_is_no_cache(tmp_path: Path) -> None:
    store = ua.write_store(tmp_path / "cache", "mine", "features", "encoder", features(2))
    cache = str(tmp_path / "cache")
    for folder in (store.path, store.path.parent, store.path.parents[1]):
        with pytest.raises(ua.MissingCache, match=f"{folder} is a part of the cache {cache}: give that"):
            ua.list_stores(folder)
    with pytest.raises(ua.MissingCache, match=f"no stores in {tmp_path} itself, but in {cache}: give that"):
        ua.list_stores(tmp_path)
    with pytest.raises(ua.MissingCache, match=r"there is no folder .*cahce; `unialign extract` makes stores"):
        ua.list_stores(tmp_path / "cahce")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ua.MissingCache, match="no stores in"):
        ua.list_stores(tmp_path / "empty")


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERE", "cache")
    store = ua.write_store("~/$WHERE", "lab", "poses", "encoder", {"a": {"x": np.zeros(2, dtype="float32")}})
    assert store.path.is_relative_to(tmp_path / "home" / "cache")
    assert ua.open_store("encoder", cache="~/cache").ids == ua.list_stores("$HOME/cache")[0].ids == ("a",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_writing_again_adds_what_is_new_and_replaces_what_changed(tmp_path: Path) -> None:
    ua.write_store(tmp_path, "mine", "features", "encoder", features(4))
    changed = {**features(6), "s01": {"feature": np.full(4, 77, np.float32)}}
    store = ua.write_store(tmp_path, "mine", "features", "encoder", changed)
    assert len(store) == 6
    assert store["s01"]["feature"][0] == 77
    # The first shard, and one with the two new samples and the changed one.
    assert len(store.table.shards.numbers) == 2
    assert len(ua.write_store(tmp_path, "mine", "features", "encoder", changed).table.shards.numbers) == 2


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "no samples"),
        ({"a": {"x": np.zeros(3)}, "b": {"x": np.zeros(4)}}, "'b'.*ragged=True"),
        ({"a": {"x": np.zeros(3)}, "b": {"x": np.zeros(3, np.float32)}}, "'b'.*float32.*convert"),
        ({"a": {"x": np.zeros(3)}, "b": {"y": np.zeros(3)}}, "'b' lacks the array 'x'"),
        ({"a": {"x": np.zeros(3)}, "b": {"x": np.zeros(3), "y": np.zeros(3)}}, "'b' has the array 'y'"),
        ({"a": {"x": np.zeros(3)}, 5: {"x": np.zeros(3)}}, "sample id 5 is not a string"),
        ([("a", {"x": np.zeros(3)}), ("a", {"x": np.zeros(3)})], "'a' is given twice"),
        ({"a": np.zeros(3)}, "'a' is of type ndarray; give a dict of arrays"),
        ({"a": {"x": np.zeros(3)}, "b": np.zeros(3)}, "'b' is of type ndarray; give a dict of arrays"),
    ],
)
def test_samples_that_do_not_fit_are_an_error_that_names_them(tmp_path: Path, samples: object, message: str) -> None:
    with pytest.raises(ua.UsageError, match=message):
        ua.write_store(tmp_path, "mine", "features", "encoder", samples)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["parameters", "attributes"])
@pytest.mark.parametrize("value", [np.float32(1), float("nan"), Path("x"), {"deep": {1, 2}}], ids=str)
def test_what_json_cannot_hold_is_named(tmp_path: Path, what: str, value: object) -> None:
    with pytest.raises(ua.UsageError, match=rf"{what}: rate is .* not a JSON value"):
        ua.write_store(tmp_path, "mine", "features", "encoder", features(), **{what: {"rate": value}})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_batches_are_joined_by_id_and_the_same_each_time(tmp_path: Path) -> None:
    one = ua.write_store(tmp_path, "mine", "features", "one", features(10))
    two = ua.write_store(tmp_path, "mine", "others", "two", dict(list(features(8, 10.0).items())[::-1]))
    batches = ua.batches([one, two], batch_size=3, seed=5)
    assert len(batches) == 3
    epochs = [[batch["indices"].tolist() for batch in batches] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(place for batch in epochs[0] for place in batch) == list(range(8))
    assert [batch["indices"].tolist() for batch in batches.epoch(0)] == epochs[0]
    for batch in batches:
        torch.testing.assert_close(batch["features.feature"] * 10, batch["others.feature"])
    in_order = ua.batches([one, two], batch_size=3, shuffle=False)
    assert [batch["indices"].tolist() for batch in in_order] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    with pytest.raises(ua.MissingCache, match="s09"):
        ua.batches([one, two], batch_size=3, ids=["s01", "s09"])


def test_a_stock_data_loader_gives_samples_and_whole_batches(tmp_path: Path) -> None:
    store = ua.write_store(tmp_path, "mine", "features", "one", features(10))
    samples = ua.dataset(store, labels={name: int(name[1:]) for name in features(10)})
    assert samples[3]["id"] == "s03"
    assert samples[-1]["label"] == 9
    for workers in (0, 1):
        context = "fork" if workers else None
        loader = DataLoader(samples, batch_size=4, num_workers=workers, multiprocessing_context=context)
        found = list(loader)
        assert [len(batch["id"]) for batch in found] == [4, 4, 2]
        assert torch.cat([batch["feature"] for batch in found])[:, 0].tolist() == list(range(10))
        assert torch.cat([batch["label"] for batch in found]).tolist() == list(range(10))
    whole = DataLoader(samples, sampler=[[0, 2], [4, 6, 8]], batch_size=None)  # type: ignore[arg-type]
    assert [batch["feature"].shape for batch in whole] == [(2, 4), (3, 4)]
    with pytest.raises(IndexError):
        samples[10]


def test_a_window_is_asked_for_where_samples_differ_in_length(tmp_path: Path) -> None:
    store = poses_store(tmp_path, made_dataset())
    with pytest.raises(ua.UsageError, match="window"):
        ua.batches(store, batch_size=4)
    batch = next(iter(ua.batches(store, batch_size=4, window=5, arrays=["keypoints"])))
    assert batch["keypoints"].shape[:2] == (4, 5)
    assert set(batch) == {"keypoints", "indices"}


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ua.UsageError, match="short_sid"):
        ua.extract("frames", dataset="folder", data=tmp_path, extract__frames__short_sid=64)
    with pytest.raises(ua.UsageError, match="known are poses"):
        ua.extract("pose", dataset="folder", data=tmp_path)


WRONG = [
    ("batches", {"seed": "a"}, "seed is 'a'; it must be a whole number, at least 0"),
    ("batches", {"seed": -1}, "seed is -1"),
    ("batches", {"batch_size": 4.0}, "batch_size is 4.0; it must be a whole number, at least 1"),
    ("batches", {"batch_size": True}, "batch_size is True"),
    ("batches", {"batch_size": 0}, "batch_size is 0"),
    ("batches", {"window": -1}, "window is -1; it must be a whole number, at least 0"),
    ("batches", {"window": None}, "window is None"),
    ("batches", {"window_shards": 1.5}, "window_shards is 1.5"),
    ("batches", {"ids": "s01"}, "ids is 's01'; it must be a list of names, or None"),
    ("batches", {"ids": [1]}, r"ids is \[1\]"),
    ("batches", {"arrays": "feature"}, "arrays is 'feature'; it must be a list of names"),
    ("batches", {"labels": [0, 1]}, "labels is .*; it must be a mapping from id to a whole number"),
    ("batches", {"labels": {"s01": "jump"}}, "labels is"),
    ("batches", {"shuffle": "no"}, "shuffle is 'no'; it must be True or False"),
    ("batches", {"stores": "cache"}, "stores is 'cache'; it must be a store that unialign.open_store gave"),
    ("batches", {"stores": [None]}, "stores is"),
    ("batches", {"size": 3}, "got an unexpected keyword argument 'size'"),
    ("dataset", {"window": 2.5}, "window is 2.5"),
    ("dataset", {"labels": {1: 2}}, "labels is"),
    ("open_store", {"place": 5}, "place is 5; it must be a path"),
    ("open_store", {"place": "a\0b"}, "place is"),
    ("open_store", {"place": ""}, "place is ''"),
    ("open_store", {"place": "x", "cache": 3}, "cache is 3"),
    ("list_stores", {"cache": None}, "cache is None"),
    ("load_dataset", {"name": 3, "root": "x"}, "name is 3; it must be a name"),
    ("load_dataset", {"name": "folder", "root": None}, "root is None"),
    ("load_dataset", {"name": "folder", "root": "x", "roots": "y"}, "roots is 'y'; it must be a list of paths"),
    ("load_dataset", {"name": "folder"}, "missing a required argument: 'root'"),
    ("extract", {"modality": ["poses"]}, "modality is"),
    ("extract", {"modality": "poses", "repair": 1}, "repair is 1"),
    ("extract", {"modality": "poses", "progress": 5}, "progress is 5"),
    ("extract", {"modality": "poses", "config": 7}, "config is 7; it must be a configuration, or the path of one"),
    ("train", {"online": "yes"}, "online is 'yes'"),
    ("train", {"config": {"cache": "x"}}, "config is"),
    ("evaluate", {"run": 1}, "run is 1"),
    ("evaluate", {"run": "x", "best": 1}, "best is 1"),
    ("ablate", {"grid": "modalities", "jobs": 0}, "jobs is 0; it must be a whole number, at least 1, or None"),
    ("report", {"what": 3}, "what is 3"),
    ("report", {"out": ""}, "out is ''"),
    ("ablate", {"grid": "modalities", "cluster": 4}, "cluster is 4"),
    ("ablate", {"grid": {}}, "grid is {}"),
]


@pytest.mark.parametrize(("function", "arguments", "sentence"), WRONG)
def test_a_wrong_argument_is_one_sentence(
    tmp_path: Path, function: str, arguments: dict[str, object], sentence: str
) -> None:
    if function in ("batches", "dataset"):
        store = ua.write_store(tmp_path, "mine", "pose-features", "encoder", features())
        arguments = {"stores": store, **({"batch_size": 4} if function == "batches" else {}), **arguments}
    with pytest.raises(ua.UsageError, match=sentence) as refused:
        getattr(ua, function)(**arguments)
    assert str(refused.value).startswith(f"unialign.{function}: ")
    assert "\n" not in str(refused.value)


def test_numbers_and_names_of_numpy_are_taken(tmp_path: Path) -> None:
    store = ua.write_store(tmp_path, "mine", "pose-features", "encoder", features())
    ids = np.array(["s01", "s02"])
    found = ua.batches(
        store, batch_size=np.int64(2), ids=ids, labels={name: np.int64(1) for name in ids}, shuffle=False
    )
    assert [batch["labels"].tolist() for batch in found] == [[1, 1]]
    assert ua.batches.__doc__
    assert "Batches of several stores" in ua.batches.__doc__
