"""Drawings in three formats, the same bytes every time, with a legend each."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unialign.pipeline.evaluation.pictures import Pictures, write_pictures
from unialign.pipeline.evaluation.plots import PEOPLE, SIDES, draw_ablation, draw_confusion, draw_sample, draw_skeleton
from unialign.stages.skeleton_layouts import COCO_17

SEED = {"seed": 0, "top1": 0.5, "low": 0.4, "high": 0.6}
ROWS = [
    {"name": "video $1", "mean": 0.5, "seeds": [SEED, SEED], "change": 0.0, "low": None, "high": None},
    {
        "name": "all",
        "mean": 0.6,
        "seeds": [{**SEED, "low": None, "high": None}],
        "change": 0.1,
        "low": -0.1,
        "high": 0.3,
    },
]
SIMPLE = [{"name": "1-nn on poses", "top1": 0.55, "low": 0.4, "high": 0.7}]


def drawn(name: str) -> Pictures:
    frames = [Image.new("RGB", (40, 30))] * 3
    if name == "ablation":
        return draw_ablation(ROWS, SIMPLE, "seeds and samples")
    if name == "sample":
        return draw_sample(frames, np.array([0.2, 0.3, 0.5]), "clip $x: a_b^c", {"video": 0.4}, [0, 4, 9], sided=True)
    count = 50 if name == "groups" else 4
    matrix = np.diag(np.full(count, 8))
    matrix[0, 1] = matrix[2, 3] = 4
    return draw_confusion(matrix, [f"class $ {number}" for number in range(count)])


@pytest.mark.parametrize("name", ["ablation", "sample", "confusion", "groups"])
def test_a_drawing_has_three_formats_and_always_the_same_bytes(name: str) -> None:
    first, second = drawn(name), drawn(name)
    assert set(first) == {"png", "svg", "pdf"}
    assert first == second
    assert min(Image.open(io.BytesIO(first["png"])).size) > 150
    assert first["pdf"].startswith(b"%PDF")
    assert not re.search(rb"CreationDate|<dc:date>", first["pdf"] + first["svg"])


def test_pictures_lie_side_by_side_and_a_png_alone_is_enough(tmp_path: Path) -> None:
    assert write_pictures(tmp_path / "a.b", {"png": b"1", "svg": b"2"}) == tmp_path / "a.b.png"
    assert (tmp_path / "a.b.svg").read_bytes() == b"2"
    assert write_pictures(tmp_path / "c", b"3").read_bytes() == b"3"


def colours_in(states: str, keypoints: np.ndarray) -> set[tuple[int, int, int]]:
    sides = [COCO_17.side(joint) for joint in range(17)]
    image = draw_skeleton(np.full((320, 320, 3), 90, np.uint8), keypoints, COCO_17.bones, sides, states)
    found = {tuple(each) for each in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}
    return found & {*SIDES.values(), *PEOPLE}


def test_the_first_person_has_a_left_and_a_right_and_others_one_color() -> None:
    turns = 2 * np.pi * np.arange(17) / 17
    person = np.stack([160 + 120 * np.cos(turns), 160 + 120 * np.sin(turns)], axis=1)
    assert colours_in("p", person[None]) >= {SIDES["left"], SIDES["right"]}
    nobody = np.full((17, 2), np.nan)
    assert colours_in(" p", np.stack([nobody, person])) == {PEOPLE[1]}
    assert colours_in("  ", np.stack([person, person])) == set()


def test_a_lost_person_is_dashed_and_a_jump_is_written() -> None:
    person = np.stack([np.linspace(20, 300, 17), np.linspace(40, 300, 17)], axis=1)[None]
    plain, lost, jump = (
        np.asarray(draw_skeleton(np.zeros((320, 320, 3), np.uint8), person, COCO_17.bones, (), state)).sum()
        for state in ("p", "-", "!")
    )
    assert lost < 0.8 * plain < plain < jump
