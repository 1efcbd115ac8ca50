"""Frames resized on a device have the bytes of Pillow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unialign.stages.extraction import letterbox as module
from unialign.stages.extraction.letterbox import canvas_sides, letterbox, letterbox_into, resized

EDGE = st.integers(1, 90)


@given(edges=st.tuples(EDGE, EDGE), new=st.tuples(EDGE, EDGE), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_resized_pixel_is_that_of_pillow(edges: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    frame = np.random.default_rng(seed).choice(np.array([0, 1, 127, 254, 255], dtype=np.uint8), (*edges, 3))
    wanted = np.asarray(Image.fromarray(frame).resize(new[::-1], Image.Resampling.BILINEAR))
    assert module._axes(*edges, *new) is not None, "it had to be left to Pillow"
    np.testing.assert_array_equal(resized(torch.from_numpy(frame)[None], *new)[0], wanted)


@pytest.mark.parametrize("stride", [0, 32])
@pytest.mark.parametrize("sides", [(120, 213), (360, 200), (96, 96), (3, 200)])
def test_frames_of_a_device_are_letterboxed_as_those_of_the_processor(sides: tuple[int, int], stride: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *sides, 3), dtype=np.uint8)
    canvas = torch.zeros(2, *canvas_sides(*sides, 160, stride), 3, dtype=torch.uint8)
    letterbox_into(canvas, torch.from_numpy(frames))
    np.testing.assert_array_equal(canvas, np.stack([letterbox(frame, 160, stride) for frame in frames]))


def test_where_pillow_does_another_thing_it_does_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_along", lambda frames, axis, length: frames[:, :1, :1])
    module._axes.cache_clear()
    frame = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    made = resized(torch.from_numpy(frame)[None], 20, 30)[0]
    module._axes.cache_clear()
    np.testing.assert_array_equal(made, np.asarray(Image.fromarray(frame).resize((30, 20), Image.Resampling.BILINEAR)))
