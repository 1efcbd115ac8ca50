"""Contract of refusals: whose folder it is and what helps; paths with ~ and variables; files that are none."""

import errno
import grp
import os
import pwd
from fractions import Fraction
from pathlib import Path

import pytest

from unialign.cache import compiled
from unialign.cache.access import explained
from unialign.cache.digests import file_digest, other_than_file, spanned_digest
from unialign.cache.paths import expanded, expanded_path
from unialign.errors import UsageError


def refusal(number: int, path: object) -> OSError:
    return OSError(number, os.strerror(number), path)


def test_a_refusal_names_the_owner_of_the_nearest_folder_that_can_be_seen(tmp_path: Path) -> None:
    found = tmp_path.stat()
    owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
    said = explained(refusal(errno.EACCES, str(tmp_path / "not" / "there")))
    assert said.startswith(f"{tmp_path}/not/there: permission denied to {pwd.getpwuid(os.geteuid()).pw_name}; ")
    assert f"{tmp_path} is {owner}'s, group {group} (drwx" in said


def test_owners_without_a_name_have_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    found = tmp_path.stat()
    assert f"is user {found.st_uid}'s, group {found.st_gid} (" in explained(refusal(errno.EPERM, os.fsencode(tmp_path)))


def test_other_errors_say_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = refusal(errno.ENOSPC, str(tmp_path))
    assert explained(full).startswith(f"{tmp_path}: No space left on device; make room")
    assert explained(OSError(errno.EACCES, "denied")) == "[Errno 13] denied"
    assert "read-only file system; choose a folder" in explained(refusal(errno.EROFS, "x"))
    without = OSError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert explained(without).endswith("; set TMPDIR to a folder with room")
    monkeypatch.setattr(Path, "stat", lambda path: os.stat(f"{path}/nowhere"))
    hidden = refusal(errno.EACCES, "x")
    assert explained(hidden) == str(hidden)


def test_paths_may_have_a_home_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert expanded("~/cache", {}) == "/home/anna/cache"
    assert expanded("$SCRATCH/${NAME}_1/$$x$", {"SCRATCH": "/s", "NAME": "a"}) == "/s/a_1/$x$"
    assert expanded_path("a/b") == Path("a/b")
    for text in ("$SCRATCH/cache", "${SCRATCH}x"):
        with pytest.raises(UsageError, match=r"the variable SCRATCH in .* is not set; set it, or write \$\$"):
            expanded_path(text, {"SCRATCH": ""})
    with pytest.raises(UsageError, match=r"'~nobody-of-that-name/x': no home folder is known; write the whole path"):
        expanded_path("~nobody-of-that-name/x")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UsageError, match="no home folder is known"):
        expanded_path("~/cache")


def test_a_pipe_is_no_file_and_a_span_has_a_digest_of_its_own(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"abc")
    assert (other_than_file(tmp_path / "pipe"), other_than_file(tmp_path / "file")) == ("a pipe", "")
    with pytest.raises(OSError, match="is a pipe, not a file"):
        file_digest(tmp_path / "pipe")
    digest, span = file_digest(tmp_path / "file"), (Fraction(1, 2), Fraction(2))
    assert (spanned_digest(digest, None), spanned_digest("", span)) == (digest, "")
    assert len({digest, spanned_digest(digest, span), spanned_digest(digest, (Fraction(0), Fraction(2)))}) == 3


def test_what_cannot_be_cached_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(signature: str, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("no locator")
        return lambda function: (function, signature, options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled("void()", inline="always")(print) == (print, "void()", {"nogil": True, "inline": "always"})
