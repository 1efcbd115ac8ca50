"""Contract of a channel: a message arrives whole or not at all, and waiting for one ends when it should."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.pipeline.extraction.channel import Channel, connected


def received(channel: Channel) -> object:
    """The next message, however long it takes to arrive."""
    until = time.monotonic() + 20
    while (message := channel.receive(0.01)) is None:
        assert time.monotonic() < until
    return message


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=6), st.booleans())
def test_messages_of_any_length_arrive_in_order(lengths: list[int], both_ways: bool) -> None:
    one, other = connected()
    messages = [np.arange(length, dtype="uint8") for length in lengths]
    sender = threading.Thread(target=lambda: [one.send(each) for each in messages])
    sender.start()
    found = [received(other) for _ in lengths]
    sender.join()
    if both_ways:
        other.send("thanks")
        assert received(one) == "thanks"
    for message, expected in zip(found, messages, strict=True):
        assert np.array_equal(np.asarray(message), expected)
    one.close()
    other.close()


def test_part_of_a_message_is_none_and_its_rest_completes_it() -> None:
    one, other = connected()
    one.send({"key": "value" * 1000})
    data = os.read(other.fileno(), 1 << 20)
    third, fourth = connected()
    for cut in (4, 8, 500, len(data) - 1):
        os.write(third.fileno(), data[:cut])
        assert fourth.receive(0.01) is None
        assert fourth.receive(0.01) is None
        os.write(third.fileno(), data[cut:])
        assert fourth.receive(1.0) == {"key": "value" * 1000}
    for each in (one, other, third, fourth):
        each.close()


def test_the_end_of_the_other_process_is_an_end_of_file() -> None:
    one, other = connected()
    one.send("last")
    one.close()
    assert other.receive(1.0) == "last"
    with pytest.raises(EOFError):
        other.receive(1.0)
    with pytest.raises(BrokenPipeError):
        other.send("anyone")
    other.close()


def test_sending_to_a_process_that_takes_nothing_ends_in_time() -> None:
    one, other = connected()
    with pytest.raises(TimeoutError):
        one.send(bytes(10_000_000), seconds=0.1)
    one.close()
    other.close()
