"""Contract of the configuration: flags over environment over file; unknown keys and wrong kinds are one clear error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from unialign.errors import UsageError
from unialign.pipeline.ablation.grid import read_grid
from unialign.pipeline.config import Config, load_config, with_values
from unialign.pipeline.yaml_values import read_yaml


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
    assert (found.train.settings.epochs, found.train.settings.batch_size) == (3, 24)


@pytest.mark.parametrize(("text", "value"), [("8e-5", 8e-5), ("1E3", 1e3), ("-.5e+2", -50.0), ("2.5e-1", 0.25)])
def test_numbers_with_an_exponent_need_no_point(tmp_path: Path, text: str, value: float) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text(f"train: {{dvta: {{calibration: {text}}}}}\n")
    for found in (load_config({}, [f"train.dvta.calibration={text}"], environment={}), load_config({}, file=file)):
        assert found.train.dvta.calibration == value
    words = load_config({}, ["train.templates=['8e-5 {}', e5]", "train.stores.text=e5-0123"], environment={}).train
    assert words.templates == ("8e-5 {}", "e5")
    assert words.stores == {"text": "e5-0123"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "extract.poses.confidense=0.5",
            "unknown key 'extract.poses.confidense'; did you mean extract.poses.confidence\\?",
        ),
        ("cash=1", "unknown key 'cash'; did you mean cache\\?"),
        ("extract.poses.confidence=high", "extract.poses.confidence: input should be a valid number"),
        ("extract.poses.image_size=100", "multiple of 32"),
        ("extract.frames.num_frames=true", "extract.frames.num_frames: should be a number, not true"),
        ("extract.frames.encoding=gif", "extract.frames.encoding: input should be 'jpeg' or 'rgb24'"),
        ("nonsense", "key.sub=value"),
        ("train.settings.lr=[1", r"'train\.settings\.lr=\[1': '\[1' is not valid YAML"),
        ("data.sub=1", "data"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config({}, [override], environment={"UNIALIGN_DATA": "x"} if override.startswith("data") else {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("just words", "key: value"),
        ("- 1", "key: value"),
        ("train:\n\tmodel: art", r"not valid YAML.*'\\t' .*line 2"),
        ("cache: a\n---\ncache: b", "single document"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("train: 5", "train: input should be a mapping, not 5"),
        ("extract: {poses: [1]}", r"extract.poses: input should be a mapping, not \[1\]"),
        ("roots: data", "roots: input should be a valid list, not 'data'"),
        ("1: x", "unknown key|keys should be strings"),
        ("train: {remote_cache: .inf}", "train.remote_cache: input should be a finite number"),
        ("protocol: 2", "protocol: input should be a valid string"),
        (b"cache: caf\xe9", r"is not UTF-8 text \(byte 10\)"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=rf"broken.yaml.*{message}") as refused:
        load_config({}, file=file, environment={})
    assert "Section" not in str(refused.value)


def test_a_section_without_lines_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text("cache: elsewhere\nextract:\n  # threads: 2\n  poses:\ntrain:\n")
    found = load_config({}, file=file, environment={})
    assert (found.cache, found.extract, found.train) == (Path("elsewhere"), Config().extract, Config().train)


@pytest.mark.parametrize("name", ["cache", "runs"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match=f"{name}: .*x is a file; give a folder"):
        load_config({name: tmp_path / "x"}, environment={})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_config({}, file=tmp_path / "none.yaml", environment={})


def test_a_store_is_chosen_by_its_modality_also_where_that_has_a_hyphen() -> None:
    found = load_config({}, ["train.stores.pose-features=web", "extract.pose-features.num-offsets=2"])
    assert found.train.stores == {"pose-features": "web"}
    assert found.extract.pose_features.num_offsets == 2


PATH_FIELDS = (
    *("data", "cache", "runs", "weights", "labels", "train.entities", "train.backbone_weights", "train.start"),
    *("extract.poses.weights", "extract.poses.pickle", "extract.pose_features.weights", "extract.pose_features.poses"),
    *("extract.text.weights", "extract.text.templates", "extract.text.descriptions", "extract.text.entities"),
    *(
        "extract.tokens.weights",
        "extract.tokens.frames",
        "train.stores.frames",
        "extract.poses.detector",
        "extract.spool",
    ),
)


def value_of(config: Config, name: str) -> str:
    found: Any = config
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return str(found)


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_every_path_is_expanded_wherever_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environment = {"SCRATCH": "/scratch/me", "N": "1"}
    for text, meant in (
        ("~/x", f"{tmp_path}/x"),
        ("$SCRATCH/x", "/scratch/me/x"),
        ("${SCRATCH}/r$N", "/scratch/me/r1"),
        ("/mnt/c$/x", "/mnt/c$/x"),
        ("/mnt/$$SCRATCH", "/mnt/$SCRATCH"),
        ("/~/x~", "/~/x~"),
    ):
        given: list[tuple[dict[str, Any], list[str]]] = [({}, [f"{name}={text}"]), ({name: Path(text)}, [])]
        for flags, overrides in given:
            found = value_of(load_config(flags, overrides, environment=environment), name)
            assert found == meant, (name, text)
        again = with_values(load_config({}, [f"{name}={text}"], environment=environment), {"protocol": "x"})
        assert value_of(again, name) == meant


def test_every_path_field_is_among_the_expanded_ones() -> None:
    def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from paths(field.annotation, f"{prefix}{name}.")
            elif "Path" in str(field.annotation):
                yield f"{prefix}{name}"

    assert set(paths(Config)) <= {*PATH_FIELDS, "roots"}


def test_roots_are_expanded_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config({}, ["roots=[~/clips, $SCRATCH/more]"], environment={"SCRATCH": "/scratch/me"})
    assert config.roots == (Path("/home/me/clips"), Path("/scratch/me/more"))
    assert with_values(config, {"protocol": "x"}).roots == config.roots


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NOWHERE/x", "cache: the variable NOWHERE in '\\$NOWHERE/x' is not set"),
        ("${EMPTY}/x", "the variable EMPTY in .* is not set"),
        ("~nobody-of-that-name/x", "no home folder is known"),
    ],
)
def test_what_cannot_be_expanded_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text(f"cache: {text}\n")
    with pytest.raises(UsageError, match=message):
        load_config({}, file=file, environment={"EMPTY": ""})
    with pytest.raises(UsageError, match=message):
        load_config({}, environment={"UNIALIGN_CACHE": text, "EMPTY": ""})


def test_without_a_home_a_tilde_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UsageError, match="no home folder is known; write the whole path"):
        load_config({"cache": Path("~/x")}, environment={})


def test_addresses_of_remote_stores_stay_as_they_are() -> None:
    url = "https://host/~me/$bucket/x.zarr"
    assert load_config({}, [f"train.stores.frames={url}"], environment={}).train.stores == {"frames": url}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("cache: a\nruns: b\ncache: c\n", "1 and 3"),
        ("train:\n  model: art\n  model: alt\n", "2 and 3"),
        ("train: {model: art, model: art}", "1 and 1"),
        ('cache: a\n"cache": b\n', "1 and 2"),
    ],
)
def test_a_key_that_stands_twice_is_an_error_with_its_lines(tmp_path: Path, text: str, lines: str) -> None:
    file = tmp_path / "unialign.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"unialign.yaml.*the key '\w+' stands twice, in lines {lines}"):
        load_config({}, file=file, environment={})


def test_merged_keys_may_be_overridden() -> None:
    text = "a: {b: &x {<<: &y {m: 1, n: 2}, m: 3}}\nc: {<<: *x, n: 4}\n"
    assert read_yaml(text) == {"a": {"b": {"m": 3, "n": 2}}, "c": {"m": 3, "n": 4}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", 10), ("08", 8), ("0o10", 8), ("0x1F", 31), ("-3", -3), ("1.", 1.0), ("+.5", 0.5)),
        *(("1:30", "1:30"), ("12:30:45", "12:30:45"), ("2026-11-28", "2026-11-28"), ("1_000", "1_000")),
        *(("off", "off"), ("no", "no"), ("ON", "ON"), ("y", "y"), ("true", True), ("FALSE", False)),
        *(("~", None), ("", None), ("null", None), ("'1'", "1"), ("=", "="), ("e5", "e5"), ("1e5x", "1e5x")),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(f"a: {text}")
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


def test_the_configuration_of_a_run_with_all_entities_of_the_paper_is_read() -> None:
    entities = {f"entity {number}": "a word, another one: " * 30 for number in range(548)}
    assert read_yaml(yaml.safe_dump({"entities": entities})) == {"entities": entities}


def test_the_other_ending_is_read_but_not_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unialign.yml").write_text("cache: from-yml\n")
    assert str(load_config({}, environment={}).cache) == "from-yml"
    Path("unialign.yaml").write_text("cache: from-yaml\n")
    with pytest.raises(UsageError, match=r"unialign.yaml and unialign.yml both lie in .*; keep one"):
        load_config({}, environment={})
    Path("unialign.yml").unlink()
    assert str(load_config({}, environment={}).cache) == "from-yaml"


def test_a_file_that_leads_nowhere_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unialign.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(UsageError, match=r"unialign\.yaml does not exist"):
        load_config({}, environment={})


@pytest.mark.parametrize("text", ["name: x\nrows: []\nname: y", "name: x\naxes: {a.b: [1], a.b: [2]}"])
def test_a_grid_with_a_key_twice_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"grid.yaml.*stands twice"):
        read_grid(tmp_path / "grid.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rows: [{name: a}]", "'name' is missing."),
        ("name: a b\nrows: [{name: a}]", "'name' is made of letters, digits"),
        ("name: x\nrows: [{name: a}, {name: a}]", "grid.yaml: two rows have the same name."),
        ("name: x\nrow: []\nrows: [{name: a}]", "'row' is no field of a grid."),
        ("name: x\nrows: [{name: a, set: 3}]", "rows.0.set: input should be a"),
    ],
)
def test_a_wrong_grid_is_told_in_plain_words(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(UsageError) as raised:
        read_grid(tmp_path / "grid.yaml")
    assert told in str(raised.value)
    assert "Value error" not in str(raised.value)


def test_changing_a_value_within_another_one_leaves_the_callers_alone() -> None:
    settings = {"epochs": 30}
    changed = with_values(Config(), {"train.settings": settings, "train.settings.seed": 2})
    assert (changed.train.settings.epochs, changed.train.settings.seed) == (30, 2)
    assert settings == {"epochs": 30}
