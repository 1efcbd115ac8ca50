"""The skeleton of a clip as text, in the format of NTU RGB+D's `.skeleton` files (Kinect v2).

Legend: T frames, V joints (25).
"""

from unialign.stages.demo.body import JOINTS, Floats

# A 56-bit integer, as in Kinect files.
FIRST_BODY_ID = 72057594037927936
TRACKED = 2


def format_skeleton(joints: Floats, pixels: Floats, body: int) -> bytes:
    """The file's content.

    joints: camera-space meters `(T, V, 3)` in the order of `body.JOINTS`. pixels: column and row in the clip
    `(T, V, 2)`. body: a number that tells persons apart.

    Format: line 1 the number of frames; per frame the number of bodies (1), the body's line of 10 values (id, clipped
    edges, confidence and state of the left and the right hand, restricted, lean x and y, tracking state), the number of
    joints, and per joint x y z depthX depthY colorX colorY, orientation w x y z, tracking state.
    Source: the reader that NTU RGB+D's authors publish (github.com/shahroudy/NTURGB-D, Matlab/read_skeleton_file.m).
    Deviations: one camera makes both images, so depth and color positions are the same; what the renderer does not
    measure (hands' states, lean, orientations) is 0, as the Kinect writes for a joint without an orientation.
    """
    body_line = f"{FIRST_BODY_ID + body} 0 0 0 0 0 0 0 0 {TRACKED}"
    lines = [str(len(joints))]
    for places, spots in zip(joints.tolist(), pixels.tolist(), strict=True):
        lines += ["1", body_line, str(len(JOINTS))]
        for (x, y, z), (column, row) in zip(places, spots, strict=True):
            spot = f"{column:.4f} {row:.4f}"
            lines.append(f"{x:.7f} {y:.7f} {z:.7f} {spot} {spot} 0 0 0 0 {TRACKED}")
    return ("\n".join(lines) + "\n").encode("ascii")
