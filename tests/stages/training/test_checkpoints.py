"""Contract of checkpoints: only whole ones count, the newest whole one is found, and nothing in one runs code."""

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unialign.cache import atomic
from unialign.errors import DamagedStore, MissingCache, UnialignError
from unialign.stages.training.checkpoints import Checkpoints
from unialign.stages.training.loader import Position

MUTATIONS = 200


def state(number: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((50,), float(number))}, "history": [{"loss": 0.1 * number}], "best": None}


def saved(folder: Path, count: int = 4, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, "run", keep)
    for number in range(1, count + 1):
        checkpoints.save(state(number), Position(number))
    return checkpoints


def number_of(found: Any) -> int:
    return int(found.state["model"]["weight"][0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_found_and_older_ones_go(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert (number_of(found), found.path.name, found.skipped) == (4, "last.pt", ())
    assert found.state["history"] == [{"loss": 0.4}]
    numbered = [f"{epoch:06d}-000000000" for epoch in (3, 4)]
    assert names(tmp_path) == sorted(f"{stem}{suffix}" for stem in (*numbered, "last") for suffix in (".json", ".pt"))


def test_a_kill_before_last_was_written_is_made_good(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("last.*")}
    checkpoints.save(state(4), Position(4))
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    found = checkpoints.newest()
    assert found is not None
    assert (number_of(found), found.path.name) == (4, "000004-000000000.pt")
    checkpoints.settle(found)
    assert (tmp_path / "last.pt").read_bytes() == found.path.read_bytes()
    found = checkpoints.newest()
    assert found is not None
    assert (number_of(found), found.path.name) == (4, "last.pt")


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, "run").newest() is None
    assert Checkpoints(tmp_path / "nowhere", "run").newest() is None
    for name in ("last", "best"):
        with pytest.raises(MissingCache, match=f"{name}.pt: the run has no such checkpoint"):
            Checkpoints(tmp_path, "run").named(name)


def test_positions_count_not_names(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run", keep=3)
    for epoch, samples in ((9, 0), (10, 0), (10, 900), (10, 1000)):
        checkpoints.save(state(epoch + samples), Position(epoch, samples))
    (tmp_path / "last.pt").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert number_of(found) == 1010


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced_by_another(path: Path) -> None:
    path.write_bytes((path.parent / f"000003-000000000{path.suffix}").read_bytes())


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("damage", [delete, cut, empty, flip, replaced_by_another])
def test_damage_falls_back_to_the_newest_whole_one(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path)
    damage(tmp_path / f"last{suffix}")
    found = checkpoints.newest()
    assert found is not None
    assert number_of(found) == 4  # the numbered twin
    damage(tmp_path / f"000004-000000000{suffix}")
    found = checkpoints.newest()
    assert found is not None
    assert number_of(found) == 3
    if (damage, suffix) != (delete, ".pt"):  # what is not there is no news
        assert len(found.skipped) >= 1
        assert "Trying an older checkpoint" in caplog.text


def test_no_mutation_of_the_newest_is_ever_loaded(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, count=2)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    generator = random.Random(7)
    victims = [path for path in whole if path.stem in ("last", "000002-000000000")]
    outcomes = {1: 0, 2: 0}
    for _ in range(MUTATIONS):
        for path in victims:
            data = bytearray(whole[path])
            place = generator.randrange(len(data))
            if generator.random() < 0.5:
                data[place] ^= 1 << generator.randrange(8)
            else:
                del data[place:]
            path.write_bytes(data)
        found = checkpoints.newest()
        assert found is not None
        # A flipped bit in a note can fall on white space; then the file it covers must be what it says.
        outcomes[number_of(found)] += 1
        assert torch.equal(found.state["model"]["weight"], state(number_of(found))["model"]["weight"])
        note = json.loads(found.path.with_suffix(".json").read_bytes())
        assert hashlib.sha256(found.path.read_bytes()).hexdigest() == note["sha256"]
    assert outcomes[1] > outcomes[2]


def test_a_folder_of_nothing_but_damage_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    for path in tmp_path.glob("*.pt"):
        cut(path)
    with pytest.raises(DamagedStore, match="none of 3 checkpoints is whole"):
        checkpoints.newest()


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, count=3)
    flip(tmp_path / "000003-000000000.pt")
    checkpoints.save(state(4), Position(4))
    # Two whole ones stay: 4 and 2. A damaged 3 in between does not push 2 out.
    assert [path.stem for path in sorted(tmp_path.glob("0*.pt"))] == ["000002-000000000", "000004-000000000"]


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    saved(tmp_path, count=1)
    with pytest.raises(DamagedStore, match="belongs to another run"):
        Checkpoints(tmp_path, "other").newest()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, count=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_file", full)
    with pytest.raises(UnialignError, match="cannot be written \\(No space left on device\\); make room"):
        checkpoints.save(state(3), Position(3))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_saving_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    checkpoints = saved(tmp_path, count=2)
    calls = 0

    class Killed(BaseException):
        pass

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            if calls == moment:
                raise Killed
            calls += 1
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_file", "write_text"):
            patch.setattr(atomic, name, counted(getattr(atomic, name)))
        with pytest.raises(Killed):
            checkpoints.save(state(3), Position(3))
    found = checkpoints.newest()
    assert found is not None
    assert number_of(found) == (2 if moment < 2 else 3)


def test_the_best_is_kept_apart(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, count=2)
    checkpoints.save_best(state(1), Position(1))
    assert number_of(checkpoints.named("best")) == 1
    assert number_of(checkpoints.named("last")) == 2
    flip(tmp_path / "best.pt")
    with pytest.raises(DamagedStore, match=r"best.pt is not what was written"):
        checkpoints.named("best")
    flip(tmp_path / "last.pt")
    found = checkpoints.named("last")
    assert number_of(found) == 2
    assert len(found.skipped) == 1


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "was-run",)

    checkpoints = saved(tmp_path, count=1)
    path = tmp_path / "last.pt"
    torch.save({"model": Harmful()}, path)
    note = json.loads(path.with_suffix(".json").read_bytes())
    data = path.read_bytes()
    note |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(note))
    found = checkpoints.newest()
    assert found is not None
    assert found.path.name == "000001-000000000.pt"
    assert "something else than plain weights" in found.skipped[0]
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("weights", [[0.5], {"video": "much"}, {"video": -0.1}, {"video": math.inf}, {3: 0.5}])
def test_weights_of_heads_that_are_no_weights_are_refused(tmp_path: Path, weights: object) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save({"head_weights": weights}, Position(1, 0))
    with pytest.raises(DamagedStore, match="head_weights are not numbers of at least 0"):
        checkpoints.named("last").head_weights()


def test_a_checkpoint_without_weights_of_heads_has_none(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run").save({"model": {}}, Position(1, 0))
    assert Checkpoints(tmp_path, "run").named("last").head_weights() == {}
