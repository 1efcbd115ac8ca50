"""NTU RGB+D 60 and 120: two datasets of one collection, distinguished by setup and action number.

Source: A. Shahroudy et al., "NTU RGB+D", CVPR 2016; J. Liu et al., "NTU RGB+D 120", TPAMI 2020;
https://github.com/shahroudy/NTURGB-D for the file names, subject lists and samples with missing skeletons.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.ntu_classes import NTU_CLASSES
from unialign.stages.datasets.scan import kinds_of, refuse_link_outside, walk_files
from unialign.stages.datasets.splits import SplitRule, by_attribute
from unialign.stages.datasets.zero_shot_splits import spelled_out
from unialign.stages.video_containers import VIDEO_SUFFIXES

_NAME = r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})"
_NAME_ONLY = re.compile(_NAME, re.ASCII)
_FILE = re.compile(rf"({_NAME})(?:\.skeleton|_rgb\.(?:avi|mp4|mkv))", re.ASCII)

TRAIN_SUBJECTS_60 = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
TRAIN_SUBJECTS_120 = TRAIN_SUBJECTS_60 | {
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94),
    *(95, 97, 98, 100, 103),
}
TRAIN_CAMERAS = frozenset({2, 3})
TRAIN_SETUPS = frozenset(range(2, 33, 2))


@dataclass(frozen=True)
class NtuName:
    """The five numbers of a sample name, each from 1."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int

    def __str__(self) -> str:
        return f"S{self.setup:03d}C{self.camera:03d}P{self.performer:03d}R{self.replication:03d}A{self.action:03d}"

    @property
    def label(self) -> int:
        """Class index, from 0."""
        return self.action - 1

    @property
    def attributes(self) -> dict[str, int | str]:
        """The attributes that splits are based on."""
        return {
            "setup": self.setup,
            "camera": self.camera,
            "performer": self.performer,
            "replication": self.replication,
        }


@dataclass(frozen=True)
class _Edition:
    """The highest numbers in the names of one dataset."""

    setup: int
    performer: int
    action: int
    protocols: Mapping[str, SplitRule]


_EDITIONS = {
    "ntu60": _Edition(
        setup=17,
        performer=40,
        action=60,
        protocols={
            "xsub": partial(by_attribute, "performer", TRAIN_SUBJECTS_60),
            "xview": partial(by_attribute, "camera", TRAIN_CAMERAS),
            **spelled_out("ntu60", partial(by_attribute, "performer", TRAIN_SUBJECTS_60)),
        },
    ),
    "ntu120": _Edition(
        setup=32,
        performer=106,
        action=120,
        protocols={
            "xsub": partial(by_attribute, "performer", TRAIN_SUBJECTS_120),
            "xset": partial(by_attribute, "setup", TRAIN_SETUPS),
            **spelled_out("ntu120", partial(by_attribute, "performer", TRAIN_SUBJECTS_120)),
        },
    ),
}


def parse_name(name: str) -> NtuName:
    """The numbers of a name such as "S001C002P003R002A013". Raises `UsageError` for any other string."""
    match = _NAME_ONLY.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} is not a sample name of NTU RGB+D; they look like S001C002P003R002A013.")
    return NtuName(*(int(number) for number in match.groups()))


@cache
def missing_skeletons() -> frozenset[str]:
    """The 535 sample names whose skeleton is missing or incomplete; the 302 of them with setup <= 17 concern NTU60."""
    text = resources.files(__package__).joinpath("ntu_missing_skeletons.txt").read_text(encoding="ascii")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def find_ntu_files(root: Path, roots: Sequence[Path] = ()) -> tuple[dict[str, dict[str, Path]], tuple[str, ...]]:
    """The files below `root` by sample name and kind ("video", "skeleton"), and notes on files that look similar.

    Expected are `<name>_rgb.avi` (or .mp4, .mkv) and `<name>.skeleton`; others with such endings are noted. roots:
    where links may point besides the root. Raises `UsageError` for two files of one kind with the same name and for
    links that point elsewhere.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    others: list[Path] = []
    for entry in walk_files(root, roots):
        match = _FILE.fullmatch(entry.name)
        path = Path(entry.path)
        if match is None:
            if path.suffix.lower() in {*VIDEO_SUFFIXES, ".skeleton"}:
                others.append(path)
            continue
        if entry.is_symlink():
            refuse_link_outside(path, root, roots)
        kind = "skeleton" if entry.name.endswith(".skeleton") else "video"
        other = files[match[1]].setdefault(kind, path)
        if other is not path:
            raise UsageError(f"{other} and {path}: two {kind} files of one sample; remove or move one of them.")
    named = "names are S001C002P003R002A013.skeleton and S001C002P003R002A013_rgb.avi"
    notes = (f"files not taken: {kinds_of(others)}, such as {others[0].name}; {named}",) if others else ()
    return dict(files), notes


def load_ntu(root: Path, name: str, roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "ntu60" or "ntu120" (collection "ntu") from all folders below `root`.

    "ntu60" takes setups 1-17 and actions 1-60, even if the folder holds the 120 extension. The published list of
    missing skeletons applies to skeletons only: a sample on it has no "skeleton" file. If it has a video, it is kept
    (RGB experiments use all 56,880 and 114,480 samples), otherwise it is left out (skeleton experiments use 56,578 and
    113,945). Raises `UsageError` for a root without samples, duplicate files, links out of the root, and numbers that
    the dataset does not have.

    Protocols: "xsub" and "xview" or "xset"; on the subjects of "xsub" the published zero-shot splits, such as
    "synse-55-5", which test on unseen classes only, and "generalised-synse-55-5", which test on all; more of them by
    name, see `described_splits`.
    """
    edition = _EDITIONS[name]
    samples = []
    found, notes = find_ntu_files(root, roots)
    for identifier, files in sorted(found.items()):
        numbers = parse_name(identifier)
        if name == "ntu60" and (numbers.setup > edition.setup or numbers.action > edition.action):
            continue
        _check_numbers(numbers, edition, next(iter(files.values())), name)
        if identifier in missing_skeletons():
            files = {kind: path for kind, path in files.items() if kind != "skeleton"}
        if files:
            samples.append(Sample(identifier, numbers.label, files, numbers.attributes))
    if not samples:
        raise UsageError(
            f"{root}: no file of {name} found; expected names such as S001C001P001R001A001_rgb.avi or "
            "S001C001P001R001A001.skeleton in it or below it."
        )
    return Dataset(
        name=name,
        collection="ntu",
        root=root,
        classes=NTU_CLASSES[: edition.action],
        samples=tuple(samples),
        protocols=edition.protocols,
        notes=notes,
        published=True,
    )


def _check_numbers(numbers: NtuName, edition: _Edition, path: Path, name: str) -> None:
    limits = {
        "setup": (numbers.setup, edition.setup),
        "camera": (numbers.camera, 3),
        "performer": (numbers.performer, edition.performer),
        "replication": (numbers.replication, 2),
        "action": (numbers.action, edition.action),
    }
    for field, (number, highest) in limits.items():
        if not 1 <= number <= highest:
            raise UsageError(
                f"{path}: {field} {number} is not one of {name} (1 to {highest}); rename or remove the file."
            )
