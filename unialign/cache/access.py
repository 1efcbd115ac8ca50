"""Permission errors of the operating system, reported with the owner of the folder and a way out."""

import errno
import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def is_refused(error: OSError) -> bool:
    """Whether the operating system denied this user access, or the file system is read-only for all."""
    return error.errno in _REFUSED


# No space, and no quota left.
FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: OSError) -> str:
    """What went wrong; if access was denied, also the owner of the folder and what helps."""
    if error.errno == errno.ENOENT and "temporary directory" in str(error):
        return f"{error.strerror}; set TMPDIR to a folder with room"
    if error.errno in FULL:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror}; make room and repeat the command, which keeps what was finished"
    if not is_refused(error) or not isinstance(error.filename, str | bytes):
        return str(error)
    path = Path(os.fsdecode(error.filename))
    if error.errno == errno.EROFS:
        return f"{path} lies on a read-only file system; choose a folder that can be written (--cache, --runs, --out)"
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            found = place.stat()
            whose = f"{_user(found.st_uid)}'s, group {_group(found.st_gid)} ({stat.filemode(found.st_mode)})"
            return (
                f"{path}: permission denied to {_user(os.geteuid())}; {place} is {whose}; have its owner open the "
                "whole cache or folder of runs (`chmod -R g+rwX`), or choose another one (--cache, --runs, --out)"
            )
    return str(error)


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"user {number}"


def _group(number: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
