"""Parts of files at a URL, through fsspec: many at once, each with a time limit and a bounded number of attempts.

All run in fsspec's own event loop, whatever the file system; those without an asynchronous interface run in threads. A
file system is opened once in each process, so that readers may be forked.
"""

import asyncio
import errno
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import fsspec
from fsspec.asyn import get_loop, sync

from unialign.errors import CacheProblem, MissingCache, UsageError

ATTEMPTS = 4
# Seconds before the second attempt; twice as long before each one after it.
BACKOFF = 0.25
# Per attempt; different from the limits of the libraries below, so that those are not hit at the same time.
TIMEOUT = 25.0
# Of a file of unknown size, which may be much longer than a part.
WHOLE_TIMEOUT = 600.0
PARALLEL = 32
# Of a file that is fetched as a whole.
WHOLE_BYTES = 16 << 20
_WORTH_REPEATING = {408, 425, 429}


class Unwanted(Exception):
    """A response that is rejected, and why: it is too large, or compressed."""


class Remote:
    """A folder behind a URL.

    options: what fsspec takes for its file system, credentials for example; never shown. Raises `UsageError` for a URL
    that holds a password or a query (a signature, a token), since URLs are shown and kept in run folders.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        if "?" in url or re.search(r"//[^/@]*:[^/@]*@", url):
            raise UsageError(
                f"the URL of a store at {re.sub('[^/]*@', '', url.partition('?')[0])} holds credentials or a query; "
                "give credentials in fsspec's configuration or in the variables of its file system."
            )
        self.url = url.rstrip("/")
        self.options = dict(options or {})
        self._opened: tuple[int, Any, str] = (-1, None, "")

    @property
    def web(self) -> bool:
        """Whether a plain web server answers."""
        return self.url.startswith(("http://", "https://"))

    def system(self) -> tuple[Any, str]:
        """The file system of this process, and what it calls the folder.

        Raises `UsageError` for a scheme that fsspec does not know, or whose library is not installed.
        """
        process, system, root = self._opened
        if process != os.getpid():
            options = self.options
            if self.url.startswith(("s3://", "s3a://")):
                # For botocore, which otherwise makes all but ten requests wait.
                options = {"config_kwargs": {"max_pool_connections": PARALLEL}, **options}
            try:
                if self.web:
                    from unialign.cache.bounded_http import client_options

                    options = {**options, "client_kwargs": {**client_options(), **options.get("client_kwargs", {})}}
                system, root = fsspec.url_to_fs(self.url, **options)
            except (ImportError, ValueError) as error:
                raise UsageError(f"{self.url} cannot be opened: {error}") from error
            self._opened = (os.getpid(), system, root)
        return system, root


class Part(NamedTuple):
    """Bytes start to stop of a file below a remote folder; None, None: all of it, if that is at most `limit` bytes."""

    remote: Remote
    path: str
    start: int | None = None
    stop: int | None = None
    limit: int = WHOLE_BYTES

    @property
    def where(self) -> str:
        """The URL of the file."""
        return f"{self.remote.url}/{self.path}"


def fetch(parts: Sequence[Part]) -> list[bytes]:
    """The bytes of those parts; of one that reaches beyond the end of its file, what is there.

    Raises `MissingCache` for a file that does not exist, `CacheProblem` for one that cannot be had.
    """
    for remote in {part.remote for part in parts}:
        remote.system()
    found: list[bytes] = sync(get_loop(), _fetch_all, parts)
    return found


async def _fetch_all(parts: Sequence[Part]) -> list[bytes]:
    gate = asyncio.Semaphore(PARALLEL)

    async def one(part: Part) -> bytes:
        async with gate:
            return await _attempts(part)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(part)) for part in parts]
    except BaseExceptionGroup as failed:
        # The others have been canceled: a server that is down is not asked again for each part.
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _attempts(part: Part) -> bytes:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
        try:
            return await _within(part, WHOLE_TIMEOUT if part.stop is None else TIMEOUT)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingCache(f"{part.where} does not exist.") from None
        except PermissionError:
            reason = "access is denied"
            break
        except Exception as error:  # noqa: BLE001 - every file system raises what its own library raises
            if isinstance(error, Unwanted):
                reason = str(error)
                break
            status = getattr(error, "status", 0)
            if status == 416 or getattr(error, "errno", 0) == errno.EINVAL:
                return b""
            # Not the error message: it may contain the signature of a URL that the server redirected to.
            reason = f"status {status}" if status else type(error).__name__
            if 400 <= status < 500 and status not in _WORTH_REPEATING:
                break
    raise CacheProblem(f"{part.where} cannot be read ({reason}); check the address, the access and the connection.")


async def _within(part: Part, seconds: float) -> bytes:
    """Unlike `asyncio.wait_for`, returns in time even if a library handles the cancellation as a failure to retry."""
    task = asyncio.ensure_future(_get(part))
    # There may be no waiting caller any more when it ends.
    task.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception() and None)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()


async def _get(part: Part) -> bytes:
    system, root = part.remote.system()
    path = f"{root}/{part.path}"
    limit = part.limit if part.start is None or part.stop is None else part.stop - part.start
    if part.remote.web:
        from unialign.cache.bounded_http import LIMIT

        LIMIT.set(limit)
    elif part.stop is None:
        info = await system._info(path) if system.async_impl else await asyncio.to_thread(system.info, path)
        _check_size(int(info.get("size") or 0), limit)
    if system.async_impl:
        data = await system._cat_file(path, start=part.start, end=part.stop)
    else:
        data = await asyncio.to_thread(system.cat_file, path, start=part.start, end=part.stop)
    if part.stop is None:
        _check_size(len(data), limit)
    return bytes(data)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Unwanted(f"it is larger than {limit} bytes")
