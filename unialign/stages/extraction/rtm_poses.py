"""Person keypoints in every frame of a clip, by OpenMMLab's permissively licensed networks and our own tracker."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from unialign.cache.arrays import ArraySpec
from unialign.errors import UsageError
from unialign.stages.device import resolve_device
from unialign.stages.extraction.ahead import decoders, in_order, streams, timed
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.clip_poses import pose_arrays, tracked_outcome
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.heartbeat import beat
from unialign.stages.extraction.rtm_networks import RtmFile, Rtmo, TopDown, load_rtm
from unialign.stages.extraction.tracker import Detections
from unialign.stages.skeleton_layouts import COCO_17, Layout
from unialign.stages.video import decoder_version
from unialign.stages.video_decoders import PYAV, check_decoder, decoder_key, load_decoder
from unialign.types import Json

REVISION = 1
# Frames that each decoding thread may be ahead of the network; at 1080p, 6 MB each.
FRAMES_AHEAD = 4
TRACKED_AT_ONCE = 2
LIBRARIES = ("onnxruntime", "pillow", "torchvision")


@dataclass
class _Clip:
    """A source in progress: the people in its frames so far, and the seconds that it took."""

    video: SourceVideo
    frames: list[Detections] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RtmPoses:
    """Extractor of `poses` with RTMO, or with RTMPose on the boxes of a detector.

    layout: what the network's joints are, in order. image_size: side of the images of a network whose file leaves it
    open. The other parameters are those of `poses.YoloPoses`; the device is not part of the key either.
    """

    weights: RtmFile
    detector: RtmFile | None = None
    layout: Layout = COCO_17
    confidence: float = 0.25
    num_people: int = 2
    image_size: int = 640
    max_frames: int = 1024
    max_detections: int = 20
    longest_gap: int = 30
    device: str = "auto"
    decoder: str = PYAV

    modality = "poses"
    name = "rtm"

    def __post_init__(self) -> None:
        check_decoder(self.decoder)

    def key(self) -> Mapping[str, Json]:
        """See `Extractor.key`."""
        names = ("confidence", "num_people", "image_size", "max_frames", "max_detections", "longest_gap")
        return {
            "extractor": self.name,
            "revision": REVISION,
            "parameters": {
                **{name: getattr(self, name) for name in names},
                "detector": self.detector.digest if self.detector else "",
                "layout": self.layout.plain,
            },
            "weights": self.weights.digest,
            "decoder": decoder_key(decoder_version(), self.decoder),
            "libraries": libraries(),
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """`keypoints`, `frame_size` and `fps`."""
        return pose_arrays(self.max_frames, self.num_people, self.layout)

    def attributes(self) -> Mapping[str, Json]:
        """License of the networks; of the weights as their publisher says."""
        return {
            "licence": "Apache-2.0 (OpenMMLab's RTMO, RTMPose, RTMDet; weights as their publisher says)",
            "citation": "Jiang et al., RTMPose, arXiv 2303.07399; Lu et al., RTMO, arXiv 2312.07526",
        }

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return source_digest(source)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """See `run_on`, with a decoder of its own."""
        return self.run_on(sources, partial(SourceVideo, decoder=self.decoder))

    def run_on(self, sources: Sequence[Source], open_clip: Callable[[Source], SourceVideo]) -> Iterator[Outcome]:
        """One outcome per source, in order; clips are decoded ahead and tracked behind in threads.

        Statuses: "ok", "no-person", "too-long" and those of `Video.frames`. Raises `UsageError` for files that are not
        such networks, or find another number of joints than the layout has.
        """
        load_decoder(self.decoder)
        device = str(resolve_device(self.device, setting="extract.device"))
        network = load_rtm(self.weights, self.detector, device, self.image_size, torch.get_num_threads())
        if network.num_joints != len(self.layout.joints):
            raise UsageError(
                f"{self.weights.path} finds {network.num_joints} joints, {self.layout.name} has "
                f"{len(self.layout.joints)}; say with --layout what its joints are."
            )
        clips = (_Clip(open_clip(source)) for source in sources)
        ahead = streams(lambda clip: clip.video.frames(self.max_frames), clips, decoders(), FRAMES_AHEAD)
        with closing(ahead) as opened:
            seen = (self._seen(network, clip, frames) for clip, frames in opened)
            yield from in_order(self._tracked, seen, TRACKED_AT_ONCE)

    def _seen(self, network: Rtmo | TopDown, clip: _Clip, frames: Iterator[np.ndarray]) -> _Clip:
        for frame in timed(frames, clip.spent, "decoder"):
            beat()
            started = time.monotonic()
            clip.frames.append(network.people(frame, self.confidence, self.max_detections))
            clip.spent["network"] = clip.spent.get("network", 0.0) + time.monotonic() - started
        return clip

    def _tracked(self, clip: _Clip) -> Outcome:
        outcome = tracked_outcome(
            clip.video,
            clip.frames,
            num_people=self.num_people,
            longest_gap=self.longest_gap,
            confidence=self.confidence,
        )
        return replace(outcome, spent=clip.spent)


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide a pose's bytes. Raises `UsageError` without ONNX Runtime."""
    try:
        return {name: version(name).partition("+")[0] for name in LIBRARIES}
    except PackageNotFoundError as error:
        raise UsageError(
            "networks in ONNX files need ONNX Runtime; install it with: pip install 'unialign[onnxruntime]'."
        ) from error
