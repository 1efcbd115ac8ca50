"""Signs of life while one sample is worked on, for whoever watches over the extraction.

A long clip and a decoder that never returns look alike from outside; the beats tell them apart.
"""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Say that the sample at hand has come a step further: a frame is decoded, a view is encoded."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    """Call `listener` at every beat of this process from now on, in the thread that works."""
    _listeners[:] = [listener]
