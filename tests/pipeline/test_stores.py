"""Contract of choosing a store: the only one that holds anything, or the one that is named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.store import Store, create_store, open_store, store_path
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.prune import keys_of_runs, prune
from unialign.pipeline.stores import _is_current, choose_store, stale_samples
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.splits import holdout


def dataset(count: int) -> Dataset:
    """The clips of `make_files`."""
    samples = tuple(Sample(f"clip{number:03d}", number % 2, {}) for number in range(count))
    return Dataset("small", "made", Path("nowhere"), ("bow", "wave"), samples, {"holdout": holdout})


def test_the_only_store_is_taken_and_an_empty_one_is_no_choice(tmp_path: Path) -> None:
    with pytest.raises(MissingCache, match="unialign extract poses --dataset small"):
        choose_store(tmp_path, dataset(3), "poses", {})
    store = open_store(extract(tmp_path, make_files(tmp_path / "files", 3)).store)
    other = Spectrum(scale=0.5)
    key = Key(dict(other.key()))
    create_store(Store(store_path(tmp_path, "made", "poses", key), "made", "poses", key, other.arrays(), 4, {}))
    assert choose_store(tmp_path, dataset(3), "poses", {}) == store.path


def test_several_stores_are_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 3)
    first, second = extract(tmp_path, sources), extract(tmp_path, sources, Spectrum(scale=0.5))
    with pytest.raises(UsageError, match=r"2 stores hold poses.*--use poses=NAME"):
        choose_store(tmp_path, dataset(3), "poses", {})
    assert choose_store(tmp_path, dataset(3), "poses", {"poses": second.store.stem}) == second.store
    assert first.store != second.store


def test_of_several_stores_the_one_that_is_up_to_date_is_taken(tmp_path: Path) -> None:
    """Another encoder after clips were added, or replaced, leaves the features of before in the cache."""
    files = tmp_path / "files"
    extract(tmp_path, make_files(files, 3))
    whole = extract(tmp_path, make_files(files, 4), Spectrum(scale=0.5))
    assert choose_store(tmp_path, dataset(4), "poses", {}) == whole.store
    with pytest.raises(UsageError, match="2 stores hold poses"):
        choose_store(tmp_path, dataset(3), "poses", {})


def test_features_of_poses_that_were_extracted_anew_are_not_up_to_date(tmp_path: Path) -> None:
    """A clip that was replaced has new poses, in the store that the features of before were made from."""
    poses = extract(tmp_path, make_files(tmp_path / "files", 3)).store
    of_now = StoreReader(poses).sources()

    def features(sources: dict[str, str]) -> Any:
        store = SimpleNamespace(key=Key({"poses": poses.stem}))
        return SimpleNamespace(store=store, table=StoreReader(poses).table, sources=lambda: sources)

    assert _is_current(features(of_now), dataset(3), tmp_path)
    assert not _is_current(features({**of_now, "clip001": "sha256:before"}), dataset(3), tmp_path)


def test_stale_samples_are_those_whose_source_is_another_now(tmp_path: Path) -> None:
    reader = StoreReader(extract(tmp_path, make_files(tmp_path / "files", 3)).store)
    current = {name: reader.source(name) for name in reader.ids}
    assert stale_samples(reader, current) == []
    assert stale_samples(reader, {**current, "clip001": "sha256:other", "clip002": ""}) == ["clip001"]


def test_pruning_keeps_what_runs_name_and_their_inputs(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 3)
    named, unnamed = extract(tmp_path, sources), extract(tmp_path, sources, Spectrum(scale=0.5))
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "keys.json").write_text(json.dumps({"stores": {"poses": {"key": named.key.digest}}}))
    assert keys_of_runs(tmp_path / "runs") == {named.key.digest}
    assert [found.path for found in prune(tmp_path, tmp_path / "runs", dry_run=False).removed] == [unnamed.store]
    assert named.store.exists()
