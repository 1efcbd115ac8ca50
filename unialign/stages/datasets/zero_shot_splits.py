"""Which classes are unseen in zero-shot recognition: published lists, and a seeded rule for datasets without one.

Source, by the first word of a name; class indices are from 0 here: action A11 of NTU RGB+D is 10.
    synse    SynSE (skelemoa/synse-zsl); its newest README agrees with the code of DVTA, SMIE and STAR on 96/24; older
             versions list another set.
    smie     the random splits of SMIE (YujieOuO/SMIE), also used by DVTA.
    purls    the label_splits of PURLS (azzh1/PURLS); its 55/5 to 96/24 are those of SynSE.
    sa-dvae  the random splits of SA-DVAE (pha123661/SA-DVAE), as listed by Flora (cseeyangchen/Flora).
    star     STAR (cseeyangchen/STAR): those of SynSE for NTU RGB+D, its own for PKU-MMD; star-smie: its random ones.
    neuron   Neuron (cseeyangchen/Neuron): the lists of STAR.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from unialign.cache.keys import digest
from unialign.stages.datasets.samples import Sample, Split, SplitRule


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


_LISTS: Mapping[str, ZeroShotSplit] = {
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
    "purls-40-20": ZeroShotSplit(
        "ntu60", 60, (0, 12, 13, 14, 15, 16, 17, 22, 23, 26, 29, 30, 31, 35, 36, 42, 43, 48, 56, 57)
    ),
    "purls-30-30": ZeroShotSplit(
        "ntu60",
        60,
        (
            *(0, 1, 2, 6, 7, 8, 10, 12, 13, 15, 16, 18, 20, 21, 25),
            *(26, 27, 31, 32, 33, 39, 42, 45, 47, 48, 51, 52, 55, 58, 59),
        ),
    ),
    "purls-80-40": ZeroShotSplit(
        "ntu120",
        120,
        (
            *(11, 12, 18, 22, 23, 26, 28, 34, 37, 38, 42, 44, 46, 47, 48, 57, 59, 64, 66, 70),
            *(73, 74, 75, 83, 86, 90, 92, 93, 95, 96, 102, 104, 107, 108, 110, 112, 115, 116, 118, 119),
        ),
    ),
    "purls-60-60": ZeroShotSplit(
        "ntu120",
        120,
        (
            *(0, 1, 4, 6, 7, 8, 9, 17, 18, 21, 23, 25, 26, 28, 30, 32, 33, 34, 37, 38),
            *(39, 40, 41, 42, 44, 45, 50, 51, 52, 53, 56, 61, 62, 65, 67, 68, 69, 70, 74, 77),
            *(78, 81, 83, 87, 89, 90, 91, 92, 94, 95, 96, 97, 100, 101, 109, 111, 114, 115, 116, 118),
        ),
    ),
    "sa-dvae-1": ZeroShotSplit("ntu60", 60, (0, 8, 15, 28, 46)),
    "sa-dvae-2": ZeroShotSplit("ntu60", 60, (15, 19, 23, 47, 50)),
    "sa-dvae-3": ZeroShotSplit("ntu60", 60, (29, 37, 38, 45, 55)),
    "sa-dvae-4": ZeroShotSplit("ntu120", 120, (0, 4, 6, 7, 24, 37, 54, 59, 97, 113)),
    "sa-dvae-5": ZeroShotSplit("ntu120", 120, (63, 79, 86, 92, 98, 100, 103, 110, 111, 117)),
    "sa-dvae-6": ZeroShotSplit("ntu120", 120, (9, 14, 17, 44, 60, 75, 81, 89, 108, 110)),
    "sa-dvae-7": ZeroShotSplit("pku-mmd", 51, (10, 19, 27, 38, 48)),
    "sa-dvae-8": ZeroShotSplit("pku-mmd", 51, (0, 9, 17, 30, 42)),
    "sa-dvae-9": ZeroShotSplit("pku-mmd", 51, (18, 24, 31, 43, 45)),
    "star-46-5": ZeroShotSplit("pku-mmd", 51, (1, 9, 20, 34, 50)),
    "star-39-12": ZeroShotSplit("pku-mmd", 51, (3, 7, 11, 15, 19, 21, 25, 31, 33, 36, 43, 48)),
    "star-smie-1": ZeroShotSplit("pku-mmd", 51, (3, 14, 29, 31, 49)),
    "star-smie-2": ZeroShotSplit("pku-mmd", 51, (2, 15, 39, 41, 43)),
    "star-smie-3": ZeroShotSplit("pku-mmd", 51, (4, 12, 16, 22, 36)),
    # Rule of this project: there is no published list.
    **{
        f"utd-mhad-{number}": ZeroShotSplit("utd-mhad", 27, unseen)
        for number, unseen in enumerate(seeded_unseen(27, 5, 3), start=1)
    },
}

# Papers that take the lists of others, by the beginning of their names.
_SAME = {"star": "synse", "neuron": "synse", "neuron-46": "star-46", "neuron-39": "star-39"}

ZERO_SHOT_SPLITS: Mapping[str, ZeroShotSplit] = {
    **_LISTS,
    **{
        name.replace(theirs, paper, 1): split
        for paper, theirs in _SAME.items()
        for name, split in _LISTS.items()
        if name.startswith(f"{theirs}-")
    },
}
# Those that are protocols of their datasets, which the list of a dataset in the cache spells out sample by sample; the
# others are described by their names, see `described_splits`.
SPELLED_OUT = ("synse-", "smie-")


def spelled_out(dataset: str, rule: SplitRule) -> dict[str, SplitRule]:
    """The protocols of a dataset's lists in `SPELLED_OUT`, without and with seen classes in the test part."""
    unseen = {
        name: split.unseen
        for name, split in ZERO_SHOT_SPLITS.items()
        if split.dataset == dataset and name.startswith(SPELLED_OUT)
    }
    plain: dict[str, SplitRule] = {name: partial(zero_shot, classes, rule) for name, classes in unseen.items()}
    return plain | {f"generalised-{name}": partial(generalised_zero_shot, unseen[name], rule) for name in unseen}


def unseen_digest(num_classes: int, unseen: Iterable[int]) -> str:
    """SHA-256 of which classes are unseen, as 64 hex digits: the same for two lists of the same classes."""
    return digest({"num_classes": num_classes, "unseen": sorted(unseen)})


def zero_shot(unseen: Sequence[int], rule: SplitRule, samples: Sequence[Sample]) -> Split:
    """Train on seen classes of the rule's train side, test on unseen classes of its test side, among these only.

    Unseen classes of the train side and seen classes of the test side are dropped (SMIE's interpretation, which DVTA
    shares). With `rule` and `unseen` bound it is a protocol.
    """
    return _kept(rule(samples), samples, hidden=unseen, candidates=unseen)


def generalised_zero_shot(unseen: Sequence[int], rule: SplitRule, samples: Sequence[Sample]) -> Split:
    """The same with the whole test side, seen and unseen classes together, among all."""
    return _kept(rule(samples), samples, hidden=unseen, candidates=())


def _kept(split: Split, samples: Sequence[Sample], hidden: Sequence[int], candidates: Sequence[int]) -> Split:
    label = {sample.id: sample.label for sample in samples}
    return Split(
        train=tuple(name for name in split.train if label[name] not in hidden),
        test=tuple(name for name in split.test if not candidates or label[name] in candidates),
        val=tuple(name for name in split.val if label[name] not in hidden),
        candidates=tuple(candidates),
        unseen=tuple(hidden),
    )
