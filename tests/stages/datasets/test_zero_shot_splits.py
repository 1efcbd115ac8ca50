"""Published zero-shot splits: counts, names, and what a protocol makes of them."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.stages.datasets.base import Sample
from unialign.stages.datasets.ntu_classes import NTU_CLASSES
from unialign.stages.datasets.splits import by_attribute
from unialign.stages.datasets.zero_shot_splits import (
    ZERO_SHOT_SPLITS,
    ZeroShotSplit,
    generalised_zero_shot,
    seeded_unseen,
    unseen_digest,
    zero_shot,
)

COUNTS = {
    "synse-55-5": (55, 5),
    "synse-48-12": (48, 12),
    "synse-110-10": (110, 10),
    "synse-96-24": (96, 24),
    **{f"smie-{number}": (55, 5) for number in (1, 2, 3)},
    **{f"smie-{number}": (110, 10) for number in (4, 5, 6)},
    **{f"smie-{number}": (46, 5) for number in (7, 8, 9)},
    **{f"utd-mhad-{number}": (22, 5) for number in (1, 2, 3)},
    "purls-40-20": (40, 20),
    "purls-30-30": (30, 30),
    "purls-80-40": (80, 40),
    "purls-60-60": (60, 60),
    **{f"sa-dvae-{number}": (55, 5) for number in (1, 2, 3)},
    **{f"sa-dvae-{number}": (110, 10) for number in (4, 5, 6)},
    **{f"sa-dvae-{number}": (46, 5) for number in (7, 8, 9)},
    **{f"star-smie-{number}": (46, 5) for number in (1, 2, 3)},
    **{
        f"{paper}-{seen}-{unseen}": (seen, unseen)
        for paper in ("star", "neuron")
        for seen, unseen in ((55, 5), (48, 12), (110, 10), (96, 24), (46, 5), (39, 12))
    },
}


def test_every_split_has_the_published_numbers_of_classes() -> None:
    assert {name: (len(split.seen), len(split.unseen)) for name, split in ZERO_SHOT_SPLITS.items()} == COUNTS
    for split in ZERO_SHOT_SPLITS.values():
        assert sorted(split.seen + split.unseen) == list(range(split.num_classes))


def test_indices_are_from_zero() -> None:
    """SynSE's 55/5 names its unseen classes in words too: A11 reading, A12 writing, A20, A27 jump up, A57."""
    names = [NTU_CLASSES[label] for label in ZERO_SHOT_SPLITS["synse-55-5"].unseen]
    assert names[:2] == ["reading", "writing"]
    assert "hat" in names[2]
    assert "jump up" in names[3]
    assert "pocket" in names[4]
    assert next(NTU_CLASSES[label] for label in ZERO_SHOT_SPLITS["smie-1"].unseen) == "drop"


def test_the_larger_unseen_sets_are_those_of_the_newest_lists() -> None:
    assert sum(ZERO_SHOT_SPLITS["synse-48-12"].unseen) == 397
    assert sum(ZERO_SHOT_SPLITS["synse-110-10"].unseen) == 599
    assert sum(ZERO_SHOT_SPLITS["synse-96-24"].unseen) == 1384
    assert 1 not in ZERO_SHOT_SPLITS["synse-96-24"].unseen  # A2 is in the withdrawn list


def test_papers_that_share_a_list_have_the_same_digest_and_others_do_not() -> None:
    digests = {name: unseen_digest(split.num_classes, split.unseen) for name, split in ZERO_SHOT_SPLITS.items()}
    for size in ("55-5", "48-12", "110-10", "96-24"):
        assert digests[f"star-{size}"] == digests[f"neuron-{size}"] == digests[f"synse-{size}"]
    # STAR's random splits of PKU-MMD are two of SMIE's and another one.
    assert digests["star-46-5"] == digests["smie-7"]
    assert [digests[f"star-smie-{number}"] for number in (1, 2)] == [digests["smie-8"], digests["smie-9"]]
    assert digests["star-smie-3"] not in {digests[name] for name in digests if name != "star-smie-3"}
    assert len(set(digests.values())) == len(digests) - 2 * 4 - 2 - 1 - 2


def test_sums_of_the_longer_lists_are_those_of_their_files() -> None:
    sums = {name: sum(ZERO_SHOT_SPLITS[name].unseen) for name in COUNTS if name.startswith("purls")}
    assert sums == {"purls-40-20": 565, "purls-30-30": 819, "purls-80-40": 2760, "purls-60-60": 3480}


def test_splits_of_utd_mhad_do_not_change_and_share_no_unseen_class() -> None:
    unseen = [ZERO_SHOT_SPLITS[f"utd-mhad-{number}"].unseen for number in (1, 2, 3)]
    assert unseen == [(4, 10, 16, 24, 26), (0, 14, 18, 23, 25), (6, 9, 11, 12, 13)]
    assert len(set().union(*unseen)) == 15


@given(st.integers(2, 60), st.integers(1, 10), st.integers(1, 5), st.integers(0, 99))
def test_seeded_splits_are_disjoint_and_sorted(classes: int, unseen: int, splits: int, seed: int) -> None:
    if unseen * splits > classes or unseen >= classes:
        with pytest.raises(ValueError, match="need more than"):
            seeded_unseen(classes, unseen, splits, seed)
        return
    made = seeded_unseen(classes, unseen, splits, seed)
    assert made == seeded_unseen(classes, unseen, splits, seed)
    assert [len(part) for part in made] == [unseen] * splits
    assert all(list(part) == sorted(part) for part in made)
    assert len({label for part in made for label in part}) == unseen * splits
    assert all(0 <= label < classes for part in made for label in part)


def test_a_split_that_makes_no_sense_is_refused() -> None:
    for unseen in ((), (3, 1), (1, 1), (0, 4), (-1, 0), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="unseen classes"):
            ZeroShotSplit("made", 4, unseen)


def test_protocols_hide_unseen_classes_from_training() -> None:
    """Each class once on each side: unseen samples of the train side are in neither part."""
    samples = [
        Sample(f"{label}-{subject}", label, {}, {"subject": subject}) for label in range(4) for subject in (1, 2)
    ]
    rule = partial(by_attribute, "subject", {1})
    split = zero_shot((1, 3), rule, samples)
    assert split.train == ("0-1", "2-1")
    assert split.test == ("1-2", "3-2")
    assert split.candidates == split.unseen == (1, 3)
    whole = generalised_zero_shot((1, 3), rule, samples)
    assert whole.train == split.train
    assert whole.test == ("0-2", "1-2", "2-2", "3-2")
    assert (whole.candidates, whole.unseen) == ((), (1, 3))
