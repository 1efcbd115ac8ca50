"""A process that ends with the one that started it."""

import ctypes
import os
import signal
import sys

# prctl's number for "send me this signal when my parent dies".
_PARENT_DEATH_SIGNAL = 1


def die_with(parent: int) -> None:
    """From now on the kernel kills this process when its parent dies, or the parent's thread that started it.

    parent: the process that started this one; if it is not any more, this one exits at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the signal could be requested
