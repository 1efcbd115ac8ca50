"""Rules that divide samples into train, val and test, used as the protocols of datasets.

Each takes the samples last, so that `functools.partial` makes it a protocol; the parts never overlap.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.samples import Sample, Split
from unialign.stages.datasets.samples import SplitRule as SplitRule
from unialign.words import counted

# Names for the parts of a split in lists, folders and pickles, case-insensitive.
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

# A note on lists with two parts, see `by_part`.
VAL_IS_TESTED = "there is no test part, so val is what is tested, and no epoch is chosen on it"

# One in four: large enough to distinguish classes in datasets of a few dozen clips.
TEST_SHARE = 4


def part_named(name: str) -> str | None:
    """The part that a word of `PARTS` means, case-insensitive, also before set, split or data; None for others."""
    return PARTS.get(_SUFFIX.sub("", name.strip().casefold()))


def check_words(words: Iterable[str], where: str) -> None:
    """Raise `UsageError` if words of `PARTS` that are used together are ambiguous about what is tested."""
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
    """The part given by `part_of` for each id ("train", "val" or "test"); a sample without one is in none.

    If test is empty, val is used for testing: datasets that publish two parts use either name for the second one.
    """
    train, val, test = (
        tuple(each.id for each in samples if part_of.get(each.id) == part) for part in ("train", "val", "test")
    )
    return Split(train, test, val) if test else Split(train, val)


def holdout(samples: Sequence[Sample]) -> Split:
    """A quarter of each class for testing, at least one sample of a class that has two or more.

    Chosen by the SHA-256 of the ids: the same samples give the same split on every machine.
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
    """The dataset with `shots` training samples per class in every protocol; val and test are kept. 0: all samples.

    protocol: one that may be described instead of named, see `Dataset.rule`.

    Chosen by the SHA-256 of seed and id: the samples of fewer shots are a subset of those of more. A split raises
    `UsageError` if a class has fewer training samples.
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
