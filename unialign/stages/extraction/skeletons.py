"""Stage one: poses that need no network, from `.skeleton` files or from a pyskl pickle.

Legend: T frames, P persons, V joints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unialign.cache.arrays import ArraySpec
from unialign.errors import UsageError
from unialign.stages.datasets.body_rules import BODY_RULES, choose_bodies, of_bodies
from unialign.stages.datasets.kinect_files import read_skeleton
from unialign.stages.datasets.pyskl import (
    LARGEST_METRES,
    PysklAnnotation,
    PysklFile,
    annotated_layout,
    completed,
    read_pyskl,
)
from unialign.stages.datasets.skeleton_formats import METRE, PIXEL
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.skeleton_arrays import image_spec, metre_spec, pixel_specs
from unialign.stages.extraction.skeleton_input import read_source
from unialign.stages.skeleton_layouts import Layout, layout_from, units_of
from unialign.types import Json

Flags = NDArray[np.bool_]

REVISION = 1
# 2: float32 in place of float16.
PIXEL_REVISION = 2
LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class ReadySkeletons:
    """Poses from `.skeleton` files of NTU RGB+D: 25 joints of Kinect v2 in meters.

    body_rule: which bodies become persons, see `stages.datasets.body_rules.choose_bodies`.
    """

    num_people: int = 2
    max_frames: int = 1024
    body_rule: str = "motion"

    modality = "poses"
    name = "skeleton"

    def __post_init__(self) -> None:
        _check_sizes(self.num_people, self.max_frames)
        if self.body_rule not in BODY_RULES:
            raise UsageError(f"unknown body rule {self.body_rule!r}; known are {', '.join(BODY_RULES)}.")

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`."""
        return {
            "extractor": self.name,
            "revision": REVISION,
            "num_people": self.num_people,
            "max_frames": self.max_frames,
            "body_rule": self.body_rule,
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Keypoints in space and in the image; frames without persons stay: frame t is frame t of the video."""
        return metre_spec(self.max_frames, self.num_people), image_spec(self.max_frames, self.num_people)

    def attributes(self) -> Mapping[str, Json]:
        """Where the skeletons come from."""
        return {
            "source": "Kinect v2 skeleton files",
            "licence": "that of the data set; NTU RGB+D is free for academic research only",
            "citation": "Shahroudy et al., NTU RGB+D, CVPR 2016; Liu et al., NTU RGB+D 120, TPAMI 2020",
        }

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; detail counts frames, bodies and missing persons and joints."""
        for source in sources:
            yield self._outcome(source)

    def _outcome(self, source: Source) -> Outcome:
        found = read_source(source, read_skeleton)
        if isinstance(found, Outcome):
            return found
        digest, clip = found
        if clip.num_frames > self.max_frames:
            return Outcome(source.id, "too-long", digest, detail={"frames": clip.num_frames})
        bodies = choose_bodies(clip, self.num_people, self.body_rule)
        keypoints = of_bodies(clip.keypoints, bodies)
        present: Flags = np.asarray(np.isfinite(keypoints).all(axis=3))  # (T, P, V)
        detail = {
            "frames": clip.num_frames,
            "bodies": len(clip.body_ids),
            "frames_without_person": int((~present.any(axis=(1, 2))).sum()),
            "missing_joints": int((present.any(axis=2, keepdims=True) & ~present).sum()),
        }
        if not present.any():
            return Outcome(source.id, "no-person", digest, detail=detail)
        return Outcome(
            source.id, "ok", digest, {"keypoints": keypoints, "pixels": of_bodies(clip.pixels, bodies)}, detail
        )


@dataclass(frozen=True)
class PysklSkeletons:
    """Poses from an annotation pickle of pyskl or mmaction2, found in it by sample id.

    path: the pickle on this machine; not in the key.
    layout: name of the joint layout; None takes the known one with so many joints and coordinates as the file's first
        annotation has. The unit, pixels with a score or metres, is that of the first annotation too.

    What a 2-D clip lacks is filled in, see `completed`, and named in its detail as "assumed".
    A clip with more persons than num_people keeps those with the largest sum of scores (in 3-D: present in the most
    frames), in the order of the file. Persons filled up with zeros are absent (NaN), frame by frame.
    """

    path: Path
    layout: str | None = None
    num_people: int = 2
    max_frames: int = 1024

    modality = "poses"
    name = "pyskl"

    def __post_init__(self) -> None:
        _check_sizes(self.num_people, self.max_frames)
        if self.layout is not None:
            layout_from(self.layout, "extract.poses.layout")

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`. Reads the pickle unless the layout is given."""
        layout, unit = self._layout()
        return {
            "extractor": self.name,
            "revision": REVISION if unit == METRE else PIXEL_REVISION,
            "layout": layout.name,
            "num_people": self.num_people,
            "max_frames": self.max_frames,
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Keypoints, and for pixels the size of the frames. Reads the pickle unless the layout is given."""
        layout, unit = self._layout()
        if unit == METRE:
            return (metre_spec(self.max_frames, self.num_people, layout),)
        return pixel_specs(self.max_frames, self.num_people, layout)

    def attributes(self) -> Mapping[str, Json]:
        """Where the poses come from."""
        return {"source": "annotation pickle in the format of pyskl", "licence": "that of the file"}

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; a source without a path, or not in the pickle, is missing-file.

        The source digest is that of the sample's annotation. Raises `CorruptInput` when the pickle cannot be read at
        all.
        """
        (layout, unit), clips = self._layout(), _annotations(self.path)
        for source in sources:
            annotation = clips.get(source.id)
            if source.path is None or annotation is None:
                yield Outcome(source.id, "missing-file")
            else:
                yield self._outcome(annotation, layout, unit)

    def digest(self, source: Source) -> str:
        """Digest of a sample's annotation as it is now, "" if the pickle does not hold it."""
        annotation = _annotations(self.path).get(source.id)
        return annotation.digest if annotation is not None else ""

    def _layout(self) -> tuple[Layout, str]:
        if self.layout is not None:
            chosen = layout_from(self.layout)
            units = units_of(chosen)
            return chosen, units[0] if len(units) == 1 else annotated_layout(
                _read(self.path).annotations, str(self.path)
            )[1]
        return annotated_layout(_read(self.path).annotations, str(self.path))[:2]

    def _outcome(self, annotation: PysklAnnotation, layout: Layout, unit: str) -> Outcome:
        digest = annotation.digest
        annotation, assumed, why = _ready(annotation, layout, unit)
        if why:
            return Outcome(annotation.id, "unreadable", digest, detail={"why": why})
        if annotation.total_frames > self.max_frames:
            return Outcome(annotation.id, "too-long", digest, detail={"frames": annotation.total_frames})
        keypoints, present = _choose(annotation, self.num_people)
        detail = {
            "frames": annotation.total_frames,
            "persons": annotation.keypoint.shape[0],
            "frames_without_person": int((~present.any(axis=1)).sum()),
            **({"assumed": list(assumed)} if assumed else {}),
        }
        if not present.any():
            return Outcome(annotation.id, "no-person", digest, detail=detail)
        if unit == METRE:
            return Outcome(annotation.id, "ok", digest, {"keypoints": keypoints.astype(np.float32)}, detail)
        height, width = annotation.img_shape or (0, 0)
        return Outcome(
            annotation.id,
            "ok",
            digest,
            {"keypoints": keypoints, "frame_size": np.array([height, width], np.int32)},
            detail,
        )


def _ready(annotation: PysklAnnotation, layout: Layout, unit: str) -> tuple[PysklAnnotation, tuple[str, ...], str]:
    """The clip in a layout, what of it was filled in (see `completed`), and why it is not in that layout."""
    joints, coordinates = annotation.keypoint.shape[2:]
    if joints != len(layout.joints) or (unit == METRE and coordinates != 3):
        return annotation, (), f"{joints} joints with {coordinates} coordinates are not the layout {layout.name}"
    given = [values for values in (annotation.keypoint, annotation.score) if values is not None]
    if any((np.abs(values) > LARGEST).any() for values in given):
        return annotation, (), "a keypoint or its score is infinite or does not fit into float32"
    if unit == PIXEL:
        return completed(annotation)
    if (np.abs(annotation.keypoint) > LARGEST_METRES).any():
        return annotation, (), f"numbers beyond {LARGEST_METRES}, which are no metres of a room"
    return annotation, (), ""


def _choose(annotation: PysklAnnotation, num_people: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (T, P, V, 3) with the score as third coordinate in 2-D, and who is present (T, P)."""
    points = annotation.keypoint.astype(np.float32)
    # A person of whom no joint lies elsewhere than at 0 was not found, whatever the scores say.
    placed = (points != 0).any(axis=3)
    if annotation.score is not None and points.shape[3] == 2:
        points = np.concatenate([points, annotation.score.astype(np.float32)[..., None]], axis=3)
    finite: Flags = np.asarray(np.isfinite(points).all(axis=3))
    present: Flags = (finite & placed).any(axis=2)  # (M, T)
    points = np.where(present[..., None, None], points, np.float32("nan"))
    weight = present.sum(axis=1).astype(np.float64)
    if annotation.keypoint.shape[3] == 2:
        weight = np.nansum(points[..., 2].astype(np.float64), axis=(1, 2))
    kept = np.sort(np.argsort(-weight, kind="stable")[:num_people])
    people = np.full((points.shape[1], num_people, *points.shape[2:]), np.nan, np.float32)
    people[:, : len(kept)] = points[kept].swapaxes(0, 1)
    shown = np.zeros((points.shape[1], num_people), bool)
    shown[:, : len(kept)] = present[kept].T
    return people, shown


def _check_sizes(num_people: int, max_frames: int) -> None:
    if num_people < 1 or max_frames < 1:
        raise UsageError("num_people and max_frames must be at least 1.")


def _read(path: Path) -> PysklFile:
    """The pickle, read once per process as long as the file does not change."""
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(f"{path}: the annotation pickle cannot be read ({error.strerror}).") from error
    return _read_version(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1)
def _read_version(path: Path, _modified: int, _size: int) -> PysklFile:
    return read_pyskl(path)


def _annotations(path: Path) -> dict[str, PysklAnnotation]:
    return {annotation.id: annotation for annotation in _read(path).annotations}
