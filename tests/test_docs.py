"""The documents say what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import unialign
from tests import configuration_tables
from unialign.cli import app
from unialign.commands.options import FLAGS
from unialign.pipeline.config import Config, configuration_rows
from unialign.stages.datasets.catalog import DATASETS
from unialign.stages.datasets.labels_csv import DESCRIPTION_COLUMNS, GROUP_COLUMNS, LABEL_COLUMNS, PATH_COLUMNS
from unialign.stages.datasets.splits import PARTS

ROOT = Path(__file__).resolve().parents[1]


def test_the_configuration_page_has_the_tables_of_the_fields() -> None:
    page = configuration_tables.PAGE.read_text(encoding="utf-8")
    assert page == configuration_tables.written(page), "update it: python -m tests.configuration_tables"
    assert [row.key for row in configuration_rows() if not row.meaning] == []


def test_the_examples_of_the_configuration_page_are_valid() -> None:
    page = configuration_tables.PAGE.read_text(encoding="utf-8")
    for example in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        assert Config.model_validate(yaml.safe_load(example), context={})


def test_help_and_configuration_name_every_dataset() -> None:
    (row,) = (row for row in configuration_rows() if row.key == "dataset")
    assert [name for name in DATASETS if name not in row.meaning] == []


def test_every_command_is_documented_and_has_an_example() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in commands():
        shown = help_of(command)
        assert f"Example: unialign {command}" in shown, command
        assert command.split()[-1] in page


def commands(group: Any = None, before: str = "") -> list[str]:
    """Every command, with the names of its groups."""
    group = group or get_command(app)
    found: list[str] = []
    for name, command in group.commands.items():
        found += commands(command, f"{before}{name} ") if hasattr(command, "commands") else [f"{before}{name}"]
    return found


def help_of(command: str, width: int = 80) -> str:
    shown = CliRunner().invoke(app, [*command.split(), "-h"], env={"COLUMNS": str(width)}, terminal_width=width)
    assert shown.exit_code == 0
    return " ".join(shown.output.split())


@pytest.mark.parametrize("command", ["", "extract", "cache", *commands()])
def test_help_is_whole_sentences_at_any_width(command: str) -> None:
    shown = help_of(command)
    assert not re.search(r"[a-z,]\.\.\.(?! *[\])])", shown.replace("[ARGS]...", "").replace("KEY=VALUE]...", "")), shown
    assert re.sub("[- ]", "", shown) == re.sub("[- ]", "", help_of(command, 120))


def test_help_shows_keys_defaults_choices_and_limits() -> None:
    shown = help_of("extract poses")
    assert (
        "--confidence NUMBER Minimum detection confidence. [extract.poses.confidence; default: 0.25; at least 0"
        in shown
    )
    assert "--source [video|skeleton]" in shown
    assert "[cache; default: cache; environment: UNIALIGN_CACHE]" in shown
    keys = {row.key for row in configuration_rows()}
    assert set(FLAGS) <= keys
    for key, flag in FLAGS.items():
        command = " ".join(key.split(".")[:2]).replace("_", "-") if key.count(".") == 2 and "extract" in key else ""
        assert flag in help_of(command or ("extract poses" if "extract" in key else "config show")), key


PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (heading and heading not in headings(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    pages = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in PAGES if ROOT / "docs" in path.parents
    }
    listed: set[str] = set()
    for name in pages:
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            entries = [line for line in block.split("\n") if line and not line.startswith(":")]
            listed |= {(Path(name).parent / entry).as_posix() for entry in entries}
    assert pages - listed == {"index"}


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: unialign\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in unialign.__all__ if name != "__version__")


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made from the text everywhere."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_page_on_data_sets_lists_every_value_that_is_understood() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    columns = (*PATH_COLUMNS, *LABEL_COLUMNS, *DESCRIPTION_COLUMNS, *GROUP_COLUMNS)
    assert [word for word in (*PARTS, *columns) if f"`{word}`" not in page] == []
