"""The tables of figures in the documents are what `make results` writes from the JSON files of benchmarks/results."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_make_results_writes() -> None:
    text = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert results().page(text) == text


def test_every_file_of_results_has_its_table_and_every_table_its_file() -> None:
    named = re.findall(r"<!-- results: (\w+) -->", (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json"))


def test_meta_another_figure_changes_the_page(tmp_path: Path) -> None:
    module = results()
    text = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    for path in module.RESULTS.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        found["encoders"][0]["top1"] -= 0.05
        (tmp_path / path.name).write_text(json.dumps(found), encoding="utf-8")
    module.RESULTS = tmp_path
    assert module.page(text) != text
