"""Rules that divide samples into train, val and test, used as the protocols of datasets.

Each takes the samples last, so that `functools.partial` makes a protocol of it; the parts never overlap.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.words import counted

SplitRule = Callable[[Sequence[Sample]], Split]

# What the parts of a split are called by lists, folders and pickles, in any case.
PARTS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}

# "trainset", "test_set", "val-split".
_SUFFIX = re.compile(r"[ _-]?(set|split|data)$")

# One in four: large enough to tell classes apart in sets of a few dozen clips.
TEST_SHARE = 4


def part_named(name: str) -> str | None:
    """The part that a word of `PARTS` means, in any case, also before set, split or data; None for any other text."""
    return PARTS.get(_SUFFIX.sub("", name.strip().casefold()))


def check_words(words: Iterable[str], where: str) -> None:
    """Raise `UsageError` where words of `PARTS` that are used together leave open what is tested."""
    used = {_SUFFIX.sub("", word.strip().casefold()) for word in words}
    if "eval" in used and used & {"test", "testing"}:
        raise UsageError(f"{where}: has both a test and an eval part; call the one to choose a model by val.")


def by_attribute(attribute: str, train: Container[int | str], samples: Sequence[Sample]) -> Split:
    """Train are the samples whose attribute is in `train`, test are all others."""
    return Split(
        train=tuple(sample.id for sample in samples if sample.attributes[attribute] in train),
        test=tuple(sample.id for sample in samples if sample.attributes[attribute] not in train),
    )


def by_part(part_of: Mapping[str, str], samples: Sequence[Sample]) -> Split:
    """The part that `part_of` names for each id ("train", "val" or "test"); a sample without one is in none.

    Where nobody is in test, val is what is tested: data sets that publish two parts call the second one either.
    """
    train, val, test = (
        tuple(each.id for each in samples if part_of.get(each.id) == part) for part in ("train", "val", "test")
    )
    return Split(train, test, val) if test else Split(train, val)


def holdout(samples: Sequence[Sample]) -> Split:
    """A quarter of each class for testing, at least one sample of a class that has two or more.

    Which ones is decided by the SHA-256 of the ids: the same samples give the same split on every machine.
    """
    by_label: dict[int, list[str]] = defaultdict(list)
    for sample in samples:
        by_label[sample.label].append(sample.id)
    test = set().union(*(_quarter(ids) for ids in by_label.values()))
    return _parts(samples, test)


def leave_groups_out(attribute: str, samples: Sequence[Sample]) -> Split:
    """A quarter of the groups (at least one of two or more) for testing, chosen by the SHA-256 of their names."""
    test_groups = _quarter({str(sample.attributes[attribute]) for sample in samples})
    return _parts(samples, {sample.id for sample in samples if str(sample.attributes[attribute]) in test_groups})


def few_shots(dataset: Dataset, shots: int, seed: int, protocol: str | None = None) -> Dataset:
    """The dataset with `shots` training samples of each class in every protocol; val and test stay. 0: all, as it is.

    protocol: one that may be described rather than named, see `Dataset.rule`.

    Which ones is decided by the SHA-256 of seed and id: those of fewer shots are among those of more. A split raises
    `UsageError` where a class has fewer training samples.
    """
    if not shots:
        return dataset
    names = dict.fromkeys([*dataset.protocols, protocol or dataset.default_protocol])
    few = {name: partial(_few, dataset.rule(name), dataset.classes, shots, seed) for name in names}
    return replace(dataset, protocols=few)


def _few(rule: SplitRule, classes: Sequence[str], shots: int, seed: int, samples: Sequence[Sample]) -> Split:
    split = rule(samples)
    labels = {sample.id: sample.label for sample in samples}
    by_label: dict[int, list[str]] = defaultdict(list)
    for name in split.train:
        by_label[labels[name]].append(name)
    for label, names in sorted(by_label.items()):
        if len(names) < shots:
            raise UsageError(
                f"class {classes[label]!r} has {counted(len(names), 'training sample')}, but train.shots is {shots}; "
                "lower it."
            )
    kept = set().union(*(_ordered(names, f"{seed} ")[:shots] for names in by_label.values()))
    return replace(split, train=tuple(name for name in split.train if name in kept))


def _quarter(names: Iterable[str]) -> set[str]:
    ordered = _ordered(names)
    return set(ordered[: max(len(ordered) // TEST_SHARE, 1 if len(ordered) > 1 else 0)])


def _ordered(names: Iterable[str], salt: str = "") -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}{name}".encode()).digest())


def _parts(samples: Sequence[Sample], test: Container[str]) -> Split:
    return Split(
        train=tuple(sample.id for sample in samples if sample.id not in test),
        test=tuple(sample.id for sample in samples if sample.id in test),
    )
