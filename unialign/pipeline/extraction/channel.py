"""Messages between a supervisor and its worker: neither end waits for the other for longer than it wants to.

`multiprocessing.Connection` can only be asked whether a message has begun; reading it then waits for its last byte, and
a worker that is stopped within a message (Ctrl-Z, SIGSTOP) would stop its supervisor too. Here a message that has
arrived in part stays in the channel, and the next `receive` goes on with it.
"""

import contextlib
import pickle
import socket
import struct
import threading
import time
from typing import Any

# Length of a message in bytes, in front of it.
_LENGTH = struct.Struct("!Q")


class Channel:
    """One end of a pair of connected sockets. Either process may send Python objects; several threads may send."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._message = bytearray(_LENGTH.size)
        self._is_length = True
        self._filled = 0
        self.received = 0

    def fileno(self) -> int:
        """The file descriptor, for a process that inherits it."""
        return self._socket.fileno()

    def send(self, message: object, seconds: float | None = None) -> None:
        """Send an object. seconds: to wait for the other end to take it; None: for as long as that exists.

        Raises TimeoutError, after which the channel is unusable, and BrokenPipeError or ConnectionResetError.
        """
        self.send_pickled(pickle.dumps(message, protocol=5), seconds)

    def send_pickled(self, data: bytes, seconds: float | None = None) -> None:
        """The same for an object that is pickled already, by whatever means."""
        with self._lock:
            self._socket.settimeout(seconds)
            self._socket.sendall(_LENGTH.pack(len(data)))
            self._socket.sendall(data)

    def receive(self, seconds: float) -> Any:
        """The next message, or None if it is not complete after `seconds`; `received` counts the bytes so far.

        Raises EOFError when the other end is gone, and what unpickling raises.
        """
        until = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(until - time.monotonic(), 1e-6))
            try:
                number = self._socket.recv_into(memoryview(self._message)[self._filled :])
            except TimeoutError:
                return None
            except ConnectionResetError:
                number = 0
            if not number:
                raise EOFError("the other end is gone")
            self.received += number
            self._filled += number
            if self._filled < len(self._message):
                continue
            whole, was_length = self._message, self._is_length
            self._message = bytearray(_LENGTH.unpack(whole)[0] if was_length else _LENGTH.size)
            self._is_length, self._filled = not was_length, 0
            if not was_length:
                return pickle.loads(whole)  # noqa: S301 - from a process that this one started

    def close(self) -> None:
        """Close this end; the other one finds an end of file."""
        with contextlib.suppress(OSError):
            self._socket.close()


def connected() -> tuple[Channel, Channel]:
    """Both ends of a new channel."""
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


def copied(message: object) -> Any:
    """What the other end would receive. Raises whatever pickling raises."""
    return pickle.loads(pickle.dumps(message, protocol=5))  # noqa: S301 - just made


def inherited(handle: int) -> Channel:
    """The end whose file descriptor a new process was given."""
    return Channel(socket.socket(fileno=handle))
