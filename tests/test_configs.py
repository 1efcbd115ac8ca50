"""The ready configurations say what the commands that they stand for do."""

from pathlib import Path

import pytest

from unialign.errors import UsageError
from unialign.pipeline.ablation.grid import read_grid, ready_grids
from unialign.pipeline.config import RECIPES, load_config
from unialign.pipeline.config_origins import value_origins
from unialign.pipeline.demo import demo_config

REAL = Path(__file__).resolve().parents[1] / "configs" / "real"


@pytest.mark.parametrize("path", sorted(REAL.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_ready_configuration_names_only_settings_that_exist(path: Path) -> None:
    assert load_config({}, file=path, environment={}).train.settings.epochs > 0


def test_the_configuration_of_the_demo_trains_as_the_demo_does_so_that_its_runs_are_used_again() -> None:
    config, demo = load_config({}, file=REAL / "demo.yaml", environment={}), demo_config(Path("demo"))
    assert (config.dataset, config.data, config.cache, config.runs) == (demo.dataset, demo.data, demo.cache, demo.runs)
    assert config.train.unialign == demo.train.unialign
    assert config.train.settings.identity() == demo.train.settings.identity()


def test_a_recipe_takes_places_from_the_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where data, cache and runs are is the user's; how to train is the paper's."""
    monkeypatch.chdir(tmp_path)
    own = "data: set\ndataset: {}\ncache: here\nruns: there\nprotocol: xsub\ntrain: {{settings: {{epochs: 3}}}}\n"
    (tmp_path / "unialign.yaml").write_text(own.format("ntu60"))
    recipe = load_config({}, file=Path("art-ntu60"), environment={})
    assert (recipe.data, recipe.cache, recipe.runs) == (Path("set"), Path("here"), Path("there"))
    assert (recipe.protocol, recipe.train.settings.epochs) == ("xview", 50)
    found = value_origins(recipe.dump(), {}, file=Path("art-ntu60"), environment={})
    assert (found["data"], found["runs"]) == ("unialign.yaml:1", "unialign.yaml:4")
    assert found["train.settings.epochs"].startswith(str(RECIPES / "art-ntu60.yaml"))
    # Data of another dataset are none of the recipe's.
    (tmp_path / "unialign.yaml").write_text(own.format("folder"))
    recipe = load_config({}, file=Path("art-ntu60"), environment={})
    assert (recipe.dataset, recipe.data, recipe.cache) == ("ntu60", None, Path("here"))
    # Any other file stands alone.
    (tmp_path / "mine.yaml").write_text("dataset: ntu60\n")
    assert load_config({}, file=Path("mine.yaml"), environment={}).cache == Path("cache")


def test_a_ready_grid_is_found_by_its_name_and_an_unknown_one_lists_them() -> None:
    assert read_grid("modalities").name == "modalities"
    assert set(ready_grids()) >= {"modalities", "cmsa", "text", "art", "alt", "dvta"}
    assert all(ready_grids().values())
    for wrong in ("modality", "../grids/modalities", "missing.yaml"):
        with pytest.raises(UsageError, match="neither a file nor one that comes with the package: alt, "):
            read_grid(wrong)
