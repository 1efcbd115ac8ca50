"""The documents say what the code does."""

import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from unialign.cli import app
from unialign.pipeline.config import Config
from unialign.stages.datasets.labels_csv import DESCRIPTION_COLUMNS, GROUP_COLUMNS, LABEL_COLUMNS, PATH_COLUMNS
from unialign.stages.datasets.splits import PARTS

ROOT = Path(__file__).resolve().parents[1]


def documented() -> dict[str, Any]:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])  # type: ignore[no-any-return]


def test_the_configuration_page_lists_every_key_with_its_default() -> None:
    assert documented() == Config().dump()


def test_every_command_is_documented_and_has_an_example() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    runner = CliRunner()
    commands = ["train", "baseline", "evaluate", "ablate", "models", "corpus", "doctor", "demo"]
    commands += [f"extract {name}" for name in ("poses", "pose-features", "text", "frames", "tokens")]
    commands += [f"cache {name}" for name in ("ls", "info", "verify", "why", "prune")]
    for command in commands:
        shown = runner.invoke(app, [*command.split(), "--help"])
        assert shown.exit_code == 0
        assert f"Example: unialign {command}" in " ".join(shown.output.split()), command
        assert command.split()[-1] in page


def test_the_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


def test_the_page_on_data_sets_lists_every_value_that_is_understood() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    columns = (*PATH_COLUMNS, *LABEL_COLUMNS, *DESCRIPTION_COLUMNS, *GROUP_COLUMNS)
    assert [word for word in (*PARTS, *columns) if f"`{word}`" not in page] == []
