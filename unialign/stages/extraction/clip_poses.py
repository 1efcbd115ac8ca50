"""What all pose networks share: the arrays that they store, and how the people of a clip's frames become an outcome.

Legend: T frames, M persons, V joints, C = 3 coordinates.
"""

from collections.abc import Sequence

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.stages.extraction.base import Outcome
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.people import track_persons
from unialign.stages.extraction.tracker import Detections
from unialign.stages.skeleton_layouts import COCO_17, Layout
from unialign.types import Json

# As Ultralytics spells them; stores hold these names.
JOINTS = tuple(name.replace(" ", "_") for name in COCO_17.joints)


def pose_arrays(max_frames: int, num_people: int, layout: Layout) -> tuple[ArraySpec, ...]:
    """`keypoints` (T, M, V, C) in pixels and scores, `frame_size` and `fps`."""
    described: dict[str, Json] = {"coordinates": ["x", "y", "score"], "units": ["pixel", "pixel", "1"]}
    if layout == COCO_17:
        described |= {"joints": list(JOINTS)}
    elif layout.is_known:
        described |= {"layout": layout.name, "joints": list(layout.joints)}
    else:
        described |= layout.described()
    return (
        ArraySpec(
            "keypoints",
            "float32",
            (max_frames, num_people, len(layout.joints), 3),
            ("frame", "person", "joint", "coordinate"),
            ragged=True,
            chunk=16,
            attributes={**described, "absent": "a person who is not found in a frame is NaN"},
        ),
        ArraySpec("frame_size", "int32", (2,), ("axis",), attributes={"axes": ["height", "width"], "units": "pixel"}),
        ArraySpec("fps", "float32", (), (), attributes={"units": "frames per second, NaN where not stated"}),
    )


def tracked_outcome(
    video: SourceVideo, frames: Sequence[Detections], *, num_people: int, longest_gap: int, confidence: float
) -> Outcome:
    """The outcome of a decoded clip whose frames show these people: its tracks, or "no-person"."""
    with_person = sum(len(one.scores) > 0 for one in frames)
    if video.failure is None and not with_person:
        video.fail("no-person", f"no person in {len(frames)} frames at confidence {confidence}")
    if video.failure is not None:
        return video.failure
    height, width = video.video.size
    persons = track_persons(list(frames), num_people, longest_gap, (height, width))
    arrays: dict[str, np.ndarray] = {
        "keypoints": persons.keypoints,
        "frame_size": np.array([height, width], dtype=np.int32),
        "fps": np.array(video.video.fps, dtype=np.float32),
    }
    return video.outcome(arrays, {"frames_with_person": with_person, **persons.counts})
