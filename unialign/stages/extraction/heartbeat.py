"""Signs of progress while one sample is processed, for the supervisor of the extraction.

From outside, a long clip and a decoder that never returns look the same; the beats distinguish them.
"""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Signal progress on the current sample: a frame was decoded, a view was encoded."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` at every beat of this process from now on, in the thread that does the work."""
    _listeners[:] = [listener]
