"""Person keypoints in every frame of a clip, by a YOLO pose network and our own tracker.

Legend: T frames, M persons, V joints, C = 3 coordinates, S longer side of the network's images.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.device import resolve_device
from unialign.stages.extraction import ultralytics_pose
from unialign.stages.extraction.ahead import decoders, in_order, streams, timed
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.clip_poses import pose_arrays, tracked_outcome
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.letterbox import canvas_sides, letterbox, placement
from unialign.stages.extraction.pose_backends import check_backend, libraries_of
from unialign.stages.extraction.pose_batches import Batches, Network
from unialign.stages.extraction.tracker import Detections
from unialign.stages.skeleton_layouts import COCO_17, Layout
from unialign.stages.video import decoder_version
from unialign.stages.video_decoders import PYAV, check_decoder, decoder_key, load_decoder
from unialign.types import Json

# 2: new rules to select and join persons, float32 instead of float16.
REVISION = 2
# Stride of the coarsest feature map of most networks; `ultralytics_pose.check_sides` uses that of the loaded one.
STRIDE = 32
# Images travel from decoder to network in pieces of so many, or so many bytes. Each clip that is decoded ahead has room
# for as many pieces, so a decoding thread holds 40 MB, and more only where one frame does.
PIECE, PIECE_BYTES = 16, 8 << 20
PIECES_AHEAD = 4
# Clips tracked at a time, and detections up to which a clip is tracked in between: in 3 ms, within which the network
# has work.
TRACKED_AT_ONCE, FEW_DETECTIONS = 2, 256


def to_detections(found: np.ndarray, height: int, width: int, side: int, stride: int = 0) -> Detections:
    """Network output (n, 5 + V * 3) in pixels of its image as detections in pixels of the frame, clipped to it."""
    top, left, new_height, new_width = placement(height, width, side, stride)
    gain = np.array([new_width / width, new_height / height])
    corner, limit = np.array([left, top]), np.array([width, height])
    boxes = np.clip((found[:, :4].reshape(-1, 2, 2) - corner) / gain, 0, limit).reshape(-1, 4)
    keypoints = found[:, 5:].reshape(len(found), (found.shape[1] - 5) // 3, 3).astype(np.float64)
    keypoints[..., :2] = np.clip((keypoints[..., :2] - corner) / gain, 0, limit)
    return Detections(boxes.astype(np.float32), keypoints.astype(np.float32), found[:, 4])


@dataclass
class DetectionJob:
    """A source in progress: its decoder, and the detections in its frames so far. stride: see `canvas_sides`."""

    video: SourceVideo
    stride: int = 0
    found: list[np.ndarray] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)

    def take(self, persons: np.ndarray) -> None:
        """Add what was found in its next frame."""
        self.found.append(persons)

    def is_short(self) -> bool:
        """Whether tracking it takes no longer than handing it to a thread and back."""
        return sum(map(len, self.found)) <= FEW_DETECTIONS

    @property
    def is_done(self) -> bool:
        """Whether its outcome is determined."""
        decoded = self.video.is_decoded and len(self.found) == self.video.video.decoded
        return self.video.failure is not None or decoded


@dataclass(frozen=True)
class YoloPoses:
    """Extractor of `poses`. Create it with `yolo_poses`, which reads the digest of the weights.

    confidence: minimum score of a detected person. num_people: persons kept, M. image_size: S, a multiple of 32.
    max_frames: longer clips become "too-long". longest_gap: frames for which a person may be missed within one track.
    batch_frames: frames per call of the network, of one clip or several; the last batch is padded with black. It is
        part of the key: convolutions round differently for another batch size (by up to 0.001 pixel, whereas a frame's
        position in the batch and its neighbors have no effect at all).
    device: "auto", "cpu", "cuda", "cuda:1"; GPUs and CPUs round differently too, but the device is not part of the key.
    backend, precision: what computes the network, see `pose_backends`; part of the key unless they are the default.
    rectangular: the network sees a frame without the gray above and below it, or at its sides, up to its stride. Fewer
        pixels, so it is faster; persons near the border come out slightly differently. Part of the key if on.
    layout: what the network's joints are, in order; part of the key unless they are COCO's.
    decoder: of the videos, see `stages.video_decoders`; its versions are part of the key unless it is PyAV.
    """

    weights: Path
    weights_digest: str
    confidence: float = 0.25
    num_people: int = 2
    image_size: int = 640
    max_frames: int = 1024
    batch_frames: int = 16
    device: str = "auto"
    max_detections: int = 20
    longest_gap: int = 30
    backend: str = "torch"
    precision: str = "fp32"
    rectangular: bool = False
    layout: Layout = COCO_17
    decoder: str = PYAV

    modality = "poses"
    name = "yolo"

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % STRIDE:
            nearest = max(1, round(self.image_size / STRIDE)) * STRIDE
            raise UsageError(f"image size {self.image_size} is not a multiple of {STRIDE}; take {nearest}.")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence {self.confidence} is not between 0 and 1; take 0.25.")
        counts = ("num_people", "max_frames", "batch_frames", "max_detections")
        for count in counts:
            if getattr(self, count) < 1:
                raise UsageError(f"{count} {getattr(self, count)} is below 1.")
        check_backend(self.backend, self.precision)
        check_decoder(self.decoder)

    def key(self) -> Mapping[str, Json]:
        """What affects the bytes; see `Extractor.key`, and `batch_frames` for why it is included."""
        names = (
            "confidence", "num_people", "image_size", "max_frames", "batch_frames", "max_detections", "longest_gap",
        )  # fmt: skip
        # Left out where they are the default, so that stores keep the keys that they had before there was a choice.
        is_default = (self.backend, self.precision) == ("torch", "fp32")
        chosen = [*(() if is_default else ("backend", "precision")), *(("rectangular",) if self.rectangular else ())]
        return {
            "extractor": self.name,
            "revision": REVISION,
            "parameters": {
                **{name: getattr(self, name) for name in (*names, *chosen)},
                **({} if self.layout == COCO_17 else {"layout": self.layout.plain}),
            },
            "weights": self.weights_digest,
            "decoder": decoder_key(decoder_version(), self.decoder),
            "libraries": {**ultralytics_pose.versions(), **libraries_of(self.backend)},
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """`keypoints`, `frame_size` and `fps`."""
        return pose_arrays(self.max_frames, self.num_people, self.layout)

    def attributes(self) -> Mapping[str, Json]:
        """License of the network and its weights."""
        return {
            "licence": f"{ultralytics_pose.LICENCE} (Ultralytics, code and weights)",
            "citation": "Jocher et al., Ultralytics YOLO, https://github.com/ultralytics/ultralytics",
        }

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """See `run_on`, with a decoder of its own."""
        return self.run_on(sources, partial(SourceVideo, decoder=self.decoder))

    def run_on(self, sources: Sequence[Source], open_clip: Callable[[Source], SourceVideo]) -> Iterator[Outcome]:
        """One outcome per source, in order. Batches span clips, so an outcome may have to wait for the next sources.

        Clips are decoded ahead, put through the network and tracked in threads; batches are filled in the order of the
        clips, so no bit depends on that.

        Statuses: "ok", "no-person", "too-long" and those of `Video.frames`.
        Raises `UsageError` if the network cannot be loaded, finds other joints, or does not accept images of this size.
        """
        load_decoder(self.decoder)
        device = str(resolve_device(self.device, setting="extract.device"))
        stride = ultralytics_pose.network_stride(self.weights, self.weights_digest) if self.rectangular else 0
        network = self.network(device, (self.image_size, self.image_size))
        jobs = (DetectionJob(open_clip(source), stride) for source in sources)
        ahead = streams(partial(self.pieces, resized=not network.takes_frames), jobs, decoders(), PIECES_AHEAD)
        with closing(ahead) as clips, closing(self.detected(clips, device)) as detected:
            yield from in_order(self.outcome, detected, TRACKED_AT_ONCE, DetectionJob.is_short)

    def pieces(self, clip: DetectionJob, *, resized: bool) -> Iterator[list[np.ndarray]]:
        """The frames of a clip, a few at a time; `resized`: as the network's images."""
        piece: list[np.ndarray] = []
        for frame in clip.video.frames(self.max_frames):
            piece.append(letterbox(frame, self.image_size, clip.stride) if resized else frame)
            if len(piece) == PIECE or len(piece) * piece[0].nbytes >= PIECE_BYTES:
                yield piece
                piece = []
        if piece:
            yield piece

    def detected(
        self, clips: Iterable[tuple[DetectionJob, Iterator[list[np.ndarray]]]], device: str
    ) -> Generator[DetectionJob]:
        """The clips in order, each when all its frames have been through the network."""
        waiting: deque[DetectionJob] = deque()
        with Batches(partial(self.network, device), self.batch_frames, self.detect, DetectionJob.take) as batches:
            for clip, pieces in clips:
                waiting.append(clip)
                for piece in timed(pieces, clip.spent, "decoder"):
                    started = time.monotonic()
                    height, width = clip.video.video.size
                    sides = canvas_sides(height, width, self.image_size, clip.stride)
                    batches.add(clip, piece, sides)
                    clip.spent["network"] = clip.spent.get("network", 0.0) + time.monotonic() - started
                while waiting and waiting[0].is_done:
                    yield waiting.popleft()
            batches.finish()
            yield from waiting

    def network(self, device: str, sides: tuple[int, ...]) -> Network:
        """The network for batches of images with these sides (height, width)."""
        ultralytics_pose.check_joints(self.weights, self.weights_digest, self.layout)
        shape = (self.batch_frames, sides[0], sides[1], 3)
        return ultralytics_pose.load_network(
            self.weights, self.weights_digest, device, shape, self.backend, self.precision
        )

    def detect(self, network: Network, place: int, clips: Sequence[DetectionJob]) -> list[np.ndarray]:
        """Run the network once on a full or partial batch, whose images are of these clips; the persons in each."""
        return network.detect_in(place, len(clips), self.confidence, self.max_detections)

    def outcome(self, clip: DetectionJob) -> Outcome:
        """The outcome of a clip after all its frames have been through the network."""
        return replace(self.tracked(clip), spent=clip.spent)

    def tracked(self, clip: DetectionJob) -> Outcome:
        """Track the persons of a clip."""
        frames: list[Detections] = []
        if clip.video.failure is None:
            height, width = clip.video.video.size
            # At once, since a call takes as long for one frame as for all.
            whole = to_detections(np.concatenate(clip.found), height, width, self.image_size, clip.stride)
            ends = np.cumsum([0, *map(len, clip.found)]).tolist()
            frames = [whole.part(start, end) for start, end in pairwise(ends)]
        return tracked_outcome(
            clip.video,
            frames,
            num_people=self.num_people,
            longest_gap=self.longest_gap,
            confidence=self.confidence,
        )


def yolo_poses(weights: Path | None, **parameters: Any) -> YoloPoses:
    """The extractor for a checkpoint. Raises `UsageError` if none is given or it does not exist."""
    path = ultralytics_pose.check_weights(weights)
    return YoloPoses(path, file_digest(path), **parameters)
