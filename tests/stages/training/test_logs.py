"""Contract of the logs: lines only added, a table that is always whole, curves, and no harm from a kill."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from unialign.stages.training.logs import RunLog, read_lines, write_table


def test_steps_and_epochs_are_written_down(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.event("started", stores=2)
    for step in range(3):
        log.step(step + 1, {"epoch": 1, "batch": step, "loss": 1 / 3 + step, "gradient_norm": float("inf")})
    log.epoch([{"epoch": 1, "loss": 1 / 3}], 3)
    log.close()
    lines = read_lines(tmp_path / "log.jsonl")
    assert lines[0] == {"event": "started", "stores": 2}
    assert [line["loss"] for line in lines[1:]] == [1 / 3, 1 / 3 + 1, 1 / 3 + 2]  # bit for bit
    assert lines[1]["gradient_norm"] is None
    assert (tmp_path / "metrics.csv").read_text() == f"epoch,loss\n1,{1 / 3!r}\n"
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert sorted(curves.Tags()["scalars"]) == ["epoch/loss", "step/loss"]
    assert [event.step for event in curves.Scalars("step/loss")] == [1, 2, 3]


def test_half_a_line_from_a_kill_spoils_no_other(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.event("first")
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "ste')
    log = RunLog(tmp_path)
    log.event("second")
    log.close()
    assert [line["event"] for line in read_lines(tmp_path / "log.jsonl")] == ["first", "second"]


def test_a_resumed_run_replaces_the_curve_behind_its_checkpoint(tmp_path: Path) -> None:
    for start, end in ((0, 5), (3, 6)):
        log = RunLog(tmp_path, step=start + 1 if start else 0)
        for step in range(start, end):
            log.step(step + 1, {"loss": float(step)})
        log.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]


def test_rows_may_differ_in_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "metrics.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "top1": 1.0}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,loss,top1\n1,0.5,\n2,0.25,1.0\n"


def test_an_event_must_be_json(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with pytest.raises(TypeError):
        log.event("strange", value=Path())
    log.close()
