"""Signs of progress while one sample is processed, for the supervisor of the extraction.

From outside, a long clip and a decoder that never returns look the same; the beats distinguish them.
"""

import threading
from collections.abc import Callable

_listeners: list[Callable[[], None]] = []
_lock = threading.Lock()
# The thread that listens, and the beats of others that it has not passed on yet.
_listening = 0
_aside = 0


def beat() -> None:
    """Signal progress on a sample: a frame was decoded, a view was encoded. In any thread of the extractor."""
    global _aside
    if threading.get_ident() != _listening:
        with _lock:
            _aside += 1
        return
    for listener in _listeners:
        listener()


def pass_on() -> None:
    """Signal the beats of other threads since the last call; for the thread that waits for them, while it waits.

    A message from here is written to the same pipe as results, so only one thread may write.
    """
    global _aside
    with _lock:
        beats, _aside = _aside, 0
    for _ in range(beats):
        beat()


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` at every beat of this process from now on, in this thread, which does the work."""
    global _listening
    _listening = threading.get_ident()
    _listeners[:] = [listener]
