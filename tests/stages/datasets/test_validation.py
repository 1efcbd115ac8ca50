"""Contract of a val part: the split's own, or a seeded share of train by class and whole groups, or none and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.validation import LARGEST, LEAST_SAMPLES, Validation, with_validation


def dataset_of(
    labels: Sequence[int], attributes: Sequence[Mapping[str, int | str]] | None = None, num_val: int = 0
) -> Dataset:
    """Train samples with those labels, two test samples, and a val part of its own of the first `num_val`."""
    given_attributes = attributes or [{}] * len(labels)
    samples = [
        Sample(f"clip{number:04d}", label, {}, found)
        for number, (label, found) in enumerate(zip(labels, given_attributes, strict=True))
    ]
    samples += [Sample(f"test{number}", 0, {}, {}) for number in range(2)]
    ids = tuple(sample.id for sample in samples)
    split = Split(ids[num_val:-2], ids[-2:], ids[:num_val])
    classes = tuple(f"class {label}" for label in range(max(labels) + 1))
    return Dataset("made", "made", Path("nowhere"), classes, tuple(samples), {"one": lambda samples: split})


def check(found: Validation, dataset: Dataset) -> None:
    """Nothing is lost, nothing stands twice, the test stays, and every class can still be learned."""
    before, after = dataset.split(), found.split
    labels = {sample.id: sample.label for sample in dataset.samples}
    assert after.test == before.test
    assert sorted(after.train + after.val) == sorted(before.train + before.val)
    assert not set(after.train) & set(after.val)
    assert {labels[each] for each in after.train} == {labels[each] for each in before.train}


def test_a_val_part_of_the_split_is_used_as_it_is() -> None:
    dataset = dataset_of([0, 1] * 40, num_val=3)
    found = with_validation(dataset, "one", 0.1, 0)
    assert (found.origin, found.split) == ("protocol", dataset.split())


def test_a_share_of_each_class_is_set_aside() -> None:
    dataset = dataset_of([0] * 100 + [1] * 30 + [2] * 4 + [3])
    found = with_validation(dataset, "one", 0.1, 0)
    check(found, dataset)
    labels = {sample.id: sample.label for sample in dataset.samples}
    assert Counter(labels[each] for each in found.split.val) == {0: 10, 1: 3, 2: 1}
    assert found.why == "14 of 135 training samples, set aside by the seed"


def test_the_seed_decides_and_nothing_else() -> None:
    dataset = dataset_of([0, 1] * 100)
    first, again, other = (with_validation(dataset, "one", 0.1, seed).split for seed in (0, 0, 1))
    assert first == again
    assert first.val != other.val


@pytest.mark.parametrize("name", ["group", "performer", "subject"])
def test_nobody_is_on_both_sides(name: str) -> None:
    attributes = [{name: number % 10, "camera": number % 3} for number in range(200)]
    dataset = dataset_of([number // 10 % 4 for number in range(200)], attributes)
    found = with_validation(dataset, "one", 0.2, 0)
    check(found, dataset)
    who = {sample.id: sample.attributes.get(name) for sample in dataset.samples}
    assert not {who[each] for each in found.split.train} & {who[each] for each in found.split.val}
    assert len(found.split.val) == 40
    assert found.why == f"40 of 200 training samples (2 of 10 by {name}), set aside by the seed"


def test_groups_of_one_class_each_give_something_of_every_class() -> None:
    labels = [number // 25 for number in range(100)]
    attributes = [{"group": f"{label} g{number % 5}"} for number, label in enumerate(labels)]
    dataset = dataset_of(labels, attributes)
    found = with_validation(dataset, "one", 0.2, 3)
    check(found, dataset)
    of_class = {sample.id: sample.label for sample in dataset.samples}
    assert Counter(of_class[each] for each in found.split.val) == {0: 5, 1: 5, 2: 5, 3: 5}


def test_a_large_group_is_taken_whole_or_not_at_all() -> None:
    four = dataset_of([number // 4 % 5 for number in range(80)], [{"subject": number % 4} for number in range(80)])
    found = with_validation(four, "one", 0.1, 0)
    check(found, four)
    assert len(found.split.val) == 20  # one of four subjects, although a tenth was asked for
    three = dataset_of([number // 3 % 5 for number in range(90)], [{"subject": number % 3} for number in range(90)])
    none = with_validation(three, "one", 0.1, 0)
    assert (none.origin, none.split) == ("none", three.split())
    assert none.why == "train has 3 of subject; from 4 on some are set aside"


def test_a_sample_without_a_group_is_one_of_its_own() -> None:
    attributes: list[Mapping[str, int | str]] = [
        {"group": ""} if number % 2 else {"group": number % 8} for number in range(160)
    ]
    dataset = dataset_of([number % 3 for number in range(160)], attributes)
    check(with_validation(dataset, "one", 0.1, 0), dataset)


def test_where_none_can_be_had_it_is_said_why() -> None:
    few = dataset_of([0, 1] * 20)
    assert with_validation(few, "one", 0.1, 0).why == "a val part would have 4 of the 40 training samples, and needs 10"
    assert with_validation(few, "one", 0.0, 0).why == "train.val_share is 0"
    shots = with_validation(dataset_of([0, 1] * 100), "one", 0.1, 0, shots=100)
    assert (shots.origin, shots.why) == ("none", "train.shots is 100, and those samples are all that a run may see")
    single = with_validation(dataset_of(list(range(50))), "one", 0.5, 0)
    assert single.why == "a val part would have 0 of the 50 training samples, and needs 10"


def test_what_tells_heads_apart_takes_fewer_samples_and_more_of_a_small_train() -> None:
    gestures = dataset_of([label for label in range(8) for _ in range(7)])
    assert with_validation(gestures, "one", 0.1, 0).origin == "none"
    # Three of each class: one of each would be a third of the training samples.
    few = with_validation(dataset_of([label for label in range(8) for _ in range(3)]), "one", 0.1, 0, weighs=True)
    assert few.why == "one of each class would be 8 of 24 training samples, too large a part"
    many_classes = with_validation(dataset_of([label for label in range(14) for _ in range(3)]), "one", 0.1, 0)
    assert many_classes.why == "one of each class would be 14 of 42 training samples, too large a part"
    one_each = with_validation(gestures, "one", 0.1, 0, weighs=True)
    check(one_each, gestures)
    assert len(one_each.split.val) == 8
    two_classes = dataset_of([0, 1] * 20)  # a tenth would be 4
    found = with_validation(two_classes, "one", 0.1, 0, weighs=True)
    check(found, two_classes)
    assert len(found.split.val) == 8
    assert with_validation(two_classes, "one", 0.0, 0, weighs=True).origin == "none"
    tiny = with_validation(dataset_of([0, 1] * 15), "one", 0.1, 0, weighs=True)
    assert tiny.why == "a val part would have 4 of the 30 training samples, and needs 8"
    large = dataset_of([0, 1] * 200)
    assert with_validation(large, "one", 0.1, 0, weighs=True) == with_validation(large, "one", 0.1, 0)


@pytest.mark.parametrize("share", [-0.1, 0.51, 1.0, float("nan")])
def test_other_shares_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"train\.val_share is .* between 0 \(none\) and 0\.5"):
        with_validation(dataset_of([0, 1] * 20), "one", share, 0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 12)), min_size=1, max_size=150),
    st.floats(0.01, 0.5),
    st.integers(0, 3),
)
def test_whatever_is_set_aside_leaves_a_training(clips: list[tuple[int, int]], share: float, seed: int) -> None:
    attributes: list[Mapping[str, int | str]] = [{} if group < 0 else {"performer": group} for _, group in clips]
    dataset = dataset_of([label for label, _ in clips], attributes)
    found = with_validation(dataset, "one", share, seed)
    check(found, dataset)
    group = {sample.id: sample.attributes.get("performer") for sample in dataset.samples}
    sides = [{group[each] for each in ids} - {None} for ids in (found.split.train, found.split.val)]
    assert not sides[0] & sides[1]
    assert len(found.split.val) >= LEAST_SAMPLES if found.origin == "train" else not found.split.val
    # By class at least one sample, by group at most twice what is asked for, or one group of a third.
    assert len(found.split.val) <= max(LARGEST * len(clips), 2 * (share * len(clips) + 6))
