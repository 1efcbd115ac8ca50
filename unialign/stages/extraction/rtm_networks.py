"""People in a frame by OpenMMLab's pose networks (Apache-2.0), from ONNX files that the user has: RTMO, or RTMPose with
a detector such as RTMDet.

Legend: V joints, n people, (H, W) height and width of an image in pixels.

What the files take and give is that of MMDeploy's exports, which OpenMMLab publishes (`end2end.onnx`):

- RTMO (Lu et al., arXiv 2312.07526): a letterboxed image, BGR 0 to 255; gives dets (1, n, 5), boxes and their scores,
  and keypoints (1, n, V, 3);
- RTMDet (Lyu et al., arXiv 2212.07784): a letterboxed image, BGR, normalized; gives dets (1, n, 5) and labels (1, n),
  of which 0 is a person;
- RTMPose (Jiang et al., arXiv 2303.07399): the crop of one person, RGB, normalized; gives simcc_x (1, V, 2 W) and
  simcc_y (1, V, 2 H), a classification of the column and of the row of each joint.

Images go through one at a time, so nobody's result depends on another image. Frames are letterboxed in the middle;
RTMPose's crop is the box, a quarter wider and higher, in the proportions of its input (section 3 of its paper, and
MMPose's configurations), resampled bilinearly, black outside of the frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import nms

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction.pose_backends import onnx_session
from unialign.stages.extraction.tracker import Detections

# ImageNet's mean and deviation per channel, in the order red, green, blue.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# The gray of the letterbox, as in training.
PADDING = 114
# How much larger than a person's box RTMPose's crop is.
BOX_PADDING = 1.25
# Boxes with a larger overlap are one person, as in RTMO's and RTMDet's configurations.
LARGEST_OVERLAP = 0.65
# Of a file: ONNX, as Protocol Buffers, ends there.
LARGEST_FILE = 2 << 30

ADVICE = (
    "give --weights an RTMO network, or an RTMPose one and --detector an RTMDet one, as OpenMMLab publishes them for "
    "ONNX Runtime (end2end.onnx)"
)


@dataclass(frozen=True)
class RtmFile:
    """An ONNX file and its SHA-256."""

    path: Path
    digest: str


@dataclass(frozen=True)
class _Net:
    """A loaded file: its session, the name of its input, and the sides (H, W) of the images that it takes."""

    session: Any
    input: str
    sides: tuple[int, int]
    outputs: tuple[tuple[int | None, ...], ...]

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """The outputs for one image (H, W, 3) float32."""
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        return [np.asarray(one) for one in self.session.run(None, {self.input: batch})]


class Rtmo:
    """One network that finds people and their joints at once."""

    def __init__(self, net: _Net, where: Path) -> None:
        self.net, self.num_joints = net, _joints_of(net.outputs[1][2], where)

    def people(self, frame: np.ndarray, confidence: float, most: int) -> Detections:
        """The people of a frame (H, W, 3) RGB uint8, in its pixels, best first; at most `most`."""
        canvas, gain, corner = _letterboxed(frame, self.net.sides)
        found, joints = self.net.run(canvas[..., ::-1].astype(np.float32))
        kept = _best(found[0], confidence, most)
        keypoints = joints[0][kept].astype(np.float64)
        keypoints[..., :2] = (keypoints[..., :2] - corner) / gain
        return _clipped(_boxes(found[0][kept], gain, corner), keypoints, found[0][kept, 4], frame)


class TopDown:
    """A detector of people, and a network for the joints of one person."""

    def __init__(self, detector: _Net, pose: _Net, where: Path) -> None:
        self.detector, self.pose = detector, pose
        self.num_joints = _joints_of(pose.outputs[0][1], where)

    def people(self, frame: np.ndarray, confidence: float, most: int) -> Detections:
        """The people of a frame (H, W, 3) RGB uint8, in its pixels, best first; at most `most`."""
        canvas, gain, corner = _letterboxed(frame, self.detector.sides)
        found, labels = self.detector.run(_normalized(canvas)[..., ::-1])
        persons = found[0][labels[0].reshape(-1) == 0]
        kept = _best(persons, confidence, most)
        boxes = _boxes(persons[kept], gain, corner)
        keypoints = np.empty((len(boxes), self.num_joints, 3))
        image = Image.fromarray(frame)
        for place, box in enumerate(boxes):
            keypoints[place] = self._joints(image, box)
        return _clipped(boxes, keypoints, persons[kept, 4], frame)

    def _joints(self, image: Image.Image, box: np.ndarray) -> np.ndarray:
        """The joints (V, 3) of the person in a box, in pixels of the image, and their scores."""
        height, width = self.pose.sides
        left, top, step = _crop(box, height, width)
        # Pillow counts from the corner of a pixel, the networks from its center.
        shift = 0.5 - step / 2
        crop = image.transform(
            (width, height),
            Image.Transform.AFFINE,
            (step, 0.0, left + shift, 0.0, step, top + shift),
            Image.Resampling.BILINEAR,
        )
        across, down = self.pose.run(_normalized(np.asarray(crop)))
        return decode_simcc(across, down, (height, width), (left, top), step)


def decode_simcc(
    across: np.ndarray, down: np.ndarray, sides: tuple[int, int], corner: tuple[float, float], step: float
) -> np.ndarray:
    """The joints (V, 3) that two classifications of coordinates mean: the column and the row with the largest value.

    across: (1, V, k W), down: (1, V, k H), for an input with these sides (H, W), whose pixel is `step` pixels of the
    frame and whose first one lies at `corner` (x, y). The score is the smaller of the two values, from 0 to 1.
    """
    height, width = sides
    columns, rows = across[0].argmax(axis=-1), down[0].argmax(axis=-1)
    scores = np.minimum(across[0].max(axis=-1), down[0].max(axis=-1))
    x = corner[0] + step * columns * (width / across.shape[-1])
    y = corner[1] + step * rows * (height / down.shape[-1])
    return np.stack([x, y, np.clip(scores, 0, 1)], axis=-1)


def _crop(box: np.ndarray, height: int, width: int) -> tuple[float, float, float]:
    """Left and top of the crop around a box, in pixels of the frame, and how many of them a pixel of the crop is."""
    middle = (box[:2] + box[2:]).astype(np.float64) / 2
    wide, high = np.maximum((box[2:] - box[:2]).astype(np.float64) * BOX_PADDING, 1.0)
    step = max(wide / width, high / height)
    return float(middle[0] - step * width / 2), float(middle[1] - step * height / 2), float(step)


@lru_cache(maxsize=2)
def load_rtm(weights: RtmFile, detector: RtmFile | None, device: str, image_size: int, threads: int) -> Rtmo | TopDown:
    """The networks of those files, loaded once per process.

    image_size: side of the images where the file leaves it open. Raises `UsageError` for a file that is missing, has
    changed, or is not such a network.
    """
    net = _load(weights, device, image_size, threads)
    if _is_rtmo(net.outputs):
        if detector:
            raise UsageError(f"{weights.path} finds people by itself; leave out --detector.")
        return Rtmo(net, weights.path)
    if not _is_simcc(net.outputs):
        raise UsageError(f"{weights.path} gives {_shown(net.outputs)}, which is no RTMO and no RTMPose; {ADVICE}.")
    if detector is None:
        raise UsageError(f"{weights.path} is an RTMPose network, which needs people's boxes; {ADVICE}.")
    boxes = _load(detector, device, image_size, threads)
    if not _is_detector(boxes.outputs):
        raise UsageError(f"{detector.path} gives {_shown(boxes.outputs)}, which is no detector; {ADVICE}.")
    return TopDown(boxes, net, weights.path)


def rtm_file(path: Path, flag: str) -> RtmFile:
    """The file with its digest. Raises `UsageError` where it is missing or larger than ONNX allows."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; {ADVICE}.")
    if path.stat().st_size > LARGEST_FILE:
        raise UsageError(f"{flag} {path}: is larger than 2 GiB, so not an ONNX network; {ADVICE}.")
    return RtmFile(path, file_digest(path))


def _load(file: RtmFile, device: str, image_size: int, threads: int) -> _Net:
    # Read once: what is compared is what is loaded. As bytes, it cannot refer to other files.
    data = rtm_file(file.path, "the network").path.read_bytes()
    if file_digest(file.path) != file.digest:
        raise UsageError(f"{file.path}: the file is not the one whose digest is {file.digest}; start again.")
    try:
        session = onnx_session(data, device, threads)
    except UsageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file.path}: ONNX Runtime cannot load it ({reason}); {ADVICE}.") from error
    takes = session.get_inputs()
    shape = [size if isinstance(size, int) else None for size in takes[0].shape] if len(takes) == 1 else []
    if len(shape) != 4 or shape[0] not in (None, 1) or shape[1] not in (None, 3) or takes[0].type != "tensor(float)":
        raise UsageError(f"{file.path}: does not take one image (1, 3, H, W) of floats; {ADVICE}.")
    outputs = tuple(
        tuple(size if isinstance(size, int) else None for size in one.shape) for one in session.get_outputs()
    )
    return _Net(session, takes[0].name, (shape[2] or image_size, shape[3] or image_size), outputs)


def _is_rtmo(outputs: Sequence[tuple[int | None, ...]]) -> bool:
    return [len(one) for one in outputs] == [3, 4] and outputs[0][2] in (5, None) and outputs[1][3] in (3, None)


def _is_simcc(outputs: Sequence[tuple[int | None, ...]]) -> bool:
    return [len(one) for one in outputs] == [3, 3]


def _is_detector(outputs: Sequence[tuple[int | None, ...]]) -> bool:
    return [len(one) for one in outputs] == [3, 2] and outputs[0][2] in (5, None)


def _joints_of(number: int | None, where: Path) -> int:
    if number is None:
        raise UsageError(f"{where}: does not say how many joints it finds; export it with a fixed number.")
    return number


def _shown(outputs: Sequence[tuple[int | None, ...]]) -> str:
    return " and ".join("x".join("?" if size is None else str(size) for size in one) for one in outputs) or "nothing"


def _letterboxed(frame: np.ndarray, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frame resized into the middle of a gray image; how much larger it is there (x, y), and its corner (x, y)."""
    height, width = frame.shape[:2]
    scale = min(sides[0] / height, sides[1] / width)
    high, wide = (max(1, min(side, round(edge * scale))) for edge, side in zip((height, width), sides, strict=True))
    canvas = np.full((*sides, 3), PADDING, dtype=np.uint8)
    top, left = (sides[0] - high) // 2, (sides[1] - wide) // 2
    resized = Image.fromarray(frame).resize((wide, high), Image.Resampling.BILINEAR)
    canvas[top : top + high, left : left + wide] = np.asarray(resized)
    return canvas, np.array([wide / width, high / height]), np.array([left, top])


def _normalized(image: np.ndarray) -> np.ndarray:
    """An RGB image of 0 to 255 in deviations from ImageNet's mean, float32."""
    return (image.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)


def _best(found: np.ndarray, confidence: float, most: int) -> np.ndarray:
    """Places of the people to keep, best first: sure enough, and none twice."""
    places = np.flatnonzero(found[:, 4] >= confidence)
    boxes, scores = torch.from_numpy(found[places, :4].copy()), torch.from_numpy(found[places, 4].copy())
    kept: np.ndarray = places[nms(boxes, scores, LARGEST_OVERLAP).numpy()[:most]]
    return kept


def _boxes(found: np.ndarray, gain: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) in pixels of the frame."""
    boxes: np.ndarray = ((found[:, :4].reshape(-1, 2, 2) - corner) / gain).reshape(-1, 4)
    return boxes


def _clipped(boxes: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, frame: np.ndarray) -> Detections:
    limit = np.array([frame.shape[1], frame.shape[0]])
    keypoints[..., :2] = np.clip(keypoints[..., :2], 0, limit)
    inside = np.clip(boxes.reshape(-1, 2, 2), 0, limit).reshape(-1, 4)
    return Detections(inside.astype(np.float32), keypoints.astype(np.float32), scores.astype(np.float32))
