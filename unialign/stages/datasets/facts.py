"""What was understood of a dataset, shown before any computation starts."""

from collections import Counter

from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.split_problems import split_problems
from unialign.types import Json
from unialign.words import counted

# Limits of the lines for people: all of NTU RGB+D 120, about one terminal page. The object has everything.
_CLASSES_SHOWN = 120
_PROTOCOLS_SHOWN = 12


def dataset_facts(dataset: Dataset, protocol: str | None = None) -> dict[str, Json]:
    """Samples per class, sizes of the parts of each protocol, and notes, as the object that `--json` prints.

    protocol: whose problems are among the notes; the first one by default.
    """
    counts = Counter(sample.label for sample in dataset.samples)
    splits = {name: dataset.split(name) for name in dataset.protocols}
    return {
        "name": dataset.name,
        "collection": dataset.collection,
        "samples": len(dataset.samples),
        "classes": {name: counts[label] for label, name in enumerate(dataset.classes)},
        "protocols": {
            name: {"train": len(split.train), "val": len(split.val), "test": len(split.test)}
            for name, split in splits.items()
        },
        "notes": [*dataset.notes, *split_problems(dataset, protocol)],
    }


def shown_facts(facts: dict[str, Json]) -> dict[str, str]:
    """The same as human-readable lines."""
    counts = {name: count for name, count in facts["classes"].items() if count}
    absent = len(facts["classes"]) - len(counts)
    classes = _some([f"{name} {count:,}" for name, count in counts.items()], _CLASSES_SHOWN)
    if absent:
        classes += f"; {absent:,} without clips"
    sizes = [
        f"{name}: {', '.join(f'{count:,} {part}' for part, count in parts.items() if count or part != 'val')}"
        for name, parts in facts["protocols"].items()
    ]
    shown = {
        "dataset": f"{facts['name']}: {counted(facts['samples'], 'clip')}, "
        f"{counted(len(facts['classes']), 'class', 'classes')}",
        "classes": classes,
        "splits": _some(sizes, _PROTOCOLS_SHOWN, "; "),
    }
    # One line each, below one another.
    return shown | ({"notes": f"\n{' ' * 9}".join(facts["notes"])} if facts["notes"] else {})


def _some(items: list[str], count: int, sign: str = ", ") -> str:
    more = [f"and {len(items) - count:,} more"] if len(items) > count else []
    return sign.join([*items[:count], *more])
