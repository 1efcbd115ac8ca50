"""PKU-MMD, phases 1 and 2: long Kinect v2 recordings of 51 actions, cut into action instances.

Legend: T frames, M bodies (2), V joints (25, layout "ntu-25").

Source: C. Liu et al., PKU-MMD, 2017 (ECHO960/PKU-MMD): skeletons `PKU_Skeleton_Renew/0002-L.txt` (or .skeleton), a line
per frame of 150 numbers, two bodies of 25 joints in meters, zeros for an absent body; labels
`Train_Label_PKU_final/0002-L.txt`, lines `label,start,end,confidence` with labels and frames from 1, both ends
included; `cross-subject.txt` and `cross-view.txt`, a header, training names, a header, validation names. Phase 2 is the
same with recordings `A01N01-L` and lists `cross_subject_v2.txt` and `cross_view_v2.txt`; its labels have the numbers of
the 51 actions, of which it holds 41.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.official_lists import read_lines
from unialign.stages.datasets.packed_files import arrays_digest, remembered
from unialign.stages.datasets.scan import refuse_link_outside, walk_files
from unialign.stages.datasets.skeleton_formats import METRE, KeypointClip, SkeletonFormat
from unialign.stages.datasets.splits import SplitRule, by_part, holdout
from unialign.stages.datasets.zero_shot_splits import spelled_out
from unialign.stages.skeleton_layouts import NTU_25
from unialign.words import counted

PKU_CLASSES = (
    *("bow", "brushing hair", "brushing teeth", "check time (from watch)", "cheer up", "clapping"),
    *("cross hands in front (say stop)", "drink water", "drop", "eat meal/snack", "falling"),
    *("giving something to other person", "hand waving", "handshaking", "hopping (one foot jumping)"),
    *("hugging other person", "jump up", "kicking other person", "kicking something", "make a phone call/answer phone"),
    *("pat on back of other person", "pickup", "playing with phone/tablet", "point finger at the other person"),
    *("pointing to something with finger", "punching/slapping other person", "pushing other person"),
    *("put on a hat/cap", "put something inside pocket", "reading", "rub two hands together", "salute"),
    *("sitting down", "standing up", "take off a hat/cap", "take off glasses", "take off jacket"),
    *("take out something from pocket", "taking a selfie", "tear up paper", "throw", "touch back (backache)"),
    *("touch chest (stomachache/heart pain)", "touch head (headache)", "touch neck (neckache)"),
    *("typing on a keyboard", "use a fan (with hand or paper)/feeling warm", "wear jacket", "wear on glasses"),
    *("wipe face", "writing"),
)
VIEWS = {"L": 1, "M": 2, "R": 3}
NUM_VALUES = 150
# Genuine recordings have about 6,000 frames in 10 MB; the bounds keep hostile ones from exhausting memory.
MAX_BYTES, MAX_FRAMES = 2**28, 100_000

# Recordings of phase 1 ("0002-L") and 2 ("A01N01-L").
_RECORDINGS = {"pku-mmd": r"\d{4}", "pku-mmd-2": r"A\d{2}N\d{2}"}
# Recording, label and line of instances whose skeletons are unusable, as listed in the code of Flora
# (cseeyangchen/Flora), there F043V001C001L021 and so on; taken to be the 21st line of the labels of 0043-L.
BAD_INSTANCES = frozenset({("0043-L", 1, 21), ("0089-L", 23, 1), ("0089-M", 23, 1), ("0089-R", 23, 1)})
_LABEL = re.compile(r"(\d{1,2})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})(?:\s*,.*)?", re.ASCII)
_SPLIT = {
    "pku-mmd": {"cross-subject.txt": "xsub", "cross-view.txt": "xview"},
    "pku-mmd-2": {"cross_subject_v2.txt": "xsub", "cross_view_v2.txt": "xview"},
}
_ID = re.compile(r"(?:\d{4}|A\d{2}N\d{2})-[LMR]@(\d+)-(\d+)", re.ASCII)


def load_pku_mmd(root: Path, name: str = "pku-mmd", roots: Sequence[Path] = ()) -> Dataset:
    """The dataset "pku-mmd" (phase 1) or "pku-mmd-2": a sample for each labeled instance, "0002-L@123-189" for frames
    123 to 189 of 0002-L. Instances in `BAD_INSTANCES` are left out.

    Protocols: "xsub" and "xview" if their lists are present; with "xsub" the published zero-shot splits; else
    "holdout". Raises `UsageError` for a root without labels, malformed labels, two files for one recording, and links
    out of the root. A recording without a skeleton file is kept, without files.
    """
    skeletons, labels, lists = _found(root, roots, name)
    if not labels:
        example = "Train_Label_PKU_final/0002-L.txt" if name == "pku-mmd" else "Label/A01N01-L.txt"
        raise UsageError(f"{root}: no labels of {name} found; expected {example} and so on below it.")
    samples: dict[str, Sample] = {}
    bad = 0
    for recording, path in sorted(labels.items()):
        for number, line in enumerate(read_lines(path), start=1):
            match = _LABEL.fullmatch(line)
            label, first, last = (int(each) for each in match.groups()) if match else (0, 0, 0)
            if not (1 <= label <= len(PKU_CLASSES) and 1 <= first <= last):
                raise UsageError(
                    f"{path}: {line[:80]!r} is not `label,start,end,confidence` with a label from 1 to 51."
                )
            if (recording, label, number) in BAD_INSTANCES:
                bad += 1
                continue
            identifier = f"{recording}@{first}-{last}"
            files = {"skeleton": skeletons[recording]} if recording in skeletons else {}
            whole = recording.partition("-")[0]
            attributes = {"recording": int(whole) if whole.isdecimal() else whole, "view": VIEWS[recording[-1]]}
            other = samples.setdefault(identifier, Sample(identifier, label - 1, files, attributes))
            if other.label != label - 1:
                raise UsageError(f"{path}: frames {first} to {last} have two labels, {other.label + 1} and {label}.")
    protocols, listed = _protocols(lists, samples, name)
    lacking = sum(not sample.files for sample in samples.values())
    notes = [f"{lacking:,} instances have no skeleton file here"] if lacking else []
    notes += [f"{counted(bad, 'instance')} with unusable skeletons left out"] if bad else []
    return Dataset(
        name=name,
        collection=name,
        root=root,
        classes=PKU_CLASSES,
        samples=tuple(samples[name] for name in sorted(samples)),
        protocols=protocols or {"holdout": holdout},
        notes=tuple(notes),
        published=True,
        skeleton_format=PKU_SKELETONS,
        listed=listed,
    )


def _found(root: Path, roots: Sequence[Path], dataset: str) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Skeleton and label files by recording, and split lists by protocol. Both kinds may end in .txt."""
    named = re.compile(rf"{_RECORDINGS[dataset]}-[LMR]\.(?:txt|skeleton)", re.ASCII)
    skeletons: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    lists: dict[str, Path] = {}
    for entry in walk_files(root, roots):
        path = Path(entry.path)
        match = named.fullmatch(entry.name)
        if match is None and entry.name not in _SPLIT[dataset]:
            continue
        if entry.is_symlink():
            refuse_link_outside(path, root, roots)
        if match is None:
            lists[_SPLIT[dataset][entry.name]] = path
            continue
        held = labels if "label" in path.parent.name.lower() else skeletons
        other = held.setdefault(path.stem, path)
        if other is not path:
            raise UsageError(f"{other} and {path}: two files of one recording; remove or move one of them.")
    return skeletons, labels, lists


def _protocols(
    lists: Mapping[str, Path], samples: Mapping[str, Sample], dataset: str
) -> tuple[dict[str, SplitRule], dict[str, dict[str, str]]]:
    protocols: dict[str, SplitRule] = {}
    listed: dict[str, dict[str, str]] = {}
    for name in ("xsub", "xview"):
        if name not in lists:
            continue
        part_of_recording: dict[str, str] = {}
        part = ""
        for line in read_lines(lists[name]):
            found = re.findall(rf"{_RECORDINGS[dataset]}-[LMR]", line, re.ASCII)
            if not found:  # a header
                part = "train" if not part else "val"
            for recording in found:
                if not part or part_of_recording.setdefault(recording, part) != part:
                    raise UsageError(f"{lists[name]}: {recording} stands before the first header, or in both parts.")
        part_of = {each: part_of_recording.get(each.partition("@")[0], "") for each in samples}
        if not {"train", "val"} <= set(part_of_recording.values()):
            raise UsageError(f"{lists[name]}: is no list of training and validation recordings, each below a header.")
        protocols[name] = partial(by_part, part_of)
        listed[name] = {each: its for each, its in part_of.items() if its}
    if "xsub" in protocols:
        protocols |= spelled_out(dataset, protocols["xsub"])
    return protocols, listed


@remembered
def _recording(path: Path) -> np.ndarray:
    """The frames of a skeleton file, (T, M, V, 3) float32; NaN for a body of zeros and joints that are not finite."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptInput(f"{path}: larger than {MAX_BYTES} bytes; this is no skeleton file.")
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise CorruptInput(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise CorruptInput(f"{path}: is no skeleton file (byte {error.start} is not ASCII text).") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        values = line.split()
        if not values:
            continue
        if len(values) != NUM_VALUES or number > MAX_FRAMES:
            raise CorruptInput(f"{path}: line {number} has {len(values)} numbers, not the {NUM_VALUES} of a frame.")
        try:
            rows.append([float(value) for value in values])
        except ValueError as error:
            raise CorruptInput(f"{path}: line {number} holds something that is no number.") from error
    with np.errstate(over="ignore"):
        frames = np.array(rows, np.float64).reshape(-1, 2, len(NTU_25.joints), 3).astype(np.float32)
    absent = (frames == 0).all(axis=(2, 3))
    frames[absent] = np.nan
    frames[~np.isfinite(frames).all(axis=3)] = np.nan
    return frames


def read_pku_skeleton(path: Path, sample: str) -> KeypointClip:
    """The frames of an instance. Raises `KeyError` for a malformed id, `CorruptInput` for files that are damaged or end
    before the instance does."""
    return KeypointClip(_instance(path, sample))


def pku_digest(path: Path, sample: str) -> str:
    """Digest of the frames of an instance. Raises as `read_pku_skeleton` does; "" if the file ends before it."""
    try:
        return arrays_digest(_instance(path, sample))
    except CorruptInput:
        return ""


def _instance(path: Path, sample: str) -> np.ndarray:
    match = _ID.fullmatch(sample)
    if match is None:
        raise KeyError(sample)
    first, last = int(match[1]), int(match[2])
    frames = _recording(path)
    if last > len(frames):
        raise CorruptInput(f"{path}: has {len(frames)} frames, but {sample} ends at frame {last}.", "truncated")
    return frames[first - 1 : last]


PKU_SKELETONS = SkeletonFormat(
    name="pku-mmd",
    layout=NTU_25,
    unit=METRE,
    read=read_pku_skeleton,
    digest=pku_digest,
    max_people=2,
    source="Kinect v2 skeletons of PKU-MMD, cut to instances",
    license="that of the data set: research",
    citation="Liu et al., PKU-MMD: A Large Scale Benchmark for Continuous Multi-Modal Human Action Understanding, 2017",
)
