"""The arrays in which skeletons from files are stored.

Legend: T frames, P persons, V joints.
"""

from unialign.cache.arrays import ArraySpec
from unialign.stages.skeleton_layouts import COCO_17, NTU_25, Layout
from unialign.types import Json

CHUNK = 16
DIMS = ("frame", "person", "joint", "coordinate")


def metre_spec(max_frames: int, num_people: int, layout: Layout = NTU_25) -> ArraySpec:
    """The array of 3-D keypoints: (T, P, V, 3) float32 in meters; NaN for absent persons."""
    return ArraySpec(
        "keypoints",
        "float32",
        (max_frames, num_people, len(layout.joints), 3),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={"unit": "metre", "space": "camera", "coordinates": ["x", "y", "z"], **_joints(layout)},
    )


def score_spec(max_frames: int, num_people: int, layout: Layout) -> ArraySpec:
    """The array of scores of 3-D keypoints: (T, P, V) float32; NaN for absent persons."""
    return ArraySpec(
        "scores",
        "float32",
        (max_frames, num_people, len(layout.joints)),
        DIMS[:3],
        ragged=True,
        chunk=CHUNK,
        attributes={"meaning": "score of each joint, as the source gives it", "layout": layout.name},
    )


def image_spec(max_frames: int, num_people: int) -> ArraySpec:
    """Where the joints of the 3-D keypoints are in the color image: (T, P, 25, 2) float32; NaN for absent persons."""
    return ArraySpec(
        "pixels",
        "float32",
        (max_frames, num_people, len(NTU_25.joints), 2),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={"unit": "pixel", "coordinates": ["x", "y"], "layout": NTU_25.name},
    )


def pixel_specs(max_frames: int, num_people: int, layout: Layout = COCO_17) -> tuple[ArraySpec, ArraySpec]:
    """The arrays of 2-D keypoints: (T, P, V, 3) float32, x and y in pixels and score; and the size of the frames.

    float16, used in stores from before revision 2, resolves only whole pixels from 1024 on and every second from 2048
    on.
    """
    keypoints = ArraySpec(
        "keypoints",
        "float32",
        (max_frames, num_people, len(layout.joints), 3),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={"unit": "pixel", "coordinates": ["x", "y", "score"], **_joints(layout)},
    )
    size = ArraySpec("frame_size", "int32", (2,), ("axis",), attributes={"unit": "pixel", "axes": ["height", "width"]})
    return keypoints, size


def _joints(layout: Layout) -> dict[str, Json]:
    """What readers need to know about the joints: the full description of a layout that is not in the table."""
    if layout.is_known:
        return {"layout": layout.name, "joints": list(layout.joints)}
    return layout.described()
