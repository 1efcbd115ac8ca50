"""FineGym99 and FineGym288: elements of gymnastics, as trimmed clips.

Source: D. Shao et al., FineGym, CVPR 2020: `gym99_train_element_v1.1.txt` (or v1.0) and `gym99_val_element.txt` with
lines `<youtube id>_E_<start>_<end>_A_<start>_<end> <label>`, `gym99_categories.txt` with `Clabel: 0; set: 1; Glabel: 1;
<name>`; the same for gym288. Clips are `<that id>.mp4`; one that is not here is cut from the whole video
`<youtube id>.mp4`, if that and `finegym_annotation_info_v1.1.json` (or v1.0) are: `{video: {event: {"timestamps":
[[start, end]], "segments": {element: {"timestamps": [[start, end], ...]}}}}}`, those of an event in seconds of the
video, those of an element relative to its event, from the first start to the last end. Videos vanish from YouTube, so
most copies lack some. Published figures are top-1 and the mean over classes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.official_lists import Cut, find_lists, listed_dataset, read_json, read_lines, the_list
from unialign.types import Json

NUM_CLASSES = {"gym99": 99, "gym288": 288}
_LINE = re.compile(r"([\w-]{11}_E_\d{6}_\d{6}_A_\d{4,6}_\d{4,6}) (\d{1,3})", re.ASCII)
_CATEGORY = re.compile(r"Clabel:\s*(\d+);\s*set:\s*(\d+);\s*Glabel:\s*\d+;\s*(\S.*)")
# From set_categories.txt. Some elements have the same name in two sets, such as a salto within an exercise and as its
# dismount.
_SETS = {
    1: "vault",
    21: "leap, jump, hop",
    22: "turn",
    23: "side salto",
    24: "front salto",
    25: "back salto",
    31: "leap, jump, hop",
    32: "turn",
    33: "flight salto",
    34: "flight handspring",
    35: "dismount",
    41: "circle",
    42: "flight on the same bar",
    43: "transition flight",
    44: "dismount",
}


def load_finegym(root: Path, name: str, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "gym99" or "gym288"; val is used for testing.

    Raises `UsageError` without the three lists, with both versions of the training list, for lists in another format,
    and as `listed_dataset` does.
    """
    found = find_lists(
        root,
        roots,
        {
            "train": lambda each: bool(re.fullmatch(rf"{name}_train_element(_v1\.[01])?\.txt", each)),
            "val": lambda each: each == f"{name}_val_element.txt",
            "categories": lambda each: each == f"{name}_categories.txt",
            "times": lambda each: bool(re.fullmatch(r"finegym_annotation_info_v1\.[01]\.json", each)),
        },
    )
    path = the_list(found, "categories", root, f"{name}_categories.txt")
    matches = [_CATEGORY.fullmatch(line) for line in read_lines(path)]
    named = [(match[3], int(match[2])) for at, match in enumerate(matches) if match and int(match[1]) == at]
    times = Counter(element for element, _ in named)
    classes = [f"{each}, {_SETS.get(its, its)}" if times[each] > 1 else each for each, its in named]
    if len(classes) != NUM_CLASSES[name] or len(matches) != len(classes):
        raise UsageError(f"{path}: is no list of {NUM_CLASSES[name]} lines `Clabel: 0; set: 1; Glabel: 1; <name>`.")
    labels: dict[str, int] = {}
    part_of: dict[str, str] = {}
    for part, called in (("train", f"{name}_train_element_v1.1.txt"), ("val", f"{name}_val_element.txt")):
        path = the_list(found, part, root, called)
        for line in read_lines(path):
            match = _LINE.fullmatch(line)
            if match is None or int(match[2]) >= len(classes):
                raise UsageError(f"{path}: {line[:80]!r} is no clip and label from 0 to {len(classes) - 1}.")
            if part_of.setdefault(match[1], part) != part:
                raise UsageError(f"{path}: {match[1]!r} is in both parts.")
            labels[match[1]] = int(match[2])
    cuts: dict[str, Cut] = {}
    if found["times"]:
        cuts = read_cuts(the_list(found, "times", root, "finegym_annotation_info_v1.1.json"))
    cuts = {each: cut for each, cut in cuts.items() if each in labels}
    return listed_dataset(name, root, roots, classes=classes, labels=labels, parts={"official": part_of}, cuts=cuts)


def read_cuts(path: Path) -> dict[str, Cut]:
    """Where each element is in its whole video, by id, from the official annotations.

    Raises `UsageError` for a file of another form.
    """
    cuts: dict[str, Cut] = {}
    for video, events in _fields(read_json(path), path, "the file").items():
        for event, content in _fields(events, path, video).items():
            its = _fields(content, path, event)
            start, _ = _times(its.get("timestamps"), path, f"{video} {event}")
            for element, part in _fields(its.get("segments") or {}, path, event).items():
                where = f"{video} {event} {element}"
                first, last = _times(_fields(part, path, where).get("timestamps"), path, where)
                cuts[f"{video}_{event}_{element}"] = Cut(video, (start + first, start + last))
    return cuts


def _fields(value: Json, path: Path, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {where[:80]!r} is no object; this is not FineGym's annotation file.")
    return value


def _times(value: Json, path: Path, where: str) -> tuple[Fraction, Fraction]:
    """The first start and the last end of a list of [start, end] in seconds, to the microsecond."""
    pairs = value if isinstance(value, list) else []
    numbers = [number for pair in pairs if isinstance(pair, list) and len(pair) == 2 for number in pair]
    fine = all(isinstance(number, int | float) and 0 <= number < 10**6 for number in numbers)
    if not numbers or len(numbers) != 2 * len(pairs) or not fine or not numbers[0] < numbers[-1]:
        raise UsageError(f"{path}: the timestamps of {where[:80]!r} are not [start, end] in seconds.")
    first, last = (Fraction(round(number * 10**6), 10**6) for number in (numbers[0], numbers[-1]))
    return first, last
