"""Contract of the configuration: flags over environment over file; unknown keys and wrong kinds are one clear error."""

from pathlib import Path

import pytest

from unialign.cache.errors import UsageError
from unialign.pipeline.config import load_config


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text("cache: from-file\ndata: from-file\ndataset: from-file\n")
    found = load_config(
        {"data": Path("from-flag")},
        file=file,
        environment={"UNIALIGN_CACHE": "from-environment", "UNIALIGN_DATA": "from-environment"},
    )
    assert (str(found.data), str(found.cache), found.dataset) == ("from-flag", "from-environment", "from-file")


def test_overrides_set_nested_values_of_their_own_kind() -> None:
    found = load_config({}, ["extract.poses.confidence=0.5", "train.settings.epochs=3"], environment={})
    assert found.extract.poses.confidence == 0.5
    assert found.train.settings == {"epochs": 3}


@pytest.mark.parametrize(("text", "value"), [("8e-5", 8e-5), ("1E3", 1e3), ("-.5e+2", -50.0), ("2.5e-1", 0.25)])
def test_numbers_with_an_exponent_need_no_point(tmp_path: Path, text: str, value: float) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text(f"train: {{settings: {{lr: {text}}}}}\n")
    for found in (load_config({}, [f"train.settings.lr={text}"], environment={}), load_config({}, file=file)):
        assert found.train.settings == {"lr": value}
    words = load_config({}, ["train.templates=['8e-5 {}', e5]", "train.stores.text=e5-0123"], environment={}).train
    assert words.templates == ("8e-5 {}", "e5")
    assert words.stores == {"text": "e5-0123"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extract.poses.confidense=0.5", "unknown key 'extract.poses.confidense'.*confidence"),
        ("cash=1", "unknown key 'cash'.*cache"),
        ("extract.poses.confidence=high", "extract.poses.confidence: input should be a valid number"),
        ("extract.poses.image_size=100", "multiple of 32"),
        ("extract.frames.encoding=gif", "extract.frames.encoding: input should be 'jpeg' or 'rgb24'"),
        ("nonsense", "key.sub=value"),
        ("train.settings.lr=[1", r"'train\.settings\.lr=\[1': '\[1' is no value of YAML"),
        ("data.sub=1", "data"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config({}, [override], environment={"UNIALIGN_DATA": "x"} if override.startswith("data") else {})


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("just words", "key: value"), ("- 1", "key: value")]
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"broken.yaml.*{message}"):
        load_config({}, file=file, environment={})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_config({}, file=tmp_path / "none.yaml", environment={})


def test_a_store_is_chosen_by_its_modality_also_where_that_has_a_hyphen() -> None:
    found = load_config({}, ["train.stores.pose-features=web", "extract.pose-features.num-offsets=2"])
    assert found.train.stores == {"pose-features": "web"}
    assert found.extract.pose_features.num_offsets == 2
