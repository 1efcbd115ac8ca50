"""Which samples of a split are in the caches, and which are missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.reader import Recorded
from unialign.cache.table import ABSENT
from unialign.errors import MissingCache, UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.samples import Labelled
from unialign.types import Json
from unialign.words import counted


@dataclass(frozen=True)
class Covered:
    """One side of a split. samples: those present in every store. missing: (id, label) of the others.

    lost: number of missing samples per store and class name.
    """

    samples: Labelled
    missing: tuple[tuple[str, int], ...]
    lost: Mapping[str, Mapping[str, int]]

    @property
    def missing_labels(self) -> list[int]:
        """Labels of the samples missing from a store."""
        return [label for _, label in self.missing]

    @property
    def share(self) -> float:
        """Usable fraction of this side of the split."""
        total = len(self.samples) + len(self.missing)
        return len(self.samples) / total if total else 1.0

    def result(self) -> dict[str, Json]:
        """Counts for `keys.json` and `result.json`."""
        return {
            "used": len(self.samples),
            "missing": len(self.missing),
            "missing_by_class": {store: dict(classes) for store, classes in self.lost.items()},
        }


def covered(
    dataset: Dataset,
    side: str,
    ids: Sequence[str],
    readers: Mapping[str, SampleReader],
    *,
    protocol: str,
    minimum: float,
) -> Covered:
    """The samples of one side ("train" or "test") of a split that are in the stores, sorted by id.

    Raises `MissingCache` if fewer than the fraction `minimum` are present, naming the command to run and the affected
    classes; `UsageError` for ids that are not in the dataset.
    """
    labels = {sample.id: sample.label for sample in dataset.samples}
    unknown = sorted(set(ids) - labels.keys())
    if unknown:
        raise UsageError(
            f"protocol {protocol} of {dataset.name} names {counted(len(unknown), 'unknown sample')} ({unknown[0]})."
        )
    held = {name: set(reader.ids) for name, reader in readers.items()}
    lost = {
        name: dict(sorted(Counter(dataset.classes[labels[each]] for each in ids if each not in known).items()))
        for name, known in held.items()
    }
    used = sorted(each for each in ids if all(each in known for known in held.values()))
    absent = sorted(set(ids) - set(used))
    found = Covered(
        Labelled(tuple(used), tuple(labels[each] for each in used)),
        tuple((each, labels[each]) for each in absent),
        {name: classes for name, classes in lost.items() if classes},
    )
    if found.share < minimum:
        worst = max(found.lost, key=lambda name: sum(found.lost[name].values()))
        raise MissingCache(
            f"the caches hold {len(used)} of {len(ids)} {side} samples of {dataset.name} {protocol} "
            f"({found.share:.1%}, needed {minimum:.1%}); {_spoken(worst, found.lost[worst])}; "
            f"{_way_out(worst, readers[worst], [each for each in ids if each not in held[worst]], dataset)}, or lower "
            "train.min_coverage."
        )
    return found


def _way_out(store: str, reader: SampleReader, lost: Sequence[str], dataset: Dataset) -> str:
    """What brings the lost samples into the store: another extraction does not, of those that it could not use."""
    rows = reader.table.find(lost) if isinstance(reader, Recorded) else np.full(len(lost), ABSENT)
    if isinstance(reader, Recorded) and (rows != ABSENT).all():
        counts = Counter(reader.status(each) for each in lost)
        told = ", ".join(f"{number:,} {status}" for status, number in counts.most_common())
        return f"they are quarantined ({told}), so repair these clips, or remove them"
    return f"run `unialign extract {store} --dataset {dataset.name}`"


def _spoken(store: str, classes: Mapping[str, int]) -> str:
    worst = sorted(classes.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {count}" for name, count in worst[:8])
    more = f" and {len(worst) - 8} more classes" if len(worst) > 8 else ""
    return f"{store} lacks {shown}{more}"
