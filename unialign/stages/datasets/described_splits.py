"""Protocols that a name describes, so that no list of samples has to be stored for them: which classes are unseen.

    LIST                  a published list of unseen classes, see `zero_shot_splits`: test on these, train on all others
    LIST-RULE             the same on another division of the samples: "star-55-5-xview"
    generalised-LIST      the test has samples of all classes
    half-3                the third draw of half of the classes: UCF101, HMDB51
    k600-1                the 160 classes of the first published draw out of the 220 that Kinetics-400 lacks
    unseen=FILE           the classes in a text file, one name or number (from 0) per line; also generalised-unseen=FILE

Where all tested classes are unseen, they are the only ones that a model chooses among.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import resources
from pathlib import Path

from unialign.cache.bounded import read_plain
from unialign.errors import UsageError
from unialign.stages.datasets.samples import Sample, Split, SplitRule
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS, generalised_zero_shot, zero_shot

GENERALISED, UNSEEN = "generalised-", "unseen="
_NUMBERED = re.compile(r"(half|k600)-([1-9]\d?)", re.ASCII)
K600_DRAWS = 3
# A list of class names; the longest, of Kinetics-700, is 14 kB.
MAX_BYTES = 2**20


def described_split(
    name: str, dataset: str, classes: Sequence[str], protocols: Mapping[str, SplitRule]
) -> SplitRule | None:
    """The protocol that a name describes for a dataset with these classes and protocols; None for any other name.

    Raises `UsageError` for a file that cannot be read or names something else than some of the classes.
    """
    plain = name.removeprefix(GENERALISED)
    rule = next(iter(protocols.values()))
    if plain.startswith(UNSEEN):
        unseen = read_unseen(Path(plain.removeprefix(UNSEEN)), classes)
    elif numbered := _NUMBERED.fullmatch(plain):
        kind, number = numbered[1], int(numbered[2])
        if kind == "half":
            unseen = half_of_classes(number, classes)
            # Without seen classes in the test, the classes alone divide the samples.
            rule = _whole if plain == name else rule
        elif dataset != "k600" or number > K600_DRAWS:
            return None
        else:
            unseen = k600_unseen(number, classes)
    else:
        found = _list_and_rule(plain, dataset, protocols)
        if found is None:
            return None
        unseen, rule = ZERO_SHOT_SPLITS[found[0]].unseen, found[1]
    return partial(zero_shot if plain == name else generalised_zero_shot, unseen, rule)


def lists_of(dataset: str) -> list[str]:
    """Names of the published lists of unseen classes of a dataset."""
    draws = [f"k600-{number}" for number in range(1, K600_DRAWS + 1)] if dataset == "k600" else []
    return [name for name, split in ZERO_SHOT_SPLITS.items() if split.dataset == dataset] + draws


def _list_and_rule(name: str, dataset: str, protocols: Mapping[str, SplitRule]) -> tuple[str, SplitRule] | None:
    """The list that a name begins with and the rule that it ends with, the first one by default; None if unknown.

    A published list goes with a published division of the samples, not with one that only this project makes.
    """
    known = set(lists_of(dataset)) & ZERO_SHOT_SPLITS.keys()
    if name in known and "holdout" not in protocols:
        return name, next(iter(protocols.values()))
    for rule, divide in protocols.items():
        base = name.removesuffix(f"-{rule}")
        if base != name and base in known:
            return base, divide
    return None


def _whole(samples: Sequence[Sample]) -> Split:
    """All samples on both sides, for protocols that divide them by class alone."""
    ids = tuple(sample.id for sample in samples)
    return Split(ids, ids)


def half_of_classes(number: int, names: Sequence[str]) -> tuple[int, ...]:
    """Labels of half of the classes (rounded down), ascending: draw `number` of any number of draws.

    Classes are ordered by the SHA-256 of "half <number>/<name>": the same on every machine. Rule of this project for
    the half-class protocol of UCF101 and HMDB51 (mean of ten draws), whose draws differ from paper to paper.
    """
    order = sorted(
        range(len(names)), key=lambda label: hashlib.sha256(f"half {number}/{names[label]}".encode()).digest()
    )
    return tuple(sorted(order[: len(names) // 2]))


def k600_unseen(number: int, names: Sequence[str]) -> tuple[int, ...]:
    """Labels of the 160 classes that a draw (1 to 3) tests. names: of the dataset's classes.

    Source: S. Chen and D. Huang, Elaborative Rehearsal for Zero-shot Action Recognition, ICCV 2021
    (DeLightCMU/ElaborativeRehearsal), used by X-CLIP and ALT. Raises `UsageError` if the dataset lacks one of them.
    """
    text = resources.files(__package__).joinpath("k600_zero_shot.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return _labels([name for draws, name in rows if str(number) in draws.split(",")], names, f"k600-{number}")


def read_unseen(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """Labels of the classes in a text file, ascending. names: of the dataset's classes.

    Raises `UsageError` for a file that cannot be read, is empty, names a class twice or an unknown one, or all of them.
    """
    try:
        lines = [line.strip() for line in read_plain(path, MAX_BYTES).decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a text file of unseen classes.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text at byte {error.start}.") from error
    wanted = [line for line in lines if line]
    found = _labels(wanted, names, str(path))
    if not found or len(found) == len(names):
        raise UsageError(f"{path}: names {len(found)} of {len(names)} classes; some must be unseen, and some seen.")
    return found


def _labels(wanted: Sequence[str], names: Sequence[str], where: str) -> tuple[int, ...]:
    places = {name.casefold(): label for label, name in enumerate(names)}
    # A dataset may have names that are numbers, so names and numbers are not mixed.
    numbers = {str(label): label for label in range(len(names))} if all(each.isdecimal() for each in wanted) else {}
    labels = []
    for each in wanted:
        label = places.get(each.replace("_", " ").casefold(), numbers.get(each))
        if label is None:
            raise UsageError(f"{where}: {each[:80]!r} is no class of the dataset; {_advice(each, places)}")
        labels.append(label)
    if len(set(labels)) < len(labels):
        raise UsageError(f"{where}: a class is named twice.")
    return tuple(sorted(labels))


def _advice(wanted: str, names: Collection[str]) -> str:
    """The name that was probably meant, in small letters; else how to name classes."""
    if wanted.isdecimal():
        return "give either names on all lines, or numbers from 0."
    spoken = wanted.replace("_", " ").casefold()
    near = [name for name in names if name.startswith(spoken)] or get_close_matches(spoken, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"its classes are {next(iter(names))!r}, ..."
