"""Contract of run keys: a run that was made earlier is found again and opened, whatever reads its settings today.

`old_runs/` holds the config.yaml of a run of each system, and their keys, as they were written before settings were
pydantic models. A new setting must leave both as they are where it has its default, see `Settings.before`. The keys
of `unialign` and `art` changed once, with what they compute: the gradient of a text bank has a norm of its own. That of
`unialign` changed again, without a val part: its aligned head answers, where it was the mean of both. That of `dvta`
was written anew by the earlier version for a generalised protocol, since a test of a single class is refused.
"""

import json
from pathlib import Path

import pytest
import yaml

from tests.golden.curves import known_networks, make_caches
from unialign.cache.keys import digest
from unialign.cache.reader import StoreReader
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.evaluation.evaluate import prepare_again
from unialign.pipeline.systems.registry import SYSTEMS, get_system, section_of
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.run_data import data_digest, data_rows, data_text
from unialign.pipeline.training.train import prepare_run, store_keys

OLD = Path(__file__).parent / "old_runs"
KEYS: dict[str, str] = json.loads((OLD / "keys.json").read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_caches(tmp_path_factory.mktemp("old"))


@pytest.mark.parametrize("name", SYSTEMS.own)
def test_an_earlier_run_has_the_key_that_it_had(name: str, cache: Path, tmp_path: Path) -> None:
    old = yaml.safe_load((OLD / f"{name}.yaml").read_text())
    section = section_of(name)
    # As a user would write it today: the keys of the configuration, with plain values, and what was the default then.
    then = {**get_system(name).config.before, **old[section]}
    chosen = {"train.model": name, f"train.{section}": then, "train.settings": old["settings"]}
    config = with_values(Config(), {"dataset": "tiny", "cache": cache, "protocol": old["protocol"], **chosen})
    dataset = the_dataset(config)
    readers = {path.parent.name: StoreReader(path) for path in (cache / dataset.collection).glob("*/*.zarr")}
    with known_networks(tmp_path):
        asked = prepare_run(
            name,
            dataset,
            protocol=config.protocol,
            readers=readers,
            config=getattr(config.train, section),
            settings=config.train.settings,
            options=Options(),
        )
        again = prepare_again(old, dataset, readers, old["settings"]["num_workers"])
    for prepared in (asked, again):
        assert dict(prepared.config) == old
        table = data_digest(data_text(data_rows(prepared)))
        assert digest(prepared.identity(store_keys(prepared.readers), table)) == KEYS[name]
