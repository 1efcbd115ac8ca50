"""The arrays that ready-made skeletons are stored in.

Legend: T frames, P persons, V joints.
"""

from collections.abc import Mapping

from unialign.cache.arrays import ArraySpec

CHUNK = 16
DIMS = ("frame", "person", "joint", "coordinate")

# Joint names in file order, by layout; left and right are the person's own.
JOINTS: Mapping[str, tuple[str, ...]] = {
    "ntu-25": (
        *("spine base", "spine middle", "neck", "head"),
        *("left shoulder", "left elbow", "left wrist", "left hand"),
        *("right shoulder", "right elbow", "right wrist", "right hand"),
        *("left hip", "left knee", "left ankle", "left foot", "right hip", "right knee", "right ankle", "right foot"),
        *("spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb"),
    ),
    "coco-17": (
        *("nose", "left eye", "right eye", "left ear", "right ear"),
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
    ),
    "utd-20": (
        *("head", "spine shoulder", "spine middle", "spine base"),
        *("left shoulder", "left elbow", "left wrist", "left hand"),
        *("right shoulder", "right elbow", "right wrist", "right hand"),
        *("left hip", "left knee", "left ankle", "left foot", "right hip", "right knee", "right ankle", "right foot"),
    ),
}


def metre_spec(max_frames: int, num_people: int, layout: str = "ntu-25") -> ArraySpec:
    """The array of 3-D keypoints: (T, P, V, 3) float32 in metres; NaN where nobody is."""
    return ArraySpec(
        "keypoints",
        "float32",
        (max_frames, num_people, len(JOINTS[layout]), 3),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={
            "unit": "metre",
            "space": "camera",
            "coordinates": ["x", "y", "z"],
            "layout": layout,
            "joints": list(JOINTS[layout]),
        },
    )


def picture_spec(max_frames: int, num_people: int) -> ArraySpec:
    """Where the joints of the 3-D keypoints are in the colour picture: (T, P, 25, 2) float32; NaN where nobody is."""
    return ArraySpec(
        "pixels",
        "float32",
        (max_frames, num_people, len(JOINTS["ntu-25"]), 2),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={"unit": "pixel", "coordinates": ["x", "y"], "layout": "ntu-25"},
    )


def pixel_specs(max_frames: int, num_people: int) -> tuple[ArraySpec, ArraySpec]:
    """The arrays of 2-D keypoints: (T, P, 17, 3) float32, x and y in pixels and score; and the size of the frames.

    float16, which stores of before revision 2 have, knows only whole pixels from 1024 on and every other from 2048 on.
    """
    keypoints = ArraySpec(
        "keypoints",
        "float32",
        (max_frames, num_people, len(JOINTS["coco-17"]), 3),
        DIMS,
        ragged=True,
        chunk=CHUNK,
        attributes={
            "unit": "pixel",
            "coordinates": ["x", "y", "score"],
            "layout": "coco-17",
            "joints": list(JOINTS["coco-17"]),
        },
    )
    size = ArraySpec("frame_size", "int32", (2,), ("axis",), attributes={"unit": "pixel", "axes": ["height", "width"]})
    return keypoints, size
