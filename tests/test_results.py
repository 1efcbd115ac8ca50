"""The tables of figures in the documents are what `make results` writes from the JSON files of benchmarks/results."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE = results()


@pytest.mark.parametrize("page", MODULE.PAGES, ids=lambda path: path.name)
def test_the_pages_are_what_make_results_writes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert MODULE.page(text) == text


def test_every_file_of_results_has_its_table_and_every_table_its_file() -> None:
    texts = [page.read_text(encoding="utf-8") for page in MODULE.PAGES]
    named = re.findall(r"<!-- results: (\w+) -->", "".join(texts))
    assert sorted(named) == sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", sorted(MODULE.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_meta_another_figure_changes_the_table(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    before = MODULE.table(found)
    for rows in (found.get("encoders"), found.get("rows"), found.get("baselines")):
        if rows:
            rows[0]["top1"] -= 0.05
    for split in found.get("splits", ()):
        split["top1"][0] -= 0.05
    assert MODULE.table(found) != before
