"""What of a dataset is there and what is missing, and an image of one of its samples."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from unialign.errors import CorruptInput, UsageError
from unialign.pipeline.config import Config
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.catalog import DATASETS
from unialign.stages.datasets.official_lists import NoClips
from unialign.stages.datasets.split_problems import split_problems
from unialign.types import Json

PARTS = ("train", "val", "test")
SHOWN_FRAMES, SHOWN_SIDE, SHOWN_MISSING = 6, 240, 10


def known_datasets() -> list[dict[str, Json]]:
    """Every dataset of the package and of plug-ins: name, what it is, what its root and labels are, published sizes."""
    return [
        {"name": name, "title": row.title, "root": row.root, "labels": row.labels, "sizes": _plain(row.sizes)}
        for name, row in DATASETS.items()
    ]


def _plain(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, Json]:
    return {protocol: dict(parts) for protocol, parts in sizes.items()}


def check_dataset(dataset: Dataset, protocol: str | None = None) -> dict[str, Json]:
    """Counts by protocol and part: found, listed by the official lists, published, and missing of those listed.

    protocol: the only one to count; by default all that have names.

    "missing" counts listed clips that are not here, or where there are no lists, what the published number is more than
    those found. "examples" names some of them. Raises `UsageError` for an unknown protocol.
    """
    sizes = DATASETS[dataset.name].sizes if dataset.name in DATASETS else {}
    here = {sample.id for sample in dataset.samples}
    rows: list[Json] = []
    protocols = [protocol] if protocol else list(dataset.protocols)
    for protocol in protocols:
        split = dataset.split(protocol)
        found = {part: len(getattr(split, part)) for part in PARTS}
        listed = dataset.listed.get(protocol, {})
        # Lists that publish two parts may call the second val, which is what is tested.
        tested = "val" if listed and "test" not in listed.values() else "test"
        counts = Counter(listed.values())
        published = sizes.get(protocol, {})
        for part in PARTS:
            its = tested if part == "test" else part
            if part == "val" and tested == "val":
                continue
            missing = [name for name, where in listed.items() if where == its and name not in here]
            expected = published.get(its, published.get("val") if part == "test" else None)
            if not (found[part] or counts[its] or expected):
                continue
            lacking = len(missing) if listed else None if expected is None else max(0, expected - found[part])
            rows.append(
                {
                    "protocol": protocol,
                    "part": part,
                    "found": found[part],
                    "listed": counts[its] if listed else None,
                    "published": expected,
                    "missing": lacking,
                    "examples": sorted(missing)[:SHOWN_MISSING],
                }
            )
    kinds = Counter(kind for sample in dataset.samples for kind in sample.files)
    return {
        "dataset": dataset.name,
        "root": str(dataset.root),
        "samples": len(dataset.samples),
        "classes": len(dataset.classes),
        "empty_classes": _empty(dataset),
        "files": dict(sorted(kinds.items())),
        "mirror": dataset.mirror,
        "parts": rows,
        "notes": [*dataset.notes, *_of_splits(dataset, protocols)],
    }


def _of_splits(dataset: Dataset, protocols: Sequence[str]) -> list[str]:
    """The problems of these protocols; a problem of several is named once."""
    found: dict[str, list[str]] = {}
    for protocol in protocols:
        for problem in split_problems(dataset, protocol):
            found.setdefault(problem, []).append(protocol)
    return [
        problem if len(where) == len(protocols) else f"{', '.join(where)}: {problem}"
        for problem, where in found.items()
    ]


def lists_alone(found: NoClips) -> dict[str, Json]:
    """The same for a root that holds the official lists and none of their clips."""
    sizes = DATASETS[found.name].sizes if found.name in DATASETS else {}
    rows: list[Json] = [
        {
            "protocol": protocol,
            "part": part,
            "found": 0,
            "listed": count,
            "published": sizes.get(protocol, {}).get(part),
            "missing": count,
            "examples": sorted(name for name, where in part_of.items() if where == part)[:SHOWN_MISSING],
        }
        for protocol, part_of in found.listed.items()
        for part, count in Counter(part_of.values()).items()
    ]
    return {"dataset": found.name, "samples": 0, "files": {}, "parts": rows, "notes": [str(found)]}


def _empty(dataset: Dataset) -> list[str]:
    held = {sample.label for sample in dataset.samples}
    return [name for label, name in enumerate(dataset.classes) if label not in held]


def find_sample(dataset: Dataset, identifier: str) -> Sample:
    """The sample with this id, or the only one whose id begins so. Raises `UsageError` for none and for several."""
    found = [sample for sample in dataset.samples if sample.id == identifier]
    found = found or [sample for sample in dataset.samples if sample.id.startswith(identifier)]
    if len(found) != 1:
        some = f"{len(found)} begin so, such as {found[0].id!r}" if found else f"the first is {dataset.samples[0].id!r}"
        raise UsageError(f"{dataset.name} has no sample {identifier[:80]!r}; {some}.")
    return found[0]


def describe_sample(dataset: Dataset, sample: Sample) -> dict[str, Json]:
    """Label, files, attributes and the part of each protocol that a sample is in."""
    parts = {}
    for protocol in dataset.protocols:
        split = dataset.split(protocol)
        parts[protocol] = next((part for part in PARTS if sample.id in getattr(split, part)), "")
    return {
        "id": sample.id,
        "class": dataset.classes[sample.label],
        "label": sample.label,
        "files": {kind: str(path) for kind, path in sample.files.items()},
        "attributes": dict(sample.attributes),
        "parts": parts,
    }


def draw_sample(dataset: Dataset, sample: Sample, config: Config) -> bytes:
    """Evenly spaced frames of a sample in a row, as a PNG: of its video, else its skeletons on white.

    Raises `UsageError` for a sample without files, `CorruptInput` for one that cannot be read.
    """
    if "video" in sample.files:
        return _row(_video_frames(sample))
    if "skeleton" in sample.files:
        return _row(_skeleton_frames(dataset, sample, config))
    raise UsageError(f"{sample.id}: has neither a video nor skeletons here; there is nothing to show.")


def _row(images: list[Image.Image]) -> bytes:
    whole = Image.new("RGB", (sum(each.width for each in images), max(each.height for each in images)), "white")
    left = 0
    for each in images:
        whole.paste(each, (left, 0))
        left += each.width
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


def _video_frames(sample: Sample) -> list[Image.Image]:
    from unialign.stages.extraction.frames import sampled
    from unialign.stages.frame_folders import opened_clip

    clip = opened_clip(sample.files["video"], sample.span)
    return [Image.fromarray(each) for each in sampled(clip.frames(), SHOWN_FRAMES, SHOWN_SIDE)[1]]


def _skeleton_frames(dataset: Dataset, sample: Sample, config: Config) -> list[Image.Image]:
    from unialign.pipeline.config import with_values
    from unialign.pipeline.evaluation.plots import draw_skeleton
    from unialign.pipeline.extraction.extractors import prepare
    from unialign.stages.skeleton_layouts import layout_in

    prepared = prepare("poses", dataset, with_values(config, {"extract.poses.source": "skeleton"}))
    (source,) = [each for each in prepared.sources if each.id == sample.id]
    (outcome,) = prepared.extractor.run([source])
    if outcome.status != "ok":
        raise CorruptInput(f"{source.path}: {sample.id}: {outcome.detail.get('why', outcome.status)}", outcome.status)
    spec = next(each for each in prepared.extractor.arrays() if each.name == "keypoints")
    layout = layout_in(spec.attributes)
    keypoints = outcome.arrays["keypoints"].astype(np.float64)  # (T, P, V, 3)
    place = keypoints[..., :2].copy()
    if list(spec.attributes["coordinates"]) != ["x", "y", "score"]:
        place[..., 1] *= -1  # up is positive in a room
    low, high = np.nanmin(place, axis=(0, 1, 2)), np.nanmax(place, axis=(0, 1, 2))
    scale = 0.9 * SHOWN_SIDE / max(float((high - low).max()), 1e-9)
    place = (place - (low + high) / 2) * scale + SHOWN_SIDE / 2
    frames = np.linspace(0, len(place) - 1, min(SHOWN_FRAMES, len(place))).round().astype(int)
    white = np.full((SHOWN_SIDE, SHOWN_SIDE, 3), 255, np.uint8)
    return [draw_skeleton(white, place[frame], layout.bones if layout else ()) for frame in frames]
