"""Which classes are unseen in zero-shot recognition: published lists, and a seeded rule for datasets without one.

Source: "synse-": SynSE (skelemoa/synse-zsl); its newest README agrees with the code of DVTA, SMIE and STAR on 96/24;
older versions list another set. "smie-": the random splits of SMIE (YujieOuO/SMIE), also used by DVTA. Class indices
are from 0 here: action A11 of NTU RGB+D is 10.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unialign.stages.datasets.base import Sample, Split
from unialign.stages.datasets.splits import SplitRule


@dataclass(frozen=True)
class ZeroShotSplit:
    """Classes of one split: `unseen`, ascending, out of `num_classes`; `dataset` is the one whose labels they are."""

    dataset: str
    num_classes: int
    unseen: tuple[int, ...]

    def __post_init__(self) -> None:
        if list(self.unseen) != sorted(set(self.unseen)) or not self.unseen:
            raise ValueError(f"unseen classes {self.unseen} of {self.dataset} are not ascending")
        if self.unseen[0] < 0 or self.unseen[-1] >= self.num_classes or len(self.unseen) == self.num_classes:
            raise ValueError(f"unseen classes {self.unseen} do not fit {self.num_classes} classes of {self.dataset}")

    @property
    def seen(self) -> tuple[int, ...]:
        """All other classes, ascending."""
        return tuple(label for label in range(self.num_classes) if label not in self.unseen)


def seeded_unseen(num_classes: int, num_unseen: int, num_splits: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """The unseen classes of each of `num_splits` splits, ascending; no class is unseen in two of them.

    Classes are ordered by the SHA-256 of "<seed>/<class>" and assigned in that order: the same on every machine. Raises
    ValueError if there are too few classes.
    """
    if num_splits * num_unseen > num_classes or num_unseen >= num_classes:
        raise ValueError(f"{num_splits} splits of {num_unseen} unseen classes need more than {num_classes} classes")
    order = sorted(range(num_classes), key=lambda label: hashlib.sha256(f"{seed}/{label}".encode()).digest())
    starts = range(0, num_splits * num_unseen, num_unseen)
    return tuple(tuple(sorted(order[start : start + num_unseen])) for start in starts)


ZERO_SHOT_SPLITS: Mapping[str, ZeroShotSplit] = {
    "synse-55-5": ZeroShotSplit("ntu60", 60, (10, 11, 19, 26, 56)),
    "synse-48-12": ZeroShotSplit("ntu60", 60, (3, 5, 9, 12, 15, 40, 42, 47, 51, 56, 58, 59)),
    "synse-110-10": ZeroShotSplit("ntu120", 120, (4, 13, 37, 43, 49, 65, 88, 95, 99, 106)),
    "synse-96-24": ZeroShotSplit(
        "ntu120",
        120,
        (
            *(5, 9, 11, 16, 18, 20, 22, 29, 35, 39, 45, 49),
            *(59, 68, 70, 81, 84, 87, 93, 94, 104, 113, 114, 119),
        ),
    ),
    "smie-1": ZeroShotSplit("ntu60", 60, (4, 19, 31, 47, 51)),
    "smie-2": ZeroShotSplit("ntu60", 60, (12, 29, 32, 44, 59)),
    "smie-3": ZeroShotSplit("ntu60", 60, (7, 20, 28, 39, 58)),
    "smie-4": ZeroShotSplit("ntu120", 120, (3, 18, 26, 38, 41, 60, 87, 99, 102, 110)),
    "smie-5": ZeroShotSplit("ntu120", 120, (5, 12, 14, 15, 17, 42, 67, 82, 100, 119)),
    "smie-6": ZeroShotSplit("ntu120", 120, (6, 20, 27, 33, 42, 55, 71, 97, 104, 118)),
    "smie-7": ZeroShotSplit("pku-mmd", 51, (1, 9, 20, 34, 50)),
    "smie-8": ZeroShotSplit("pku-mmd", 51, (3, 14, 29, 31, 49)),
    "smie-9": ZeroShotSplit("pku-mmd", 51, (2, 15, 39, 41, 43)),
    # Rule of this project: there is no published list.
    **{
        f"utd-mhad-{number}": ZeroShotSplit("utd-mhad", 27, unseen)
        for number, unseen in enumerate(seeded_unseen(27, 5, 3), start=1)
    },
}


def zero_shot(unseen: Sequence[int], rule: SplitRule, samples: Sequence[Sample]) -> Split:
    """Train on seen classes of the rule's train side, test on unseen classes of its test side.

    Unseen classes of the train side and seen classes of the test side are dropped (SMIE's interpretation, which DVTA
    shares). With `rule` and `unseen` bound it is a protocol.
    """
    return _kept(rule(samples), samples, hidden=unseen, tested=unseen)


def generalised_zero_shot(unseen: Sequence[int], rule: SplitRule, samples: Sequence[Sample]) -> Split:
    """The same with the whole test side, seen and unseen classes together."""
    return _kept(rule(samples), samples, hidden=unseen, tested=None)


def _kept(split: Split, samples: Sequence[Sample], hidden: Sequence[int], tested: Sequence[int] | None) -> Split:
    label = {sample.id: sample.label for sample in samples}
    return Split(
        train=tuple(name for name in split.train if label[name] not in hidden),
        test=tuple(name for name in split.test if tested is None or label[name] in tested),
        val=tuple(name for name in split.val if label[name] not in hidden),
    )
