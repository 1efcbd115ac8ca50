"""Class names as people say them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.datasets.class_names import read_class_names, spoken_names


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("TaiChi", "tai chi"),
        ("YoYo", "yo yo"),
        ("HammerThrow", "hammer throw"),
        ("CPR", "CPR"),
        ("CPRTraining", "CPR training"),
        ("BMXRiding", "BMX riding"),
        ("Archery", "archery"),
        ("ThrowABall", "throw a ball"),
        ("PlayingGuitar2", "playing guitar 2"),
        ("Jump2Left", "jump 2 left"),
        ("3DPrinting", "3D printing"),
        ("Clean_And_Jerk", "clean and jerk"),
        ("ÉpéeFencing", "épée fencing"),
        ("take_off", "take off"),
        ("iPhoneTalk", "iPhoneTalk"),
        ("Walk_v2", "walk v2"),
        ("Eating McDonalds fries", "Eating McDonalds fries"),
        ("Pushing [something] from left to right", "Pushing something from left to right"),
        ("跳高", "跳高"),
    ],
)
def test_names_are_spoken(name: str, spoken: str) -> None:
    assert spoken_names(dict.fromkeys(["HorseRiding", name]), "here")[-1] == spoken


def test_a_list_without_such_names_stays_as_it_is() -> None:
    names = ("Jump", "noFight", "CPR", "wave left", "9")
    assert spoken_names(names, "here") == names


@pytest.mark.parametrize(
    "names",
    [
        ["YoYo", "yo_yo"],
        ["Jump", "jump"],
        ["[a]", "a"],
        ["a", "_"],
        ["HighJump", "high jump"],
        ["übung", "u\u0308bung"],
        ["Übung", "u\u0308bung"],
        ["wave", "wave\u200b"],
        ["wave", "wa\u00adve"],
        ["1", "001"],
        ["0", "00"],
    ],
)
def test_names_that_read_the_same_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^list.csv: "):
        spoken_names(names, "list.csv")


@given(st.lists(st.text("abAB1_ [é", min_size=1), unique=True))
def test_different_names_stay_different(names: list[str]) -> None:
    try:
        spoken = spoken_names(names, "x")
    except UsageError:
        return
    assert len({name.casefold() for name in spoken}) == len(names)
    assert all(name == " ".join(name.split()) for name in spoken)


def test_numbers_before_every_name_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "classInd.txt"
    path.write_bytes("\ufeff1 ApplyEyeMakeup\r\n2 YoYo\r\n\r\n".encode())
    assert read_class_names(path) == ("apply eye makeup", "yo yo")
    path.write_text("0: brush_hair\n1: golf\n")
    assert read_class_names(path) == ("brush hair", "golf")
    path.write_text("3 steps\n2 steps\n")
    assert read_class_names(path) == ("3 steps", "2 steps")
    for text in ("2 golf\n0 brush_hair\n1 dive\n", "2,golf\n1,dive\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="numbers that are not in order"):
            read_class_names(path)
    for text, problem in {"": "no class names", "a\na\n": "'a' occurs twice", "a_b\na b\n": "read the same"}.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=problem):
            read_class_names(path)
