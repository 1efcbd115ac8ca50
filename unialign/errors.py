"""Every error that a user can meet, with the exit code that the command line gives it.

A message is one sentence that names the file or field and the way out.
"""


class UnialignError(Exception):
    """Base of all expected errors; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(UnialignError):
    """Wrong options, configuration or input layout (a missing root, duplicate ids, an unknown name)."""

    exit_code = 2


class CorruptInput(UnialignError):
    """One source file (video, skeleton, annotation, weights) cannot be read; the message names it.

    `status` is the sample status of `cache.records.STATUSES` that an extraction records for it.
    """

    def __init__(self, message: str, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


class LockedStore(UnialignError):
    """Another live process extracts into this store."""


class CacheProblem(UnialignError):
    """A cache cannot be used as it is: exit code 4."""

    exit_code = 4


class MissingCache(CacheProblem):
    """A store, run or sample that the command needs does not exist; the message names the command that makes it."""


class StaleCache(CacheProblem):
    """A store was made from other sources, weights or settings than those asked for."""


class DamagedStore(CacheProblem):
    """A file of a store is missing, cut or changed; nothing from it is served."""
