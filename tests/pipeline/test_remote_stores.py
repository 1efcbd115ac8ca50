"""Contract of `train.stores.<modality>: URL`: the same training as from local stores, with blocks below the cache."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cache.made_remote import serving
from tests.made_stores import COLLECTION, frames_store, made_dataset, pose_features_store, text_store
from tests.pipeline.made_training import MODEL, SETTINGS, tiny_training
from unialign.cache.index import write_index
from unialign.cache.reader import StoreReader
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.evaluation.gallery import draw_run
from unialign.pipeline.stores import open_chosen
from unialign.pipeline.training.from_config import cached_readers
from unialign.pipeline.training.train import train_model


def test_a_training_from_urls_gives_the_numbers_of_a_local_one_and_is_evaluated_from_them(tmp_path: Path) -> None:
    dataset = made_dataset()
    folder = tmp_path / "site"
    stores = {"frames": frames_store(folder, dataset), "text": text_store(folder)}
    # Made from poses that are nowhere here.
    stores["pose-features"] = pose_features_store(folder, dataset, fields={"poses": "5e" * 32})
    for reader in stores.values():
        write_index(reader.store)
    with serving(tmp_path / "site") as site:
        urls = {
            name: f"{site.url}/{reader.path.relative_to(site.folder).as_posix()}" for name, reader in stores.items()
        }
        shutil.copytree(stores["text"].path, tmp_path / "cache" / stores["text"].path.relative_to(site.folder))
        chosen = f"train.stores={{frames: '{urls['frames']}', pose-features: '{urls['pose-features']}'}}"
        flags = {"cache": str(tmp_path / "cache"), "train.remote_cache": 0.1}
        config = load_config(flags, [chosen], environment={})
        readers = cached_readers(["frames", "pose-features", "text"], dataset, config, check=False)
        assert [type(reader) for reader in readers.values()] == [RemoteReader, RemoteReader, StoreReader]
        result = train_model(
            "unialign", dataset, readers=readers, model=MODEL, settings=SETTINGS, runs=tmp_path / "runs"
        )
        found = evaluate_run(result.folder, dataset, cache=tmp_path / "cache", keep=0.1)
        assert found.agrees
        assert not found.largest_change
        assert len(draw_run(result.folder, dataset, tmp_path / "cache", keep=0.1, num_samples=2)) == 3
        asked = len(site.shards_asked)
        assert asked
        used = {"frames": ["pictures", "offset", "size"], "pose-features": ["tokens"]}
        for modality, reader in cached_readers(list(used), dataset, config, check=False).items():
            assert isinstance(reader, RemoteReader)
            for name in reader.ids:
                reader.read_one(name, used[modality])
        assert len(site.shards_asked) == asked
        assert list((tmp_path / "cache" / ".remote").iterdir())
        for modality, wrong in (("frames", "pose-features"), ("poses", "frames")):
            with pytest.raises(UsageError, match=f"not {modality} of {COLLECTION}"):
                open_chosen(tmp_path, dataset, modality, {modality: urls[wrong]}, keep=0)
        with pytest.raises(MissingCache, match="it is not a store"):
            open_chosen(tmp_path, dataset, "poses", {"poses": f"{site.url}/x.zarr"}, keep=0)
    expected = tiny_training(tmp_path / "site", tmp_path / "expected")
    assert result.metrics == expected.metrics
    with np.load(result.folder / "predictions.npz") as ours, np.load(expected.folder / "predictions.npz") as theirs:
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
