"""Contract of plug-ins and of functions named on the command line: found when used, broken ones named, none hidden."""

import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unialign.errors import CorruptInput, UsageError
from unialign.plugins import Table, imported, is_reference
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.datasets.catalog import DATASETS, load_dataset

LOCAL = """
from unialign import CorruptInput, Dataset, Sample, Split

NUMBER = 5

def gestures(root, labels=None):
    names = tuple(labels.read_text().split()) if labels else ("wave",)
    samples = tuple(Sample(path.stem, 0, {"video": path}) for path in sorted(root.glob("*.mp4")))
    whole = lambda samples: Split(tuple(each.id for each in samples), ())
    return Dataset("other", "gestures", root, names, samples, {"whole": whole})

def listed(root):
    return [root]

def failing(root):
    return {}["missing"]

def corrupt(root):
    raise CorruptInput("clip 7 is cut")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path  # type: ignore[misc]
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    importlib.invalidate_caches()


def installed(folder: Path, distribution: str, group: str, name: str, value: str) -> None:
    """What an installer leaves of a distribution with one entry point."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def numbers() -> Table[int]:
    """A table of the group "made"; read again, since tables remember what they found."""
    return Table("made", int, {"one": 1, "two": 2})


def test_own_rows_come_first_and_plugins_are_imported_when_asked_for(here: Path) -> None:
    (here / "later_module.py").write_text("ROW = 7\n")
    installed(here / "site", "later", "made", "a-seven", "later_module:ROW")
    table = numbers()
    assert list(table) == ["one", "two", "a-seven"]
    assert "a-seven" in table
    assert len(table) == 3
    assert "later_module" not in sys.modules
    sys.path.insert(0, str(here))
    assert table["a-seven"] == 7
    assert table.get("three") is None
    assert table.problems() == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (None, r"ModuleNotFoundError: No module named 'broken_module'"),
        (
            "import nothing_like_it\n",
            r"ModuleNotFoundError: No module named 'nothing_like_it' \(.*broken_module.py, line 1",
        ),
        ("x = = 1\n", r"SyntaxError: .*broken_module.py, line 1"),
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*broken_module.py, line 2\)"),
        ("OTHER = 1\n", r"AttributeError: .*'ROW'"),
        ("ROW = 'seven'\n", r"is a str, not a int"),
    ],
)
def test_a_broken_plugin_is_named_and_hides_no_other(here: Path, source: str | None, error: str) -> None:
    sys.path.insert(0, str(here))
    if source is not None:
        (here / "broken_module.py").write_text(source)
    (here / "good_module.py").write_text("ROW = 8\n")
    installed(here / "site", "lab-broken", "made", "bad", "broken_module:ROW")
    installed(here / "site", "lab-good", "made", "good", "good_module:ROW")
    table = numbers()
    with pytest.raises(
        UsageError, match=rf"^entry point 'bad' of made \(broken_module:ROW\) from lab-broken 1.0 .*{error}"
    ) as raised:
        table["bad"]
    assert "\n" not in str(raised.value)
    assert (table["one"], table["good"]) == (1, 8)
    assert table.problems() == [str(raised.value)]


def test_a_plugin_cannot_replace_a_name_and_that_is_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    installed(here / "site", "lab-one", "made", "one", "never_imported:ROW")
    table = numbers()
    with caplog.at_level(logging.WARNING):
        assert table["one"] == table["one"] == 1
    (record,) = caplog.records
    assert record.getMessage() == table.problems()[0]
    assert "'one' of made from lab-one 1.0 is not used: one is a name of unialign itself" in record.getMessage()
    assert list(table) == ["one", "two"]


def test_two_plugins_of_one_name_are_an_error_that_names_both(here: Path) -> None:
    for name in ("lab-b", "lab-a"):
        installed(here / name, name, "made", "same", f"{name}:ROW".replace("-", "_"))
    with pytest.raises(UsageError, match=r"'same' of made comes from lab-a 1.0 and lab-b 1.0; uninstall"):
        numbers()["same"]


def test_a_distribution_that_is_found_twice_is_one(here: Path) -> None:
    sys.path.insert(0, str(here))
    (here / "twice_module.py").write_text("ROW = 9\n")
    for folder in ("a", "b"):
        installed(here / folder, "twice", "made", "nine", "twice_module:ROW")
    assert numbers()["nine"] == 9


@pytest.mark.parametrize("name", list(DATASETS.own))
def test_every_dataset_of_the_package_has_its_function(name: str) -> None:
    load = DATASETS[name].load
    assert callable(imported(load) if isinstance(load, str) else load)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a:b", True), ("a.b:c.d", True), ("a", False), ("a:", False), (":b", False), ("a/b:c", False), ("a:b:c", False)],
)
def test_what_looks_like_a_function(name: str, is_one: bool) -> None:
    assert is_reference(name) is is_one


def test_a_function_of_the_working_folder_is_a_dataset_of_that_name(here: Path) -> None:
    (here / "mine.py").write_text(LOCAL)
    (here / "clips").mkdir()
    (here / "clips" / "b.mp4").touch()
    dataset = load_dataset("mine:gestures", here / "clips")
    assert (dataset.name, dataset.collection, len(dataset.samples)) == ("mine:gestures", "gestures", 1)
    (here / "names.txt").write_text("bow")
    assert load_dataset("mine:gestures", here / "clips", here / "names.txt").classes == ("bow",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:gestures", "there is no module nowhere, neither in .* nor among what is installed"),
        ("mine.inner:gestures", "there is no module mine.inner"),
        ("mine:nothing", r"mine.py has no function nothing; it has gestures, listed, failing, corrupt"),
        ("mine:NUMBER", "has no function NUMBER"),
        ("mine:listed", "dataset mine:listed: the function returned a list, not a unialign.Dataset"),
        ("mine:gestures", "dataset mine:gestures has no samples in .*; check the data root"),
        ("mine:failing", r"dataset mine:failing failed: KeyError: 'missing' \(.*mine.py, line 16\)"),
        (
            "half:gestures",
            r"importing half failed: ModuleNotFoundError: No module named 'absent' \(.*half.py, line 1\)",
        ),
        ("wrong:gestures", "importing wrong failed: SyntaxError"),
        ("mine", "unknown dataset 'mine'; known are ntu60, .*, and package.module:function"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_sentence(here: Path, name: str, message: str) -> None:
    (here / "mine.py").write_text(LOCAL)
    (here / "half.py").write_text("import absent\n")
    (here / "wrong.py").write_text("def gestures(:\n")
    with pytest.raises(UsageError, match=message) as raised:
        load_dataset(name, here)
    assert "\n" not in str(raised.value)


def test_what_a_function_says_itself_is_left_as_it_is(here: Path) -> None:
    (here / "mine.py").write_text(LOCAL)
    with pytest.raises(CorruptInput, match=r"^clip 7 is cut$"):
        load_dataset("mine:corrupt", here)
    with pytest.raises(UsageError, match="brings its own labels"):
        load_dataset("mine:corrupt", here, here / "names.txt")


def test_the_names_of_datasets_cost_no_import() -> None:
    code = (
        "import sys; from unialign.stages.datasets.catalog import DATASETS; list(DATASETS)\n"
        "heavy = {'torch', 'numpy', 'scipy', 'unialign.stages.datasets.ntu'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_dataset_is_public() -> None:
    import unialign

    assert unialign.Dataset is Dataset


def test_the_example_of_the_documents_is_a_dataset(here: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(import unialign.*?)```", page, re.DOTALL)
    (here / "mine.py").write_text(block)
    (here / "clips").mkdir()
    for name in ("anna_wave", "ben_bow", "ben_wave"):
        (here / "clips" / f"{name}.mp4").touch()
    dataset = load_dataset("mine:gestures", here / "clips")
    assert dataset.classes == ("bow", "wave")
    assert dataset.split() == Split(("ben_bow", "ben_wave"), ("anna_wave",))
