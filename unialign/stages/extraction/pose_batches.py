"""Batches of a pose network: filled in the order of the clips while the network works on the one before, in a thread.

What the network finds is handed to the clips in the same order, so no bit depends on who is the fastest. There are two
batches at a time, each in memory of its own that is used again and again: fresh memory for every batch takes as long as
filling it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from unialign.stages.extraction.ahead import result_of
from unialign.stages.extraction.heartbeat import beat

# Batches in memory: one that is filled and one that the network reads.
PLACES = 2


class Network(Protocol):
    """What finds persons; see `ultralytics_pose.PoseNetwork`."""

    @property
    def takes_frames(self) -> bool:
        """Whether `put` takes frames as they are decoded, which the network resizes itself, or images of its size."""

    def put(self, place: int, first: int, images: Sequence[np.ndarray]) -> None:
        """Copy images (H, W, 3) uint8 of one size into a batch, at this position and after it."""

    def detect_in(self, place: int, number: int, confidence: float, max_detections: int) -> list[np.ndarray]:
        """Persons in each of the first `number` images of a batch."""


class Batches:
    """The batches of one run; a context manager that ends its thread.

    network: for images with these sides. deliver: called with the owner of an image and the persons in it, in order.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, ...]], Network],
        size: int,
        detect: Callable[[Network, int, Sequence[Any]], list[np.ndarray]],
        deliver: Callable[[Any, np.ndarray], None],
    ) -> None:
        self._load, self._size, self._detect, self._deliver = network, size, detect, deliver
        self._owners: list[Any] = []
        self._network: tuple[tuple[int, ...], Network] | None = None
        self._place = 0
        self._running: tuple[Future[list[np.ndarray]], list[Any]] | None = None
        threads = torch.get_num_threads()
        # The number of threads is remembered for each thread that computes.
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, owner: Any, images: Sequence[np.ndarray], sides: tuple[int, ...]) -> None:
        """Add images of one size, which become images with these sides; full batches go to the network."""
        network = self._network_for(sides)
        while images:
            some = images[: self._size - len(self._owners)]
            images = images[len(some) :]
            network.put(self._place, len(self._owners), some)
            self._owners += [owner] * len(some)
            if len(self._owners) == self._size:
                self._send()

    def finish(self) -> None:
        """Send what is left, and wait for the network."""
        self._send()
        self._collect()

    def _network_for(self, sides: tuple[int, ...]) -> Network:
        """The network for images with these sides; images with others no longer wait then."""
        if self._network is None or self._network[0] != sides:
            self._send()
            self._network = sides, self._load(sides)
        return self._network[1]

    def _send(self) -> None:
        if not self._owners or self._network is None:
            return
        self._collect()
        beat()
        owners, self._owners = self._owners, []
        future = self._thread.submit(self._detect, self._network[1], self._place, owners)
        self._running = future, owners
        self._place = (self._place + 1) % PLACES

    def _collect(self) -> None:
        if self._running is not None:
            future, owners = self._running
            self._running = None
            found: list[np.ndarray] = result_of(future)
            for owner, persons in zip(owners, found, strict=True):
                self._deliver(owner, persons)
