"""A store of poses as the annotation pickle of pyskl and mmaction2.

Legend: T frames, P persons, V joints.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache import atomic
from unialign.cache.arrays import ArraySpec
from unialign.cache.reader import StoreReader
from unialign.cache.records import list_records, read_record
from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.datasets.pickles import write_pickle
from unialign.stages.datasets.pyskl import load_pyskl
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeletons import PysklSkeletons
from unialign.words import counted

Progress = Callable[[int, int], None]

# The meaning of a keypoint's third coordinate determines the layout of the file; other stores have none.
_LAYOUTS: Mapping[tuple[str, ...], str] = {("x", "y", "score"): "coco-17", ("x", "y", "z"): "ntu-25"}
_HELD = {"coco-17": {"keypoints", "frame_size"}, "ntu-25": {"keypoints"}}


@dataclass(frozen=True)
class PysklExport:
    """What was written. not_held: what is in the store but has no place in the format, one phrase each."""

    samples: int
    bytes: int
    not_held: tuple[str, ...]


def export_pyskl(
    path: Path,
    dataset: Dataset,
    target: Path,
    progress: Progress = lambda done, total: None,
    *,
    overwrite: bool = False,
) -> PysklExport:
    """Write the poses in the store at `path` with the labels and splits of a dataset to a new pickle.

    Each protocol becomes the splits `<protocol>_train` and `<protocol>_val` (if it has a val part, also
    `<protocol>_test`). A person who is absent from a frame (NaN in the store) is zero there, as in pyskl; single
    missing joints stay NaN. The file is read back before it is put in place, and rejected unless every number, label
    and split is recovered. The format is a single object, so writing takes twice the memory of all poses. progress:
    called with (steps done, steps), two per sample.
    Raises `UsageError` if the file exists and may not be overwritten, and for everything that the format cannot
    hold, with the reason; `DamagedStore` if the store differs from what was written.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; give another name, or --overwrite to replace it.")
    reader = StoreReader(path)
    spec, layout = _layout(reader)
    labels = {sample.id: sample.label for sample in dataset.samples}
    _check_labels(reader, dataset, labels)
    splits = _splits(dataset, frozenset(reader.ids))
    temporary = atomic.temporary_name(target)
    try:
        _write_file(temporary, reader, layout, labels, splits, progress)
        _check_splits(temporary, reader, labels, splits)
        _check_numbers(temporary, reader, spec, layout, progress)
        size = temporary.stat().st_size
        atomic.replace(temporary, target)
    finally:
        atomic.remove(temporary)
    return PysklExport(len(reader.ids), size, _not_held(reader, dataset, layout))


def _write_file(
    path: Path,
    reader: StoreReader,
    layout: str,
    labels: Mapping[str, int],
    splits: Mapping[str, Sequence[str]],
    progress: Progress,
) -> None:
    annotations = []
    for number, name in enumerate(reader.ids):
        progress(number, 2 * len(reader.ids))
        annotations.append(_annotation(reader, name, labels[name], layout))
    write_pickle(path, {"split": dict(splits), "annotations": annotations})


def _layout(reader: StoreReader) -> tuple[ArraySpec, str]:
    store = reader.store
    if store.modality != "poses":
        raise UsageError(
            f"{store.path}: a pyskl pickle holds poses, and these are {store.modality}; export to a .h5 file instead."
        )
    for spec in store.arrays:
        layout = _LAYOUTS.get(tuple(spec.attributes.get("coordinates", ())))
        # Other joints would be mistaken for those of the format. Poses of a network do not name their layout.
        same = layout is not None and spec.attributes.get("layout", layout) == layout
        if layout and same and spec.name == "keypoints" and spec.dims[1:] == ("person", "joint", "coordinate"):
            return spec, layout
    raise UsageError(
        f"{store.path}: no array 'keypoints' with the coordinates x, y, score of coco-17 joints or x, y, z of "
        "ntu-25 joints, which is all that a pyskl pickle holds; export to a .h5 file instead."
    )


def _check_labels(reader: StoreReader, dataset: Dataset, labels: Mapping[str, int]) -> None:
    if reader.store.collection != dataset.collection:
        raise UsageError(
            f"{reader.path} is of {reader.store.collection}, but dataset {dataset.name} is of {dataset.collection}; "
            "give the dataset that the poses were extracted from."
        )
    unknown = [name for name in reader.ids if name not in labels]
    if unknown:
        raise UsageError(
            f"{reader.path}: {counted(len(unknown), 'sample has', 'samples have')} no label in dataset {dataset.name} "
            f"({unknown[0]}), and a pyskl pickle holds none without; give the dataset that lists them, or export to a "
            ".h5 file."
        )
    if not reader.ids:
        raise UsageError(f"{reader.path}: holds no sample with poses; there is nothing to export.")


def _annotation(reader: StoreReader, name: str, label: int, layout: str) -> dict[str, Any]:
    arrays = reader.read_one(name)
    people = arrays["keypoints"].swapaxes(0, 1)  # (P, T, V, 3)
    absent = np.isnan(people).all(axis=(2, 3))
    people = np.where(absent[..., None, None], people.dtype.type(0), people)
    entry: dict[str, Any] = {"frame_dir": name, "label": int(label), "total_frames": people.shape[1]}
    if layout == "ntu-25":
        return {**entry, "keypoint": people}
    if "frame_size" in arrays:
        height, width = arrays["frame_size"].tolist()
        entry |= {"img_shape": (height, width), "original_shape": (height, width)}
    # Copies: a view would be pickled with its strides, and read more slowly.
    return {**entry, "keypoint": people[..., :2].copy(), "keypoint_score": people[..., 2].copy()}


def _splits(dataset: Dataset, held: frozenset[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for protocol in dataset.protocols:
        split = dataset.split(protocol)
        splits |= {name: [each for each in ids if each in held] for name, ids in _named(protocol, split).items()}
    return splits


def _named(protocol: str, split: Split) -> dict[str, tuple[str, ...]]:
    """The parts by their names in the file. pyskl calls the test part val; it is called test only if there is a val
    part.
    """
    if split.val:
        return {f"{protocol}_train": split.train, f"{protocol}_val": split.val, f"{protocol}_test": split.test}
    return {f"{protocol}_train": split.train, f"{protocol}_val": split.test}


def _check_splits(
    path: Path, reader: StoreReader, labels: Mapping[str, int], splits: Mapping[str, Sequence[str]]
) -> None:
    """Raise `UsageError` unless reading the file recovers these labels and splits."""
    try:
        found = load_pyskl(path)
    except (CorruptInput, UsageError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UsageError(f"{reader.path}: cannot be held by a pyskl pickle: {reason}") from error
    back: dict[str, list[str]] = {}
    for protocol in found.protocols:
        back |= {name: list(ids) for name, ids in _named(protocol, found.split(protocol)).items()}
    same = {name: sorted(ids) for name, ids in back.items()} == {name: sorted(ids) for name, ids in splits.items()}
    if not same or {sample.id: sample.label for sample in found.samples} != {name: labels[name] for name in reader.ids}:
        raise UsageError(
            f"{reader.path}: a label or a split would change in a pyskl pickle (a protocol whose name is not plain); "
            "export to a .h5 file instead."
        )


def _check_numbers(path: Path, reader: StoreReader, spec: ArraySpec, layout: str, progress: Progress) -> None:
    """Raise `UsageError` with the reason unless reading the file recovers the numbers of the store."""
    held = [each.name for each in reader.store.arrays if each.name in _HELD[layout]]
    extractor = PysklSkeletons(path, layout, num_people=spec.shape[1], max_frames=spec.shape[0])
    for number, outcome in enumerate(extractor.run([Source(name, path) for name in reader.ids])):
        if outcome.status != "ok" or "assumed" in outcome.detail:
            assumed = ", ".join(outcome.detail.get("assumed", ()))
            why = outcome.detail.get("why", f"it would come back with {assumed}" if assumed else outcome.status)
            raise UsageError(f"{reader.path}: sample {outcome.id} cannot be held by a pyskl pickle ({why}).")
        for name, values in reader.read_one(outcome.id, held).items():
            if not np.array_equal(values, outcome.arrays[name], equal_nan=True):
                raise UsageError(
                    f"{reader.path}: {name} of sample {outcome.id} would change in a pyskl pickle (a person whose "
                    "numbers are all zero is absent there); export to a .h5 file instead."
                )
        progress(len(reader.ids) + number + 1, 2 * len(reader.ids))


def _not_held(reader: StoreReader, dataset: Dataset, layout: str) -> tuple[str, ...]:
    statuses: dict[str, str] = {}
    num_entries = 0
    for path in list_records(reader.path):
        for entry in read_record(path).entries:
            statuses[entry.id] = entry.status
            num_entries += entry.status == "ok"
    failed = Counter(status for status in statuses.values() if status != "ok")
    never = sum(sample.id not in statuses for sample in dataset.samples)
    superseded = num_entries - len(reader.ids)
    phrases = [
        "the key, and what the records say: source digests and counts",
        f"the names of the {len(dataset.classes)} classes",
    ]
    if any(dataset.descriptions):
        phrases.append("the descriptions of the classes")
    phrases += [f"the array {spec.name}" for spec in reader.store.arrays if spec.name not in _HELD[layout]]
    phrases += [f"{counted(count, 'sample')} quarantined as {status}" for status, count in sorted(failed.items())]
    if never:
        phrases.append(f"{counted(never, 'sample')} of {dataset.name} never extracted")
    if superseded:
        phrases.append(f"{counted(superseded, 'superseded version')} of samples that were extracted again")
    return tuple(phrases)
