"""Rules that part samples into train and test, used as the protocols of datasets.

Each takes the samples last, so that `functools.partial` makes a protocol of it; train and test never overlap.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from functools import partial

from unialign.cache.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample, Split

SplitRule = Callable[[Sequence[Sample]], Split]

# One in four: large enough to tell classes apart in sets of a few dozen clips.
TEST_SHARE = 4


def by_attribute(attribute: str, train: Container[int | str], samples: Sequence[Sample]) -> Split:
    """Train are the samples whose attribute is in `train`, test are all others."""
    return Split(
        train=tuple(sample.id for sample in samples if sample.attributes[attribute] in train),
        test=tuple(sample.id for sample in samples if sample.attributes[attribute] not in train),
    )


def by_id(train: Container[str], test: Container[str], samples: Sequence[Sample]) -> Split:
    """Train and test are the samples that the two lists name; a sample in neither is in neither part."""
    return Split(
        train=tuple(sample.id for sample in samples if sample.id in train),
        test=tuple(sample.id for sample in samples if sample.id in test),
    )


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


def few_shots(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """The dataset with `shots` training samples of each class in every protocol; test sides stay. 0: all, as it is.

    Which ones is decided by the SHA-256 of seed and id: those of fewer shots are among those of more. A split raises
    `UsageError` where a class has fewer training samples.
    """
    if not shots:
        return dataset
    few = {name: partial(_few, rule, dataset.classes, shots, seed) for name, rule in dataset.protocols.items()}
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
                f"class {classes[label]!r} has {len(names)} training samples, but train.shots is {shots}; lower it."
            )
    kept = set().union(*(_ordered(names, f"{seed} ")[:shots] for names in by_label.values()))
    return Split(tuple(name for name in split.train if name in kept), split.test)


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
