"""A clip as the page plays it: its cached frames in one image, and the skeletons of the same frames.

Legend: F frames shown, P persons, V joints.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unialign.cache.digests import file_digest
from unialign.cache.reader import Recorded
from unialign.errors import CorruptInput, MissingCache
from unialign.pipeline.evaluation.shown_joints import joints_over_frames, shown_joints
from unialign.pipeline.evaluation.tracks import ABSENT, held, track_states
from unialign.pipeline.pages.page import data_url, packed
from unialign.stages.images import decode_images
from unialign.stages.skeleton_layouts import Layout, layout_in
from unialign.stages.video import decode_frames
from unialign.types import Json

MOST_FRAMES = 16
MOST_SIDE = 128  # pixels of the shorter side
COLUMNS = 4
QUALITY = 72
# Where there are no frames, skeletons are drawn in a square of this side.
BLANK = 256
# Coordinates are written in sixteenths of a pixel of the strip; this value stands for an unknown joint.
SIXTEENTHS, MISSING = 16, -32768
MOST_PEOPLE = 4
# Bytes of all clips on a page as they are written, and how many at most: a page stays below 10 MB.
CLIP_BYTES, MOST_CLIPS = 5_000_000, 120
# Called with (done, total, text).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sources:
    """The stores that clips are shown from; None where there is none. videos: of clips, for frames that were stored
    smaller than they are shown.
    """

    frames: Recorded | None = None
    poses: Recorded | None = None
    videos: Mapping[str, Path] = field(default_factory=dict)

    def holds(self, sample: str) -> bool:
        """Whether any of them has the sample."""
        return any(store is not None and sample in store for store in (self.frames, self.poses))

    @property
    def layout(self) -> Layout | None:
        """The joints of the poses."""
        return layout_in(self.poses.array_attributes("keypoints")) if self.poses else None


def strip_of(sources: Sources, sample: str) -> dict[str, Json]:
    """What `player.js` reads of a clip. frames: places in the clip; length: of the clip in frames, 0 if unknown.

    image: JPEG of all frames, `columns` to a row, or None; width, height: of one frame. people: `_people`, or None.
    Raises `MissingCache` for a clip that no store has, `DamagedStore` for stores that cannot be read.
    """
    if sources.frames is not None and sample in sources.frames:
        return _with_frames(sources, sample)
    if sources.poses is None or sample not in sources.poses:
        raise MissingCache(f"neither frames nor poses of {sample} are stored.")
    joints = shown_joints(sources.poses, sample)
    which = _evenly(len(joints))
    fitted = _fitted(joints)
    return {
        "image": None,
        "columns": COLUMNS,
        "width": BLANK,
        "height": BLANK,
        "count": len(which),
        "frames": which.tolist(),
        "length": len(joints),
        "people": _people(fitted, which),
    }


def strips_of(sources: Sources, ids: Sequence[str], order: Sequence[int], progress: Progress) -> list[dict[str, Json]]:
    """The clips of `order` as long as they fit, see `strip_of`, each with its place in `ids` as "clip"."""
    shown: list[dict[str, Json]] = []
    size, total = 0, min(MOST_CLIPS, len(order))
    for place in order[:total]:
        strip = strip_of(sources, ids[place])
        size += len(strip["image"] or "") + (len(strip["people"]["points"]["data"]) if strip["people"] else 0)
        if size > CLIP_BYTES:
            break
        shown.append({"clip": place, **strip})
        progress(len(shown), total, "frames of clips")
    return shown


def _with_frames(sources: Sources, sample: str) -> dict[str, Json]:
    assert sources.frames is not None
    frames, stored = sources.frames, sources.frames.read_one(sample)
    chosen = _evenly(len(stored["frame_index"]))
    encoding = str(frames.array_attributes("pictures")["encoding"])
    which = np.asarray(stored["frame_index"], np.int64)[chosen]
    sharp = None
    if min(stored["size"]) < MOST_SIDE and sample in sources.videos:
        sharp = _from_video(sources.videos[sample], frames.source(sample), which)
    small_ones = decode_images(stored["pictures"], stored["offset"], stored["size"], encoding, chosen.tolist())
    pictures = sharp or [*small_ones]
    scale = min(1.0, MOST_SIDE / min(pictures[0].shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pictures[0].shape[:2])
    sheet = Image.new("RGB", (width * min(COLUMNS, len(pictures)), height * -(-len(pictures) // COLUMNS)))
    for number, picture in enumerate(pictures):
        small = Image.fromarray(picture)
        if scale < 1:
            small = small.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (width * (number % COLUMNS), height * (number // COLUMNS)))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    joints = joints_over_frames(sources.poses, sample, stored)
    people = None if joints is None else _people(joints * (width / stored["size"][1]), which)
    return {
        "image": data_url(buffer.getvalue(), "jpeg"),
        "columns": min(COLUMNS, len(pictures)),
        "width": width,
        "height": height,
        "count": len(which),
        "frames": which.tolist(),
        "length": 0 if joints is None else len(joints),
        "people": people,
    }


def _from_video(path: Path, source: str, which: NDArray[np.int64]) -> list[np.ndarray] | None:
    """Those frames of a video; None if it is not the file that the stored ones were made from, or cannot be read."""
    wanted = set(which.tolist())
    try:
        if file_digest(path) != source:
            return None
        found = [frame for number, frame in enumerate(decode_frames(path)) if number in wanted]
    except (CorruptInput, OSError):
        return None
    return found if len(found) == len(wanted) else None


def _evenly(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(MOST_FRAMES, count)).round().astype(np.int64))


def _fitted(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same joints in the middle of a square of side `BLANK`."""
    known = joints[np.isfinite(joints).all(axis=-1)]
    if not len(known):
        return joints
    low, high = known.min(axis=0), known.max(axis=0)
    scale = 0.86 * BLANK / max(float((high - low).max()), 1e-9)
    fitted: NDArray[np.float64] = (joints - (low + high) / 2) * scale + BLANK / 2
    return fitted


def _people(joints: NDArray[np.float64], which: NDArray[np.int64]) -> Json:
    """The persons of the frames `which`: points (F, P, V, 2) as int16, and a string of `tracks` per person.

    A jump is shown at the first shown frame after it.
    """
    inside = which[which < len(joints)]
    if not len(inside):
        return None
    states, joined = track_states(joints), held(joints)
    persons = [person for person, letters in enumerate(states) if letters.strip(ABSENT)][:MOST_PEOPLE]
    if not persons:
        return None
    points = np.full((len(which), len(persons), joints.shape[2], 2), MISSING, np.int16)
    shown = joined[inside][:, persons] * SIXTEENTHS
    limit = np.iinfo(np.int16).max
    known = np.isfinite(shown).all(axis=-1, keepdims=True)
    points[: len(inside)] = np.where(known, np.nan_to_num(shown.round()).clip(-limit, limit), MISSING).astype(np.int16)
    return {
        "persons": len(persons),
        "joints": joints.shape[2],
        "points": packed(points),
        "states": [_shown_states(states[person], which) for person in persons],
    }


def _shown_states(letters: str, which: NDArray[np.int64]) -> str:
    found, before = [], -1
    for frame in which.tolist():
        part = letters[before + 1 : frame + 1]
        now = letters[frame] if frame < len(letters) else ABSENT
        found.append("!" if now == "p" and "!" in part and before >= 0 else now)
        before = frame
    return "".join(found)


def layout_content(layout: Layout | None) -> Json:
    """Bones, and the side of the body of each joint."""
    if layout is None:
        return None
    sides = [layout.side(joint) for joint in range(len(layout.joints))]
    return {"bones": [list(bone) for bone in layout.bones], "sides": sides}
