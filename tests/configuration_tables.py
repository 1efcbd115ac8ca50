"""The tables of docs/configuration.md, made from the fields of the configuration.

    python -m tests.configuration_tables

writes them into the page; tests/test_docs.py fails as long as the page has others.
"""

import re
from itertools import groupby
from pathlib import Path

import yaml

from unialign.pipeline.config import configuration_rows
from unialign.settings import SettingRow

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
BEGIN, END = "<!-- begin: python -m tests.configuration_tables -->\n", "<!-- end -->\n"


def section_of(row: SettingRow) -> str:
    return row.key.rpartition(".")[0]


def tables() -> str:
    """A heading and a table for each section, in the order of the file."""
    lines = []
    for section, rows in groupby(configuration_rows(), section_of):
        lines += [f"### {f'`{section}`' if section else 'Top level'}", ""]
        lines += ["| key | default | value | meaning |", "|---|---|---|---|"]
        lines += [f"| `{row.key.rpartition('.')[2]}` | {default(row)} | {value(row)} | {row.meaning} |" for row in rows]
        lines += [""]
    return "\n".join(lines).replace("\n\n### ", "\n\n### ")


def default(row: SettingRow) -> str:
    text = yaml.safe_dump(row.default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def value(row: SettingRow) -> str:
    choices = row.range.removeprefix("one of ")
    return ", ".join(f"`{each}`" for each in choices.split(", ")) if choices != row.range else kind(row)


def kind(row: SettingRow) -> str:
    return f"{row.type}, {row.range}" if row.range else row.type


def written(page: str) -> str:
    """The page with the tables of now. It must have both marks."""
    found = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{tables()}\n{END}", page, flags=re.DOTALL)
    assert BEGIN in page
    return found


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
