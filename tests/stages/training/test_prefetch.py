"""Contract of copies to a GPU, with stand-ins for CUDA's streams: computing waits for a copy, and the host for none."""

import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from unialign.stages.training.prefetch import on_device

CPU = torch.device("cpu")


class Event:
    """Of one copy. done: whether the copy is."""

    made: ClassVar[list["Event"]] = []

    def __init__(self) -> None:
        self.done = self.waited_by_host = False
        self.made.append(self)

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.waited_by_host = self.done = True


class Stream:
    """That computes. waits: the events that it waits for."""

    def __init__(self) -> None:
        self.waits: list[Event] = []

    def wait_event(self, event: Event) -> None:
        self.waits.append(event)


def pinned(tensor: Tensor) -> Tensor:
    """A copy that says that it is page-locked."""
    found = tensor.clone()
    found.pinned = True  # type: ignore[attr-defined]
    return found


class HostBatch(dict[str, Any]):
    """A batch that can be watched."""


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    computing = Stream()
    Event.made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: getattr(self, "pinned", False))
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    return computing


def test_batches_are_held_until_they_are_copied_and_nobody_else_waits(stream: Stream) -> None:
    held: list[weakref.ref[HostBatch]] = []

    def batches() -> Iterator[HostBatch]:
        for number in range(5):
            batch = HostBatch(value=torch.tensor(number))
            held.append(weakref.ref(batch))
            yield batch
            del batch

    moved = on_device(batches(), CPU)
    for number in range(3):
        assert int(next(moved)["value"]) == number
        assert stream.waits == Event.made[: number + 1]
        assert len(held) == number + 2  # one copy ahead
        assert all(each() is not None for each in held)
    Event.made[0].done = Event.made[1].done = True
    next(moved)
    assert [each() is not None for each in held] == [False, False, True, True, True]
    assert not any(event.waited_by_host for event in Event.made)
    moved.close()
    # Whoever leaves early must not overwrite what is still being copied.
    assert all(event.done for event in Event.made)


def test_only_page_locked_memory_is_copied_and_nothing_is_locked_twice(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[bool] = []

    def noted(self: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
        copied.append(getattr(self, "pinned", False) and non_blocking)
        return self

    monkeypatch.setattr(Tensor, "to", noted)
    frames = pinned(torch.zeros(3))
    (moved,) = on_device(iter([{"frames": frames, "labels": torch.arange(3)}]), CPU)
    assert copied == [True, True]
    assert moved["frames"] is frames
    assert moved["labels"].tolist() == [0, 1, 2]
