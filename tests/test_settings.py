"""Contract of settings: fields say their own range and meaning, wrong keys are answered with the one that was meant."""

import pickle
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from unialign.errors import UsageError
from unialign.pipeline.config import Config, configuration_rows, with_values
from unialign.settings import SettingRow, Settings, checked, setting_rows


class Inner(Settings, strict=True):
    depth: int = Field(3, ge=1, lt=9, description="How deep\n it goes.")
    kinds: Annotated[tuple[Literal["a", "b"], ...], Field(strict=False)] = ("a",)
    span: Annotated[tuple[int | float, int | float], Field(strict=False)] = (0, 0.5)


class Outer(Settings):
    place: Path | None = None
    rate: float = Field(0.5, gt=0, title="learning rate")
    side: int = Field(64, multiple_of=32)
    inner: Inner = Inner()


def test_a_row_has_the_type_the_default_the_range_and_the_meaning() -> None:
    assert list(setting_rows(Outer)) == [
        SettingRow("place", "path, or null", None, "", ""),
        SettingRow("rate", "number", 0.5, "above 0", "", "learning rate"),
        SettingRow("side", "integer", 64, "multiple of 32", ""),
        SettingRow("inner.depth", "integer", 3, "at least 1, below 9", "How deep it goes."),
        SettingRow("inner.kinds", "list of strings", ["a"], "each one of a, b", ""),
        SettingRow("inner.span", "list of 2 numbers", [0, 0.5], "", ""),
    ]


def test_every_key_of_training_says_what_it_means() -> None:
    rows = {row.key: row for row in configuration_rows()}
    assert rows["train.alt.tower"].range == "one of tuned, frozen, cached"
    assert rows["train.settings.epochs"].default == 50
    assert not [key for key, row in rows.items() if key.startswith("train.") and not row.meaning]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, r"unknown key 'x.rat'; did you mean x.rate\?$"),
        ({"lerning_rate": 1}, r"unknown key 'x.lerning_rate'; did you mean x.rate\?$"),
        ({"dept": 1}, r"unknown key 'x.dept'; did you mean x.inner.depth\?$"),
        ({"inner": {"dept": 1}}, r"unknown key 'x.inner.dept'; did you mean x.inner.depth\?$"),
        ({"iner": {}}, r"unknown key 'x.iner'; did you mean x.inner\?$"),
        ({"zzz": 1}, r"unknown key 'x.zzz'; known here: place, rate, side, inner\.$"),
        ({"rate": True}, r"x.rate: should be a number, not true\.$"),
        ({"inner": {"depth": "4"}}, r"x.inner.depth: input should be a valid integer, not '4'\.$"),
        ({"inner": {"kinds": ["a", "c"]}}, r"x.inner.kinds.1: input should be 'a' or 'b', not 'c'\.$"),
        ({"side": 33, "rate": 0}, r"x.rate: .* greater than 0, not 0; x.side: .* multiple of 32, not 33\.$"),
    ],
)
def test_what_is_wrong_is_one_sentence(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        checked(Outer, values, "x")


def test_settings_are_frozen_and_copies_are_checked() -> None:
    inner = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        inner.depth = 4
    assert inner.replaced(depth=4).depth == 4
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        inner.replaced(depth=0)


def test_numbers_stay_as_they_were_written_since_run_keys_are_made_of_them() -> None:
    assert Inner(span=[0, 1]).plain() == {"depth": 3, "kinds": ["a"], "span": [0, 1]}
    assert [type(value) for value in Inner(span=[0, 0.5]).plain()["span"]] == [int, float]


def test_a_configuration_travels_to_another_process_with_the_settings_of_systems() -> None:
    config = with_values(Config(), {"train.alt.num_frames": 4, "train.model": "alt"})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.train.alt.num_frames == 4
    assert again.dump()["train"]["alt"]["num_frames"] == 4


def test_values_that_contradict_each_other_are_refused_when_they_are_read() -> None:
    with pytest.raises(UsageError, match=r"train.alt: num_prompts belong into a frozen tower"):
        with_values(Config(), {"train.alt.num_prompts": 2})
    with pytest.raises(UsageError, match=r"train.settings: warmup_epochs is 60; it must be below epochs"):
        with_values(Config(), {"train.settings.warmup_epochs": 60.0})
