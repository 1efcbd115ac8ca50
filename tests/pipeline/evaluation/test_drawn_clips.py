"""Contract of the images of regions: each patch has the entity of the token that it ended in, each map its frame."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unialign.pipeline.evaluation import plots
from unialign.pipeline.systems.alt import draw_entities
from unialign.pipeline.systems.art import draw_tracklets
from unialign.pipeline.systems.base import DrawnClip

FRAMES = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 8, 8, 3), dtype=np.uint8)


def clip(
    outputs: Mapping[str, np.ndarray], *, classes: Sequence[str] = (), entities: Sequence[str] = (), num_frames: int = 4
) -> DrawnClip:
    return DrawnClip(
        sample="clip",
        title="title",
        frames=FRAMES[:num_frames],
        outputs=outputs,
        importance={},
        classes=tuple(classes),
        config={"entities": dict.fromkeys(entities, "")},
        stored=None,  # type: ignore[arg-type]
    )


def asked(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """What the image is drawn from."""
    seen: list[Any] = []
    monkeypatch.setattr(plots, name, lambda *values: seen.extend(values))
    return seen


def test_a_patch_has_the_entity_of_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(monkeypatch, "draw_entities")
    # 2 x 2 patches behind the class token; in frame 1 the last two ended in one token.
    owners = np.array([[0, 1, 2, 3, 4], [0, 3, 1, 2, 2]])
    entities = np.array([[9, 5, 6, 7, 8], [9, 5, 6, 7, 9]])
    draw_entities(clip({"owners": owners, "entities": entities}, classes=["a"] * 10, num_frames=2))
    frames, patches, _, title = seen
    assert patches.tolist() == [[[5, 6], [7, 8]], [[7, 5], [6, 6]]]
    assert (title, frames[:, 0, 0, 0].tolist()) == ("title", [0, 1])


def test_steps_of_a_backbone_that_halves_time_lie_over_the_frames_that_they_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = asked(monkeypatch, "draw_tracklets")
    outputs = {
        "region_maps": np.ones((2, 3, 2, 2)),
        "frame_weights": np.ones((2, 3)),
        "semantic_classes": np.array([2, 0, 1]),
    }
    draw_tracklets(clip(outputs, classes=["jump", "wave", "squat"]))
    assert seen[0][:, 0, 0, 0].tolist() == [1, 3]
    assert seen[3] == ["squat", "jump", "wave"]


def test_images_are_drawn_where_there_are_regions() -> None:
    maps = np.random.default_rng(0).random((4, 2, 3, 3))
    outputs = {"region_maps": maps, "frame_weights": np.ones((4, 2)), "semantic_classes": np.array([0, 1])}
    drawn = [
        draw_tracklets(clip(outputs, classes=["jump", "wave"])),
        draw_entities(
            clip({"owners": np.zeros((4, 5), dtype=int), "entities": np.ones((4, 5), dtype=int)}, entities=["a", "b"])
        ),
    ]
    for data in drawn:
        assert data
        assert min(Image.open(io.BytesIO(data["png"])).size) > 100
    assert draw_tracklets(clip({})) is None
    assert draw_entities(clip({"entities": np.ones((4, 1))})) is None
