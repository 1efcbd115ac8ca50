"""Contract of groups of options: Typer sees their fields in order, commands get the groups, and keys get the values."""

import inspect
import json
from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from unialign.cli import app
from unialign.commands.groups import Data, General, given, grouped
from unialign.commands.options import key_of
from unialign.commands.train import System


def test_the_fields_of_groups_are_options_in_their_order_and_arrive_as_groups() -> None:
    seen = []

    @grouped
    def command(*, first: int = 1, data: Data, last: str = "", general: General) -> None:
        seen.append((first, data, last, general))

    names = list(inspect.signature(command).parameters)
    assert names[:6] == ["first", "dataset", "root", "cache", "labels", "last"]
    values = dict.fromkeys(names) | {"first": 3, "dataset": "folder", "as_json": True}
    command(**values)
    ((first, data, _, general),) = seen
    assert (first, data, general.as_json) == (3, Data(dataset="folder"), True)


def test_what_was_given_is_by_key_and_read_as_the_option_says() -> None:
    found = given(Data(root=Path("clips")), System(use=["poses=yolo"]), train__name="mine", train__model=None)
    assert found == {"data": Path("clips"), "train.stores": {"poses": "yolo"}, "train.name": "mine"}


def test_every_option_that_sets_a_key_reaches_the_configuration() -> None:
    """An option that a command takes and does not pass on would have no effect."""
    values = {"--use": "poses=abc", "--model": "art", "--lr": "0.5", "--batch-size": "3", "--epochs": "3"}
    values |= {"--workers": "3", "--seed": "3", "--dataset": "folder", "--device": "cpu"}
    command = get_command(app).commands["config"].commands["show"]  # type: ignore[attr-defined]
    flags = [option.opts[0] for option in command.params if key_of(getattr(option, "help", None))]
    assert set(values) <= set(flags)
    words = [word for flag in flags for word in (flag, values.get(flag, "here"))]
    shown = CliRunner().invoke(app, ["config", "show", *words, "--json"])
    origins = set(json.loads(shown.output)["origins"].values())
    assert set(flags) <= origins
