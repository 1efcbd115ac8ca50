"""Stage one: poses that need no network, from the skeleton files of any dataset that describes its format.

Legend: T frames, P persons stored, M persons of the file, V joints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.errors import CorruptInput, UsageError
from unialign.stages.datasets.pyskl import LEAST_SCORE, MOST_SCORE
from unialign.stages.datasets.skeleton_formats import METRE, PIXEL, KeypointClip, SkeletonFormat
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.skeleton_arrays import metre_spec, pixel_specs, score_spec
from unialign.types import Json

REVISION = 1
# Rooms are smaller; values far beyond are millimeters or pixels.
LARGEST_METRES = 100
# Images have more pixels: numbers up to this are fractions of one. Joints outside of an image lie near it.
LARGEST_FRACTION, FARTHEST = 2, 3


@dataclass(frozen=True)
class SkeletonFiles:
    """Poses from files of a `SkeletonFormat`.

    A sample with more persons than `num_people` keeps those with the largest sum of scores (in 3-D: those present in
    the most frames), in the order of the file.
    """

    format: SkeletonFormat
    num_people: int = 2
    max_frames: int = 1024

    modality = "poses"
    name = "skeleton"

    def __post_init__(self) -> None:
        if self.num_people < 1 or self.max_frames < 1:
            raise UsageError("num_people and max_frames must be at least 1.")

    @property
    def people(self) -> int:
        """P: at most as many as a sample of the format can have."""
        return min(self.num_people, self.format.max_people or self.num_people)

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`."""
        layout = self.format.layout
        return {
            "extractor": self.name,
            "format": self.format.name,
            "revision": REVISION,
            "layout": layout.name,
            "unit": self.format.unit,
            "num_people": self.people,
            "max_frames": self.max_frames,
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Keypoints (T, P, V, 3); for pixels the size of the frames, for meters scores where the format has them."""
        layout = self.format.layout
        if self.format.unit == PIXEL:
            return pixel_specs(self.max_frames, self.people, layout)
        keypoints = metre_spec(self.max_frames, self.people, layout)
        return (keypoints, score_spec(self.max_frames, self.people, layout)) if self.format.scored else (keypoints,)

    def attributes(self) -> Mapping[str, Json]:
        """Where the skeletons come from."""
        said = {"source": self.format.source, "licence": self.format.license, "citation": self.format.citation}
        return {name: value for name, value in said.items() if value}

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        if self.format.digest is None or source.path is None:
            return source_digest(source)
        try:
            return self.format.digest(source.path, source.id)
        except KeyError:
            return ""

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; detail counts frames, persons and gaps, and names what was assumed."""
        for source in sources:
            yield self._outcome(source)

    def _outcome(self, source: Source) -> Outcome:
        digest = ""
        path = source.path
        try:
            if path is None or not path.exists():
                return Outcome(source.id, "missing-file")
            digest = self.digest(source)
            clip = self.format.read(path, source.id)
        except KeyError:
            return Outcome(source.id, "missing-file")
        except OSError as error:
            return Outcome(source.id, "unreadable", digest, detail={"why": error.strerror or type(error).__name__})
        except CorruptInput as error:
            return Outcome(source.id, error.status, digest, detail={"why": str(error).removeprefix(f"{path}: ")})
        why = self._fault(clip)
        if why:
            return Outcome(source.id, "unreadable", digest, detail={"why": why})
        return self._stored(source.id, digest, clip)

    def _fault(self, clip: KeypointClip) -> str:
        """Why a clip does not fit the arrays of the store; "" if it does."""
        joints, coordinates = clip.keypoints.shape[2:]
        if joints != len(self.format.layout.joints) or coordinates != 3:
            return f"{joints} joints with {coordinates} numbers are not the layout {self.format.layout.name}"
        if self.format.unit == PIXEL:
            return pixel_fault(clip)
        # Comparisons with NaN are false.
        if self.format.unit == METRE and bool((np.abs(clip.keypoints) > LARGEST_METRES).any()):
            return f"numbers beyond {LARGEST_METRES}, which are no metres of a room"
        return ""

    def _stored(self, name: str, digest: str, clip: KeypointClip) -> Outcome:
        num_frames, persons = clip.keypoints.shape[:2]
        if num_frames > self.max_frames:
            return Outcome(name, "too-long", digest, detail={"frames": num_frames})
        chosen = most_present(clip.keypoints, self.people, scored=self.format.unit == PIXEL)
        keypoints = padded(clip.keypoints[:, chosen], self.people)
        present = np.isfinite(keypoints).all(axis=3)  # (T, P, V)
        detail: dict[str, Json] = {
            "frames": num_frames,
            "persons": persons,
            "frames_without_person": int((~present.any(axis=(1, 2))).sum()),
            "missing_joints": int((present.any(axis=2, keepdims=True) & ~present).sum()),
            **({"assumed": list(clip.assumed)} if clip.assumed else {}),
        }
        if not present.any():
            return Outcome(name, "no-person", digest, detail=detail)
        arrays = {"keypoints": keypoints}
        if self.format.unit == PIXEL:
            arrays["frame_size"] = np.array(clip.image_size, np.int32)
        elif self.format.scored:
            scores = np.full(clip.keypoints.shape[:3], np.nan, np.float32) if clip.scores is None else clip.scores
            arrays["scores"] = padded(scores[:, chosen], self.people)
        return Outcome(name, "ok", digest, arrays, detail)


def pixel_fault(clip: KeypointClip) -> str:
    """Why the numbers of a clip are no pixels and scores; "" if they may be."""
    if clip.image_size is None:
        return "no image size, which pixels need"
    joints = clip.keypoints[np.isfinite(clip.keypoints).all(axis=3)]  # (joints, 3)
    if not len(joints):
        return ""
    places, scores = np.abs(joints[:, :2]), joints[:, 2]
    if 0 < places.max() <= LARGEST_FRACTION:
        return f"numbers up to {places.max():.3g}, which are no pixels"
    height, width = clip.image_size
    far = float(np.median((places / (width, height)).max(axis=1)))
    if far > FARTHEST:
        return f"joints at {far:.3g} times the width or height of an image of {width} x {height}"
    if scores.min() < LEAST_SCORE or scores.max() > MOST_SCORE:
        per_cent = "; divide per cents by 100" if scores.min() >= 0 and scores.max() <= 100 else ""
        return f"scores from {scores.min():.3g} to {scores.max():.3g}, not 0 to 1{per_cent}"
    return ""


def most_present(keypoints: np.ndarray, num_people: int, *, scored: bool) -> np.ndarray:
    """Indices, ascending, of the persons of (T, M, V, 3) with the largest sum of scores, or in the most frames."""
    present = np.isfinite(keypoints).all(axis=3)  # (T, M, V)
    weight = present.any(axis=2).sum(axis=0).astype(np.float64)
    if scored:
        weight = np.where(present, keypoints[..., 2], 0).sum(axis=(0, 2), dtype=np.float64)
    return np.sort(np.argsort(-weight, kind="stable")[:num_people])


def padded(values: np.ndarray, num_people: int) -> np.ndarray:
    """Values of persons (T, M, ...) as (T, num_people, ...) float32, NaN for absent persons."""
    whole = np.full((len(values), num_people, *values.shape[2:]), np.nan, np.float32)
    whole[:, : values.shape[1]] = values
    return whole
