"""What is printed shows names as they are, whatever is in them; see `console`."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unialign import console
from unialign.commands.progress import training_bar
from unialign.commands.train import zero_shot_told
from unialign.stages.training.loop import Progress

NAMES = ("[/x]", "[red]a[/red]", "[link=file:///x]", ":bug:", r"\[x]", "{task}", "[[", "名前", "a\u00a0b")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the command line prints on standard output."""
    stream = io.StringIO()
    monkeypatch.setattr(console.output, "_file", stream)
    return stream


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_everywhere_in_a_table(shown: io.StringIO, name: str) -> None:
    console.show_table(f"title {name}", ("store", f"column {name}"), [("first", f"cell {name}")])
    console.show_fields({f"field {name}": f"value {name}"})
    console.output.print(f"line {name}")
    for place in ("title", "column", "cell", "field", "value", "line"):
        assert f"{place} {name}" in shown.getvalue()


def test_a_bar_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console.messages, "_file", stream)
    monkeypatch.setattr(console.messages, "_force_terminal", True)
    monkeypatch.setattr(console.messages, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress_bar("verify [/x]", hidden=False) as update:
        update(1, 2, "row [bold]:bug: \x1b[31m")
        # It is drawn ten times per second.
        time.sleep(0.4)
    assert r"row [bold]:bug: \x1b[31m" in stream.getvalue(), stream.getvalue()


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console.messages, "_file", stream)
    with console.progress_bar("extract poses", hidden=False) as update:
        update(1, 10)
        monkeypatch.setattr(console, "LINES_EVERY", 0.0)
        time.sleep(0.05)
        update(1000, 2000, "extract poses, 90 frames/s")
        monkeypatch.setattr(console, "LINES_EVERY", 30.0)
        update(1500, 2000)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("extract poses, 90 frames/s: 1,000 of 2,000, ")
    assert line.endswith(" left")


def test_epochs_leave_lines_with_loss_accuracy_and_time_left_and_the_first_and_last_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console.messages, "_file", stream)
    with training_bar("unialign", hidden=False) as show:
        for epoch in range(4):
            row = {"loss": 1.5 - epoch, "val_top1": 0.75}
            if epoch == 3:
                row |= {"loader_samples_per_second": 2972.4, "megabytes_per_second": 1.14}
            show(Progress(epoch, 4, 7, 8, 9.0, 0.02, 96.4, row))
    first, last = stream.getvalue().splitlines()
    start = "unialign epoch 1/4  loss 1.500  val top-1  75.0%     96 clips/s  data wait  2%  "
    assert first.startswith(start)
    assert first.endswith(" s left")
    assert last.startswith("unialign epoch 4/4  loss -1.500  val top-1  75.0%     96 clips/s  data wait  2%  ")
    assert last.endswith("  (loading alone: 2,972/s, 1.1 MB/s)  done in 0 s")


def test_times_and_paths_are_shown_as_people_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [console.clock(each) for each in (0.2, 59.4, 59.6, 65, 7265)] == ["0 s", "59 s", "1:00", "1:05", "2:01:05"]
    monkeypatch.chdir(tmp_path)
    assert console.short_path(tmp_path / "runs" / "a") == Path("runs/a")
    assert console.short_path(Path("/elsewhere")) == Path("/elsewhere")


@pytest.mark.parametrize(("name", "written"), [("\x1b[2J", r"\x1b[2J"), ("a\rb", r"a\rb"), ("\udcff", r"\udcff")])
def test_what_cannot_be_shown_is_written_out(shown: io.StringIO, name: str, written: str) -> None:
    console.show_table(name, (name,), [(name,)])
    console.show_fields({name: name})
    assert shown.getvalue().count(written) == 5


@pytest.mark.parametrize("words", [("runs", "ls"), ("cache", "ls")])
def test_a_disk_that_is_full_ends_a_command_with_one_sentence(words: tuple[str, ...], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unialign.cli", *words, "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_the_terminal_has_no_letters_for_ends_no_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unialign.cli", "cache", "info", "名前"],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert r"\u540d" in done.stderr


def test_a_zero_shot_result_is_told_in_words() -> None:
    of_dvta = {"rule": "last epoch", "epoch": 5, "top1": 0.5, "clean": True, "encoder_clean": True, "held_out": []}
    assert zero_shot_told({**of_dvta, "split": "d7" * 32}) == "epoch 5, chosen as last epoch"
    told = zero_shot_told({**of_dvta, "seen": 0.5, "harmonic": 0.25, "clean": False, "held_out": [1, 2]})
    assert told.startswith("seen 50.0%, harmonic 25.0%, epoch 5")
    assert "tested on 2 held-out training classes" in told
    assert "not clean" in told
    of_others = {"test": "conventional", "candidates": 5, "chance": 0.2, "split": "d7" * 32, "encoder_clean": None}
    assert zero_shot_told(of_others) == "conventional test among 5 classes"
