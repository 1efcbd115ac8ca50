"""How many people a pose network sees in a dataset's clips, in a few seconds: one frame of each of some clips."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from itertools import islice

import numpy as np

from unialign.errors import CorruptInput, UnialignError
from unialign.pipeline.config import Config
from unialign.pipeline.first_look import MOST_CLIPS
from unialign.stages.datasets.base import Dataset, Sample

# Seconds after which no more clips are looked at.
SECONDS = 4.0


def people_seen(dataset: Dataset, config: Config, middle: int) -> Mapping[int, int]:
    """Clips by the number of people in one frame of each; empty without weights of a pose network that can be loaded.

    middle: number of that frame; of a shorter clip, its last one is taken.
    """
    section = config.extract.poses
    if section.source != "video" or section.weights is None or not section.weights.is_file():
        return {}
    from unialign.stages.device import resolve_device
    from unialign.stages.extraction.letterbox import letterbox
    from unialign.stages.extraction.poses import yolo_poses

    clips = [sample for sample in dataset.samples if "video" in sample.files]
    count, counts = min(MOST_CLIPS, len(clips)), Counter[int]()
    try:
        poses = yolo_poses(section.weights, image_size=section.image_size, backend=section.backend)
        device = str(resolve_device(config.extract.device, setting="extract.device"))
        network = poses.network(device, (section.image_size, section.image_size))
    except UnialignError:
        # `unialign run` says why; here it is one fact fewer.
        return {}
    begun = time.monotonic()
    for number in range(count):
        if time.monotonic() - begun > SECONDS:
            break
        frame = _frame(clips[number * len(clips) // count], middle)
        if frame is not None:
            network.put(0, 0, [frame if network.takes_frames else letterbox(frame, section.image_size)])
            (people,) = network.detect_in(0, 1, section.confidence, poses.max_detections)
            counts[len(people)] += 1
    return dict(sorted(counts.items()))


def _frame(sample: Sample, number: int) -> np.ndarray | None:
    from unialign.stages.video import Video

    try:
        last = deque(islice(Video(sample.files["video"], sample.span).frames(), number + 1), maxlen=1)
    except CorruptInput:
        # The first look counts clips that cannot be read.
        return None
    return last.pop() if last else None
