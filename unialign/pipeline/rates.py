"""What this machine decodes and computes per second, and which of the two an extraction of poses will wait for."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unialign.cache.cores import usable_cores
from unialign.errors import UnialignError
from unialign.pipeline.config import Config, PosesSection
from unialign.pipeline.extraction.hardware import network_threads
from unialign.types import Json

# Seconds that each of the two is measured for, after a first time that loads it.
DECODING, COMPUTING = 1.0, 6.0
# The clip that is decoded: 360p, as most collections of actions are kept.
HEIGHT, WIDTH, FRAMES = 360, 640, 48


def measured_rates(config: Config) -> dict[str, Json]:
    """Frames per second: "decoder" (a made clip of 360p, a thread per core), "network" (the configured pose network on
    ready images; None without weights), and "bottleneck", a sentence.
    """
    decoder = _decoder_rate()
    network, why = _network_rate(config)
    found: dict[str, Json] = {"decoder": round(decoder, 1), "network": None if network is None else round(network, 1)}
    if network is None:
        return {**found, "bottleneck": why}
    if network < decoder:
        advice = "a GPU, --backend openvino on a processor, or a smaller extract.poses.image_size helps"
        return {**found, "bottleneck": f"the network: extract poses waits for it; {advice}."}
    advice = "more cores or machines (--cluster slurm:N, --join), or extract.decoder=torchcodec-cuda, helps"
    return {**found, "bottleneck": f"the decoder: extract poses waits for it; {advice}."}


def _decoder_rate() -> float:
    from unialign.stages.video import decode_frames, encode_clip

    rng, cores = np.random.default_rng(0), usable_cores()
    ground = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    pictures = [np.roll(ground, 3 * number, axis=1) for number in range(FRAMES)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as pool:
        clip = Path(folder) / "clip.mp4"
        encode_clip(clip, pictures, fps=24)

        def decode() -> int:
            return sum(pool.map(lambda _: sum(1 for _ in decode_frames(clip)), range(cores)))

        return _rate(decode, DECODING)


def _network_rate(config: Config) -> tuple[float | None, str]:
    section = config.extract.poses
    if section.source != "video" or section.weights is None or not section.weights.is_file():
        return None, "unknown without the weights of a pose network (`extract.poses.weights`)."
    try:
        return _rate(_batches(section, config), COMPUTING), ""
    except UnialignError as error:
        return None, f"unknown, because the pose network cannot be loaded: {error}"


def _batches(section: PosesSection, config: Config) -> Callable[[], int]:
    import torch

    from unialign.stages.device import resolve_device
    from unialign.stages.extraction.poses import yolo_poses

    poses = yolo_poses(
        section.weights,
        image_size=section.image_size,
        backend=section.backend,
        precision=section.precision,
    )
    torch.set_num_threads(config.extract.threads or network_threads("", usable_cores()))
    device = str(resolve_device(config.extract.device, setting="extract.device"))
    network = poses.network(device, (section.image_size, section.image_size))

    def detect() -> int:
        return len(network.detect_in(0, poses.batch_frames, section.confidence, poses.max_detections))

    return detect


def _rate(work: Callable[[], int], seconds: float) -> float:
    """How much of the work is done per second; the first time does not count."""
    work()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        done += work()
    return done / (time.monotonic() - started)
