"""Samples of a pickle are stale one by one: extraction does the changed ones again, training asks for it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unialign.cache.digests import file_digest
from unialign.cache.reader import StoreReader
from unialign.errors import StaleCache
from unialign.pipeline.config import Config, load_config
from unialign.pipeline.datasets import rooted_dataset
from unialign.pipeline.extraction.extract import Extraction
from unialign.pipeline.extraction.extractors import extract_configured
from unialign.pipeline.training.from_config import cached_readers
from unialign.stages.datasets.pyskl import PysklAnnotation


def pickled(path: Path, seeds: dict[str, int]) -> Path:
    """A pickle with a clip per name; what it shows depends on the seed."""
    entries: list[dict[str, Any]] = []
    for label, (name, seed) in enumerate(seeds.items()):
        points = np.random.default_rng(seed).normal(size=(1, 4, 25, 3)).astype(np.float32)
        entries.append({"frame_dir": name, "label": label % 2, "total_frames": 4, "keypoint": points})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"split": {"train": ["a", "b"], "val": ["c"]}, "annotations": entries}))
    return path


def configured(path: Path, cache: Path) -> Config:
    values = {"data": path, "cache": cache, "dataset": "pyskl", "extract.poses.source": "skeleton"}
    return load_config(values, environment={}, file=None)


def extract(config: Config) -> Extraction:
    return extract_configured("poses", rooted_dataset(config), config)


def check(config: Config) -> None:
    cached_readers(["poses"], rooted_dataset(config), config, check=True)


def test_only_changed_clips_are_stale(tmp_path: Path) -> None:
    config = configured(pickled(tmp_path / "set.pkl", {"a": 1, "b": 2, "c": 3}), tmp_path / "cache")
    assert extract(config).extracted == 3
    check(config)
    pickled(tmp_path / "set.pkl", {"c": 3, "b": 9, "a": 1})
    with pytest.raises(StaleCache, match=r"1 sample was made from other sources .*\(b\)"):
        check(config)
    assert (extract(config).extracted, extract(config).extracted) == (1, 0)
    check(config)


def test_a_store_whose_records_hold_the_digest_of_the_file_stays_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(pickled(tmp_path / "set.pkl", {"a": 1, "b": 2, "c": 3}), tmp_path / "cache")
    whole = file_digest(tmp_path / "set.pkl")
    with monkeypatch.context() as before:
        before.setattr(PysklAnnotation, "digest", whole)
        store = extract(config).store
    assert set(StoreReader(store).sources().values()) == {whole}
    check(config)
    assert extract(config).attempted == 0
    pickled(tmp_path / "set.pkl", {"a": 1, "b": 9, "c": 3})
    with pytest.raises(StaleCache, match="3 samples"):
        check(config)
    assert extract(config).extracted == 3
    check(config)
