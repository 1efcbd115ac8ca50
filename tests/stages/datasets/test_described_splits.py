"""Contract of protocols that a name describes: which classes are unseen, on which division of the samples."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.described_splits import half_of_classes, k600_unseen, lists_of
from unialign.stages.datasets.ntu_classes import NTU_CLASSES
from unialign.stages.datasets.splits import by_attribute, few_shots, holdout
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS

K600 = Path(__file__).resolve().parents[4] / "shared/data/text/label_maps_mmaction2/kinetics/label_map_k600.txt"


def ntu60() -> Dataset:
    """Four samples of each class: by two subjects, from two views."""
    samples = tuple(
        Sample(f"{label:02d}-{subject}-{view}", label, {}, {"subject": subject, "view": view})
        for label in range(60)
        for subject in (1, 2)
        for view in (1, 2)
    )
    rules = {"xsub": partial(by_attribute, "subject", {1}), "xview": partial(by_attribute, "view", {1})}
    return Dataset("ntu60", "ntu", Path("nowhere"), NTU_CLASSES[:60], samples, rules)


def labels(dataset: Dataset, ids: tuple[str, ...]) -> set[int]:
    return {sample.label for sample in dataset.samples if sample.id in set(ids)}


def test_a_published_list_is_a_protocol_by_its_name() -> None:
    dataset, unseen = ntu60(), set(ZERO_SHOT_SPLITS["purls-40-20"].unseen)
    split = dataset.split("purls-40-20")
    assert labels(dataset, split.test) == unseen
    assert labels(dataset, split.train) == set(range(60)) - unseen
    assert set(split.candidates) == unseen
    assert all("-2-" in name for name in split.test)
    assert all("-1-" in name for name in split.train)
    whole = dataset.split("generalised-purls-40-20")
    assert whole.train == split.train
    assert labels(dataset, whole.test) == set(range(60))
    assert whole.candidates == ()


def test_a_list_goes_with_another_division_of_the_samples() -> None:
    dataset = ntu60()
    split = dataset.split("star-55-5-xview")
    assert all(name.endswith("-2") for name in split.test)
    assert labels(dataset, split.test) == set(ZERO_SHOT_SPLITS["synse-55-5"].unseen)
    assert dataset.split("generalised-neuron-55-5-xview").train == split.train


@pytest.mark.parametrize(
    "name", ["purls-80-40", "star-55-5-xset", "sa-dvae-7", "k600-1", "half-0", "half-100", "purls"]
)
def test_lists_of_other_datasets_and_rules_are_no_protocols(name: str) -> None:
    with pytest.raises(
        UsageError,
        match=r"ntu60 has no protocol .*unseen classes: synse-55-5, .*sa-dvae-3, .*unseen=FILE",
    ):
        ntu60().split(name)


def test_a_published_list_needs_a_published_division() -> None:
    with pytest.raises(UsageError, match="has no protocol 'synse-55-5'"):
        replace(ntu60(), protocols={"holdout": holdout}).split("synse-55-5")


def test_few_shots_keep_the_unseen_classes() -> None:
    split = few_shots(ntu60(), 1, 0, "sa-dvae-1").split("sa-dvae-1")
    assert len(split.train) == 55
    assert split.candidates == ZERO_SHOT_SPLITS["sa-dvae-1"].unseen


def test_half_of_the_classes_is_drawn_anew_for_each_number_and_never_changes() -> None:
    dataset = ntu60()
    split = dataset.split("half-1")
    assert len(labels(dataset, split.test)) == len(labels(dataset, split.train)) == 30
    assert len(split.test) + len(split.train) == len(dataset.samples)
    assert labels(dataset, split.test) == set(split.candidates)
    draws = {half_of_classes(number, NTU_CLASSES[:60]) for number in range(1, 11)}
    assert len(draws) == 10
    assert half_of_classes(1, ["a", "b", "c", "d", "e"]) == (2, 3)


def test_half_of_the_classes_has_a_generalised_test_on_the_first_division() -> None:
    dataset = ntu60()
    whole, split = dataset.split("xsub"), dataset.split("generalised-half-1")
    assert split.test == whole.test
    assert labels(dataset, split.train) == set(range(60)) - {*half_of_classes(1, dataset.classes)}
    assert {*split.train} <= {*whole.train}


def test_an_unknown_protocol_says_how_to_leave_classes_out() -> None:
    with pytest.raises(UsageError, match=r"it has holdout; with unseen classes: half-1, ..., unseen=FILE\.$"):
        replace(ntu60(), name="folder", protocols={"holdout": holdout}, samples=()).split("zero-shot")


def test_a_file_names_the_unseen_classes(tmp_path: Path) -> None:
    dataset, path = ntu60(), tmp_path / "unseen.txt"
    for text in ("reading\nWriting\n", "10\n11\n", "\ufeffreading\n\nwriting"):
        path.write_text(text, encoding="utf-8")
        assert labels(dataset, dataset.split(f"unseen={path}").test) == {10, 11}
        assert labels(dataset, dataset.split(f"generalised-unseen={path}").test) == set(range(60))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"reading\nflying\n", "'flying' is no class of the dataset"),
        (b"60\n", "'60' is no class"),
        (b"reading\nReading\n", "a class is named twice"),
        (b"", "names 0 of 60 classes"),
        ("\n".join(NTU_CLASSES[:60]).encode(), "names 60 of 60 classes"),
        (b"reading\n\xff", "not UTF-8 text at byte 8"),
        (b"x" * (2**20 + 1), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_list_of_classes_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "unseen.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        ntu60().split(f"unseen={path}")
    assert str(path) in str(raised.value)


@pytest.mark.skipif(not K600.is_file(), reason="the class names of Kinetics-600 are not here")
def test_kinetics_600_has_three_draws_of_160_of_220_classes() -> None:
    names = K600.read_text(encoding="utf-8").splitlines()
    draws = [set(k600_unseen(number, names)) for number in (1, 2, 3)]
    assert [len(draw) for draw in draws] == [160, 160, 160]
    times = Counter(label for draw in draws for label in draw)
    assert len(times) == 217  # of 220; three classes are in no draw
    known = {*K600.with_name("label_map_k400.txt").read_text(encoding="utf-8").splitlines()}
    assert not {names[label] for label in times} & known
    samples = tuple(Sample(f"{label:03d}", label, {}, {"split": "x"}) for label in range(600))
    dataset = Dataset("k600", "k600", K600, tuple(names), samples, {"official": lambda found: holdout(found)})
    assert lists_of("k600") == ["k600-1", "k600-2", "k600-3"]
    assert set(dataset.split("k600-2").candidates) == draws[1]
    assert labels(dataset, dataset.split("generalised-k600-2").train).isdisjoint(draws[1])
    with pytest.raises(UsageError, match="'acting in play' is no class of the dataset"):
        k600_unseen(1, names[5:])
