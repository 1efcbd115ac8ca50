"""Diving48, version 2: 48 dives, distinguished by take-off, somersault, twist and flight position.

Source: Y. Li et al., RESOUND, ECCV 2018; the cleaned labels of 2020: `Diving48_V2_train.json` and
`Diving48_V2_test.json`, lists of {"vid_name", "label", ...}, `Diving48_vocab.json`, 48 lists of four attributes,
`rgb/<vid_name>.mp4`. Labels of version 1 are wrong in many places, so its files are rejected.
"""

from collections.abc import Sequence
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.official_lists import find_lists, listed_dataset, read_json, the_list

NUM_CLASSES = 48


def load_diving48(root: Path, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "diving48" from the V2 lists and the videos below `root`.

    Raises `UsageError` without the three files, for files in another format, and as `listed_dataset` does.
    """
    found = find_lists(
        root,
        roots,
        {
            "train": lambda name: name == "diving48_v2_train.json",
            "test": lambda name: name == "diving48_v2_test.json",
            "vocab": lambda name: name == "diving48_vocab.json",
        },
    )
    path = the_list(found, "vocab", root, "Diving48_vocab.json")
    vocab = read_json(path)
    if not isinstance(vocab, list) or len(vocab) != NUM_CLASSES or not all(isinstance(each, list) for each in vocab):
        raise UsageError(f"{path}: is no list of {NUM_CLASSES} dives, each a list of attributes.")
    classes = [", ".join(str(part) for part in dive if str(part)) for dive in vocab]
    labels: dict[str, int] = {}
    part_of: dict[str, str] = {}
    for part in ("train", "test"):
        path = the_list(found, part, root, f"Diving48_V2_{part}.json")
        entries = read_json(path)
        for at, entry in enumerate(entries if isinstance(entries, list) else [None]):
            name, label = (entry.get("vid_name"), entry.get("label")) if isinstance(entry, dict) else (None, None)
            if not isinstance(name, str) or type(label) is not int or not 0 <= label < NUM_CLASSES:
                raise UsageError(f"{path}: entry {at} has no 'vid_name' and 'label' from 0 to {NUM_CLASSES - 1}.")
            if part_of.setdefault(name, part) != part:
                raise UsageError(f"{path}: {name[:80]!r} is in both parts.")
            labels[name] = label
    return listed_dataset("diving48", root, roots, classes=classes, labels=labels, parts={"official": part_of})
