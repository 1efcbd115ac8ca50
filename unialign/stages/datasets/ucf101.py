"""UCF101 and HMDB51, each with three official splits.

Source: K. Soomro et al., UCF101, 2012: `ucfTrainTestlist/` with classInd.txt, trainlist0k.txt (`<class>/<clip>.avi 1`)
and testlist0k.txt (without labels). H. Kuehne et al., HMDB, ICCV 2011: `<class>_test_split<k>.txt` with lines
`<clip>.avi` and 1 (training), 2 (testing) or 0 (unused).
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.official_lists import find_lists, listed_dataset, read_lines, the_list
from unialign.stages.datasets.scan import clip_name

_UCF_LIST = re.compile(r"(train|test)list0([123])\.txt", re.ASCII)
_HMDB_LIST = re.compile(r"(.+)_test_split([123])\.txt", re.ASCII)
_HMDB_LINE = re.compile(r"(\S.*)\.avi\s+([012])")
_HMDB_PARTS = {"1": "train", "2": "test"}


def load_ucf101(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "ucf101": clips named as released (`v_YoYo_g08_c01`) in any folder below `root`, next to the lists.

    Raises `UsageError` without classInd.txt and a pair of lists, for malformed lists, and as `listed_dataset` does.
    """
    found = find_lists(
        root,
        roots,
        {"classes": lambda name: name == "classind.txt", "lists": lambda name: bool(_UCF_LIST.fullmatch(name))},
    )
    names: dict[str, int] = {}
    path = the_list(found, "classes", root, "classInd.txt")
    for line in read_lines(path):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name:
            raise UsageError(f"{path}: {line[:80]!r} is not `{len(names) + 1} <class>`.")
        names[name] = len(names)
    labels: dict[str, int] = {}
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(found["lists"]):
        part, number = _UCF_LIST.fullmatch(path.name.lower()).groups()  # type: ignore[union-attr]
        for line in read_lines(path):
            clip = PurePosixPath(line.split()[0])
            if len(clip.parts) != 2 or clip.parts[0] not in names:
                raise UsageError(
                    f"{path}: {line[:80]!r} is not `<class>/<clip>.avi` of one of the {len(names)} classes."
                )
            if parts[f"split{number}"].setdefault(clip.stem, part) != part:
                raise UsageError(f"{path}: {clip.stem!r} is in both parts of split {number}.")
            labels[clip.stem] = names[clip.parts[0]]
    whole = {name: part_of for name, part_of in sorted(parts.items()) if len(set(part_of.values())) == 2}
    if not whole:
        raise UsageError(f"{root}: the official lists trainlist01.txt and testlist01.txt are needed below it.")
    return listed_dataset("ucf101", root, roots, classes=list(names), labels=labels, parts=whole)


def load_hmdb51(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "hmdb51": `<class>/<clip>.avi` below `root`, next to the split lists; ids are `<class>/<clip>`.

    Clips that a split marks as unused are in none of its parts. Raises `UsageError` without lists, for malformed lists,
    and as `listed_dataset` does.
    """
    found = find_lists(root, roots, {"lists": lambda name: bool(_HMDB_LIST.fullmatch(name))})["lists"]
    matches = sorted((match.groups(), path) for path in found if (match := _HMDB_LIST.fullmatch(path.name)))
    if not matches:
        raise UsageError(f"{root}: the official lists brush_hair_test_split1.txt, ... are needed below it.")
    names = sorted({action for (action, _), _ in matches})
    labels: dict[str, int] = {}
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for (action, number), path in matches:
        for line in read_lines(path):
            match = _HMDB_LINE.fullmatch(line)
            if match is None:
                raise UsageError(f"{path}: {line[:80]!r} is not `<clip>.avi` and 0, 1 or 2.")
            labels[f"{action}/{match[1]}"] = names.index(action)
            if match[2] in _HMDB_PARTS:
                parts[f"split{number}"][f"{action}/{match[1]}"] = _HMDB_PARTS[match[2]]
    return listed_dataset(
        "hmdb51",
        root,
        roots,
        classes=names,
        labels=labels,
        parts=dict(sorted(parts.items())),
        id_of=lambda path: f"{path.parent.name}/{clip_name(path)}",
    )
