"""Something-Something V2: 174 templates of actions with objects.

Source: R. Goyal et al., ICCV 2017; version 2 as Qualcomm releases it: `labels.json`, `train.json`, `validation.json`
and `test.json` (also with `something-something-v2-` in front), videos `<id>.webm`. A mirrored clip changes its class
("pushing something from left to right"), so flips are rejected.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.official_lists import find_lists, listed_dataset, read_json, the_list

_PREFIX = "something-something-v2-"


def load_ssv2(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "ssv2": classes are the templates without brackets, numbered as in labels.json; val is the test part.

    The test list has no labels and is not used. Raises `UsageError` without the lists, for malformed lists, and as
    `listed_dataset` does.
    """
    found = find_lists(root, roots, {kind: partial(_is_list, kind) for kind in ("labels", "train", "validation")})
    path = the_list(found, "labels", root, "labels.json")
    numbers = read_json(path)
    count = len(numbers) if isinstance(numbers, dict) else 0
    if not count or sorted(map(str, range(count))) != sorted(str(number) for number in numbers.values()):
        raise UsageError(f"{path}: is no object of templates and their numbers from 0.")
    label_of = {str(name): int(number) for name, number in numbers.items()}
    labels: dict[str, int] = {}
    part_of: dict[str, str] = {}
    for kind, part in (("train", "train"), ("validation", "val")):
        path = the_list(found, kind, root, f"{kind}.json")
        entries = read_json(path)
        for at, entry in enumerate(entries if isinstance(entries, list) else [None]):
            name = str(entry.get("id", "")) if isinstance(entry, dict) else ""
            template = str(entry.get("template", "")).replace("[", "").replace("]", "") if name else ""
            if not name or template not in label_of:
                raise UsageError(f"{path}: entry {at} has no 'id' and 'template' of labels.json.")
            if part_of.setdefault(name, part) != part:
                raise UsageError(f"{path}: {name[:80]!r} is in both parts.")
            labels[name] = label_of[template]
    return listed_dataset(
        "ssv2",
        root,
        roots,
        classes=sorted(label_of, key=label_of.__getitem__),
        labels=labels,
        parts={"official": part_of},
        mirror=False,
    )


def _is_list(kind: str, name: str) -> bool:
    return name in (f"{kind}.json", f"{_PREFIX}{kind}.json")
