"""Contract of keys, listing and pruning."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.test_store import build
from unialign.cache.atomic import PREFIX, sweep, temporary_name, write_file
from unialign.cache.inventory import find_store, summarise
from unialign.cache.keys import Key, canonical, differences, flatten
from unialign.cache.store import Store, create_store, open_store, store_path
from unialign.errors import MissingCache, UsageError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(st.text(min_size=1), values, max_size=5)


@given(fields)
def test_a_key_does_not_depend_on_the_order_of_its_fields(found: dict[str, object]) -> None:
    assert Key(found).digest == Key(dict(reversed(found.items()))).digest


@given(fields, fields)
def test_keys_differ_exactly_when_a_field_does(one: dict[str, object], two: dict[str, object]) -> None:
    same = canonical(one) == canonical(two)
    assert (Key(one).digest == Key(two).digest) == same
    if dict(flatten(one)) == dict(flatten(two)) and same:
        assert differences(one, two) == []


def test_differences_name_nested_and_absent_fields() -> None:
    one = {"extractor": "yolo", "parameters": {"confidence": 0.25, "size": 640}}
    two = {"extractor": "yolo", "parameters": {"confidence": 0.5}, "weights": "abc"}
    assert differences(one, two) == [
        {"field": "parameters.confidence", "first": 0.25, "second": 0.5},
        {"field": "parameters.size", "first": 640, "second": "(absent)"},
        {"field": "weights", "first": "(absent)", "second": "abc"},
    ]


def test_a_nan_has_no_place_in_a_key() -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        _ = Key({"threshold": float("nan")}).digest


def two_stores(cache: Path) -> tuple[Store, Store]:
    first = build(cache, bad=(3,))
    key = Key({"extractor": "other", "revision": 1})
    second = create_store(Store(store_path(cache, "made", "text", key), "made", "text", key, first.arrays, 4, {}))
    return first, second


def test_stores_are_found_by_any_unambiguous_beginning(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    assert find_store(tmp_path, "fake") == first.path
    assert find_store(tmp_path, second.key.digest[:5]) == second.path
    assert find_store(tmp_path, second.key.digest) == second.path
    assert find_store(tmp_path, "made/text") == second.path
    with pytest.raises(UsageError, match="matches 2 stores"):
        find_store(tmp_path, "made")
    with pytest.raises(MissingCache, match="cache ls"):
        find_store(tmp_path, "nothing")


def test_a_store_is_found_in_its_own_collection_first(tmp_path: Path) -> None:
    stores, arrays = {}, build(tmp_path / "made").arrays
    for collection, modality in (("folder-a", "poses"), ("folder-b", "poses"), ("folder-b", "text")):
        key = Key({"extractor": "yolo"})
        path = store_path(tmp_path, collection, modality, key)
        stores[collection, modality] = create_store(Store(path, collection, modality, key, arrays, 4, {}))
    digest = Key({"extractor": "yolo"}).digest
    for name in (digest, digest[:7], "yolo"):
        for place, store in stores.items():
            assert find_store(tmp_path, name, place) == store.path
        with pytest.raises(UsageError, match="matches 3 stores"):
            find_store(tmp_path, name)
    assert find_store(tmp_path, "folder-b/poses", ("folder-a", "poses")) == stores["folder-b", "poses"].path


def test_a_summary_counts_by_status_and_says_what_is_wrong(tmp_path: Path) -> None:
    first, _ = two_stores(tmp_path)
    found = summarise(first.path)
    assert (found.samples, found.quarantined) == (9, {"truncated": 1})
    assert found.bytes == sum(path.stat().st_size for path in first.path.rglob("c/**/*") if path.is_file())
    (first.path / "zarr.json").write_text("{}")
    assert "cannot be read" in summarise(first.path).problem


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unialign.cache.atomic.os.write", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_sweeping_removes_temporaries_only(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "kept", b"x")
    temporary_name(tmp_path / "a" / "file").write_bytes(b"torn")
    folder = temporary_name(tmp_path / "store.zarr")
    write_file(folder / "deep" / "zarr.json", b"{}")
    assert sweep(tmp_path) >= 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]
    assert not any(path.name.startswith(PREFIX) for path in tmp_path.rglob("*"))


def test_a_folder_that_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="not a store"):
        open_store(tmp_path)
