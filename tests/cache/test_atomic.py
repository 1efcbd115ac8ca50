"""Contract of what touches the disk: whole files, whole removals, and an error for a system that takes nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.cache import atomic, mapping
from unialign.errors import UsageError


class Changed:
    """`os`, but for one function."""

    def __init__(self, **functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        return self._functions.get(name, getattr(os, name))


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 100))
def test_parts_come_as_the_same_bytes_in_blocks(parts: list[bytes], size: int) -> None:
    blocks = list(atomic.gathered(parts, size))
    assert b"".join(blocks) == b"".join(parts)
    assert all(len(block) >= size for block in blocks[:-1])


def test_a_system_that_takes_no_byte_is_an_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.write_file(tmp_path / "file", b"old")
    monkeypatch.setattr(atomic, "system", Changed(write=lambda handle, data: 0))
    with pytest.raises(OSError, match="no more bytes"):
        atomic.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_signal_right_after_the_temporary_was_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, flags: int, mode: int = 0o777) -> int:
        handle = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            os.close(handle)
            raise KeyboardInterrupt
        return handle

    monkeypatch.setattr(atomic, "system", Changed(open=interrupted))
    with pytest.raises(KeyboardInterrupt):
        atomic.write_file(tmp_path / "file", b"new")
    assert not list(tmp_path.iterdir())


def test_a_temporary_that_cannot_be_made_is_the_error_that_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(source: Path, target: Path) -> None:
        os.unlink(source)
        raise OSError("the disk is gone")

    monkeypatch.setattr(atomic, "system", Changed(replace=vanish))
    with pytest.raises(OSError, match="the disk is gone"):
        atomic.write_file(tmp_path / "file", b"new")


def test_a_folder_that_another_writer_makes_meanwhile_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(path: Path) -> None:
        os.mkdir(path)
        raise FileExistsError(path)

    monkeypatch.setattr(atomic, "system", Changed(mkdir=faster))
    atomic.make_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()

    def file_instead(path: Path) -> None:
        path.write_bytes(b"")
        raise FileExistsError(path)

    monkeypatch.setattr(atomic, "system", Changed(mkdir=file_instead))
    with pytest.raises(FileExistsError):
        atomic.make_folder(tmp_path / "b")


def test_lines_are_added_to_the_end(tmp_path: Path) -> None:
    for line in ("one\n", "two\n"):
        atomic.append_text(tmp_path / "logs" / "log", line)
    assert (tmp_path / "logs" / "log").read_text() == "one\ntwo\n"


def test_a_removal_follows_no_link_and_a_sweep_takes_temporaries_only(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    (kept / "inner" / "file").write_bytes(b"1")
    doomed = tmp_path / "doomed"
    (doomed / "folder").mkdir(parents=True)
    (doomed / "folder" / "file").write_bytes(b"2")
    (doomed / "link").symlink_to(kept / "inner", target_is_directory=True)
    atomic.remove(doomed)
    atomic.remove(doomed)  # nothing is there any more
    atomic.remove(tmp_path / "no folder" / "nothing")
    temporary = atomic.temporary_name(kept / "other")
    (temporary / "part").mkdir(parents=True)
    inside = atomic.temporary_name(temporary / "part")
    inside.write_bytes(b"3")
    assert atomic.sweep(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "inner", "kept"]
    assert atomic.final_name(temporary) == kept / "other"


def test_what_the_system_does_not_map_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert mapping.map_handle(file.fileno(), path).shape == (0,)
    path.write_bytes(b"12")
    with path.open("wb") as file:
        file.write(b"12")
        file.flush()
        with pytest.raises(PermissionError, match="file"):  # opened for writing only
            mapping.map_handle(file.fileno(), path)

    def full(*_: object) -> int:
        mapping.ctypes.set_errno(12)
        return int(mapping._FAILED or 0)

    monkeypatch.setattr(mapping._LIBC, "mmap", full)
    with path.open("rb") as file, pytest.raises(UsageError, match="max_map_count"):
        mapping.map_handle(file.fileno(), path)
