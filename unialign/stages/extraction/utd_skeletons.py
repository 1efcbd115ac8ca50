"""Stage one: poses that need no network, from the skeleton files of UTD-MHAD.

Legend: T frames, V joints (20, layout "utd-20").
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unialign.cache.arrays import ArraySpec
from unialign.errors import UsageError
from unialign.stages.datasets.utd_mhad import read_utd_skeleton
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.skeleton_arrays import metre_spec
from unialign.stages.extraction.skeleton_input import read_source
from unialign.stages.skeleton_layouts import UTD_20
from unialign.types import Json

Flags = NDArray[np.bool_]

REVISION = 1


@dataclass(frozen=True)
class UtdSkeletons:
    """Poses from `..._skeleton.mat` files: one person, 20 joints of Kinect v1 in meters."""

    max_frames: int = 1024

    modality = "poses"
    name = "skeleton"

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise UsageError("max_frames must be at least 1.")

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`. The format tells it from the poses of `.skeleton` files, which have the same name."""
        return {"extractor": self.name, "format": "utd-mhad", "revision": REVISION, "max_frames": self.max_frames}

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The keypoints (T, 1, V, 3); frame t is frame t of the video."""
        return (metre_spec(self.max_frames, 1, UTD_20),)

    def attributes(self) -> Mapping[str, Json]:
        """Where the skeletons come from."""
        return {
            "source": "Kinect v1 skeleton files of UTD-MHAD",
            "licence": "that of the data set",
            "citation": "Chen et al., UTD-MHAD, ICIP 2015",
        }

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; detail counts frames and joints without a position."""
        for source in sources:
            yield self._outcome(source)

    def _outcome(self, source: Source) -> Outcome:
        found = read_source(source, read_utd_skeleton)
        if isinstance(found, Outcome):
            return found
        digest, keypoints = found  # (T, V, 3)
        if len(keypoints) > self.max_frames:
            return Outcome(source.id, "too-long", digest, detail={"frames": len(keypoints)})
        present: Flags = np.asarray(np.isfinite(keypoints).all(axis=2))  # (T, V)
        shown: Flags = np.asarray(present.any(axis=1))
        detail = {
            "frames": len(keypoints),
            "frames_without_person": int((~shown).sum()),
            "missing_joints": int((~present[shown]).sum()),
        }
        if not shown.any():
            return Outcome(source.id, "no-person", digest, detail=detail)
        return Outcome(source.id, "ok", digest, {"keypoints": keypoints[:, None]}, detail)
