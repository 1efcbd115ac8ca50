"""The threads of this process for decompression and for disk I/O, created at first use and again after a fork."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

from unialign.cache.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# Most of them wait: for disk writes, or for the interpreter.
MAX_THREADS = 16

_pools: dict[int, ThreadPoolExecutor] = {}


def pool() -> ThreadPoolExecutor:
    """The pool of this process. Tasks in it must not wait for other tasks in it."""
    process = os.getpid()
    if process not in _pools:
        # The pool of a parent process stays in the dictionary: its threads do not exist in this process.
        _pools[process] = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="unialign-cache")
    return _pools[process]


def spread(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """`work` on parts of the items, one part per core that this process may use; results are concatenated.

    Nothing is still running when this returns or raises.
    """
    num_parts = min(usable_cores(), len(items))
    if num_parts < 2:
        return work(items)
    bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
    others = [pool().submit(work, items[start:stop]) for start, stop in pairwise(bounds[1:])]
    try:
        found = work(items[: bounds[1]])
    finally:
        wait(others)
    for other in others:
        found += other.result()
    return found
