"""CONTRIBUTING.md names files and tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_file_that_the_steps_name_exists() -> None:
    steps = PAGE[PAGE.index("## Where to add what") :]
    # Below the package, beside the file that was named before, or below the top of the checkout.
    named = [name for name in re.findall(r"`([\w/.-]+\.(?:py|md|yaml))`", steps) if "<" not in name]
    known = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md")}
    known |= {
        path.relative_to(ROOT).as_posix() for top in ("unialign", "tests", "docs") for path in (ROOT / top).rglob("*")
    }
    assert len(named) > 20
    assert [name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in known)] == []


def test_the_commands_that_run_one_test_name_tests_that_exist() -> None:
    commands = re.findall(r"-m pytest (\S+)(?: -k (\w+))?", PAGE)
    assert len(commands) >= 2
    for path, word in commands:
        assert word in (ROOT / path).read_text(encoding="utf-8")


def test_the_table_counts_the_lines_of_the_plugins() -> None:
    folder = ROOT / "tests/third_party/unialign_lab"
    counted = re.findall(r"\| (\d+) \(((?:`\w+\.py`(?:, )?)+)\) \|", PAGE)
    assert len(counted) == 4
    for lines, files in counted:
        found = [(folder / name).read_text(encoding="utf-8") for name in re.findall(r"\w+\.py", files)]
        assert sum(len(text.splitlines()) for text in found) == int(lines), files
