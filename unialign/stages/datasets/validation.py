"""The part of a split used to select an epoch: its own val part, or a fraction of train, never test.

A fraction of train is drawn by the seed and the SHA-256 of ids: the same on every machine. If samples have a group
(person, recording), whole groups are held out, so that no group is on both sides; the number of groups is chosen to
come close to the fraction of each class. Without groups it is the fraction of each class, at least one sample of each
class that has two.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Split
from unialign.words import counted

# Sample attributes that name a group; the first one that samples have is used.
GROUPS = ("group", "performer", "subject")
# With fewer val samples one clip more or less is ten points; with fewer groups one of them is a third of train.
LEAST_SAMPLES, LEAST_GROUPS = 10, 4
# What tells heads apart needs fewer.
LEAST_TO_WEIGH = 8
# A clip of each class can be most of a small train, and what is left of it teaches less than val can say.
LARGEST_SHARE = 0.2
# If groups are large, the first one is held out even if it exceeds the fraction, up to this.
LARGEST = 1 / 3


@dataclass(frozen=True)
class Validation:
    """A split with the part for selecting an epoch. origin: "protocol" (the split's own val part), "train" or "none".

    why: one sentence that says what was held out, or why nothing was.
    """

    split: Split
    origin: str
    why: str


def with_validation(
    dataset: Dataset, protocol: str, share: float, seed: int, *, shots: int = 0, weighs: bool = False
) -> Validation:
    """The split of a protocol with a val part, if there can be one.

    share: fraction of the training samples, in [0, 0.5]; 0 holds out none. shots: training samples per class, if
    deliberately few: they are all that a run may see, so none of them is held out. weighs: val also decides what the
    heads of a model weigh, so fewer samples do. A train without groups gives up to `LARGEST_SHARE` of it, or `share` if
    that is more. Raises `UsageError` for a share out of range.
    """
    if not 0 <= share <= 0.5:
        raise UsageError(f"train.val_share is {share}; it must be between 0 (none) and 0.5.")
    split = dataset.split(protocol)
    if split.val:
        return Validation(split, "protocol", f"the val part of {protocol} ({counted(len(split.val), 'sample')})")
    if not share:
        return Validation(split, "none", "train.val_share is 0")
    if shots:
        return Validation(split, "none", f"train.shots is {shots}, and those samples are all that a run may see")
    labels = {sample.id: sample.label for sample in dataset.samples}
    attribute, units = groups_of(dataset, split.train)
    if attribute and len(units) < LEAST_GROUPS:
        why = f"train has {len(units)} of {attribute}; from {LEAST_GROUPS} on some are set aside"
        return Validation(split, "none", why)
    least, val = LEAST_TO_WEIGH if weighs else LEAST_SAMPLES, chosen(units, labels, share, seed)
    if weighs and len(val) < least <= LARGEST_SHARE * len(split.train):
        val = chosen(units, labels, LARGEST_SHARE, seed)
    if len(val) < least:
        why = f"a val part would have {len(val)} of the {len(split.train):,} training samples, and needs {least}"
        return Validation(split, "none", why)
    if not attribute and len(val) > max(share, LARGEST_SHARE) * len(split.train):
        why = f"one of each class would be {len(val)} of {len(split.train)} training samples, too large a part"
        return Validation(split, "none", why)
    kept = tuple(name for name in split.train if name not in val)
    aside = tuple(name for name in split.train if name in val)
    groups = sum(not val.isdisjoint(names) for names in units.values())
    of = f" ({groups} of {len(units)} by {attribute})" if attribute else ""
    why = f"{len(aside)} of {len(split.train)} training samples{of}, set aside by the seed"
    return Validation(replace(split, train=kept, val=aside), "train", why)


def groups_of(dataset: Dataset, ids: Sequence[str]) -> tuple[str, Mapping[str, Sequence[str]]]:
    """The attribute that groups these samples ("" for none) and the ids of each group; without groups, one per sample.

    A sample that lacks the attribute is a group of its own.
    """
    attributes = {sample.id: sample.attributes for sample in dataset.samples}
    found = [name for name in GROUPS if any(str(attributes[each].get(name, "")) for each in ids)]
    if not found:
        return "", {each: (each,) for each in ids}
    units: dict[str, list[str]] = defaultdict(list)
    for each in ids:
        group = str(attributes[each].get(found[0], ""))
        units[f"{found[0]} {group}" if group else each].append(each)
    return found[0], units


def chosen(units: Mapping[str, Sequence[str]], labels: Mapping[str, int], share: float, seed: int) -> set[str]:
    """The ids of the held-out units: about the fraction of each class; every class keeps a sample in train.

    Units are visited in the order of the SHA-256 of seed and name. A unit is held out if at least half of it is what
    classes still lack; if that selects none, the first one that is at most `LARGEST` of all.
    """
    left = Counter(labels[name] for names in units.values() for name in names)
    total = sum(left.values())
    lack = {label: max(1, round(share * count)) if count > 1 else 0 for label, count in left.items()}
    ordered = sorted(units, key=lambda unit: hashlib.sha256(f"{seed} val {unit}".encode()).digest())
    val: set[str] = set()
    for unit in ordered:
        counts = Counter(labels[name] for name in units[unit])
        gain = sum(min(lack[label], count) for label, count in counts.items())
        if 2 * gain < counts.total() or any(left[label] <= count for label, count in counts.items()):
            continue
        val.update(units[unit])
        left -= counts
        lack = {label: max(0, lacking - counts[label]) for label, lacking in lack.items()}
    if val:
        return val
    for unit in ordered:
        counts = Counter(labels[name] for name in units[unit])
        if counts.total() <= LARGEST * total and all(left[label] > count for label, count in counts.items()):
            return set(units[unit])
    return val
