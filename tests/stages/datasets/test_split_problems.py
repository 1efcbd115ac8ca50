"""What of a split may spoil a result is said in a sentence, and nothing is said of a fine one."""

from pathlib import Path

import pytest

from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.samples import Split
from unialign.stages.datasets.split_problems import split_problems

NAMES = ("bow", "jump", "wave")


def dataset(train: str, test: str, *, unseen: tuple[int, ...] = ()) -> Dataset:
    """Clips of the classes that are the digits, in two parts."""
    samples = [Sample(f"{at:03d}", int(digit), {}) for at, digit in enumerate(train + test)]
    ids = [sample.id for sample in samples]
    split = Split(tuple(ids[: len(train)]), tuple(ids[len(train) :]), unseen=unseen)
    return Dataset("made", "made", Path("root"), NAMES, tuple(samples), {"official": lambda samples: split})


@pytest.mark.parametrize(
    ("train", "test", "sentences"),
    [
        ("001122", "012", []),
        ("001122", "", ["no clips are left to test on"]),
        ("0000", "00", ["all clips are of one class (bow)"]),
        ("1122", "12", ["no clip has the label 0 (bow), all others occur", "1 class has fewer than 2 clips"]),
        (
            "0000",
            "1122",
            ["no tested class has clips to train on (trained: bow, tested: jump)", "all clips to train on"],
        ),
        ("0011", "0122", ["1 tested class has no clips to train on (wave)"]),
        ("001122", "000", ["all tested clips are of one class (bow)"]),
        ("00112", "012", ["1 class has fewer than 2 clips to train on (wave)"]),
        ("00" + "1" * 21 + "22", "012", ["classes differ in size (jump 21 clips"]),
    ],
)
def test_a_problem_is_named(train: str, test: str, sentences: list[str]) -> None:
    found = split_problems(dataset(train, test))
    for sentence in sentences:
        assert any(problem.startswith(sentence) for problem in found), (sentence, found)
    assert bool(found) == bool(sentences), found


def test_classes_that_are_unseen_on_purpose_are_no_problem() -> None:
    assert split_problems(dataset("0011", "2222", unseen=(2,))) == []
