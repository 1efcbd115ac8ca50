"""Ultralytics YOLO pose networks: loading them, quietly and offline, and finding persons with them.

Ultralytics is licensed under AGPL-3.0; no other module of unialign imports it.
"""

import atexit
import copy
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction.letterbox import letterbox_into
from unialign.stages.extraction.pose_backends import BACKENDS, Backend, Order
from unialign.stages.extraction.suppression import best_persons, first_persons
from unialign.stages.skeleton_layouts import Layout

LOGGER = logging.getLogger(__name__)

LICENCE = "AGPL-3.0"
# Boxes with a larger overlap are one person: the default of `yolo predict`.
LARGEST_OVERLAP = 0.7

# Read by Ultralytics at import (8.4): no DNS lookups, no usage reports, no pip at run time, no banners, and checkpoints
# restricted to known classes, so that loading one runs no code from it.
SURROUNDINGS = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "true",
}


@lru_cache(maxsize=1)
def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder of this process for the settings that Ultralytics writes at import; removed at exit."""
    folder = tempfile.TemporaryDirectory(prefix="unialign-ultralytics-")
    atexit.register(folder.cleanup)
    return folder


@contextmanager
def undisturbed() -> Iterator[None]:
    """The environment in which Ultralytics is imported and loads; its changes to the whole process are reverted."""
    environment, options = dict(os.environ), np.get_printoptions()
    # It replaces these two functions; its `Image.open` installs packages for unknown formats.
    save, open_image = torch.save, Image.open
    os.environ.update(SURROUNDINGS)
    os.environ.setdefault("YOLO_CONFIG_DIR", private_folder().name)
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        np.set_printoptions(**options)
        torch.save, Image.open = save, open_image


INSTALL = "poses need Ultralytics 8.4 or newer; install it with: pip install 'unialign[ultralytics]' (AGPL-3.0)."


def versions() -> dict[str, str]:
    """Versions of the libraries that affect a pose's bytes. Raises `UsageError` if Ultralytics is not installed."""
    try:
        # Without "+cpu" or "+cu128": the device is not part of a key.
        return {name: version(name).partition("+")[0] for name in ("ultralytics", "torch", "torchvision", "pillow")}
    except PackageNotFoundError as error:
        raise UsageError(INSTALL) from error


@lru_cache(maxsize=1)
def loader() -> Any:
    """Ultralytics' loader of checkpoints. Raises `UsageError` when it is not installed."""
    try:
        with undisturbed():
            from ultralytics import YOLO
            from ultralytics.nn import tasks
            from ultralytics.utils import checks
    except ImportError as error:
        raise UsageError(INSTALL) from error
    # The environment had no effect if another module of this process had already imported Ultralytics.
    tasks.SAFE_LOAD, checks.AUTOINSTALL = True, False
    LOGGER.warning(
        "poses are made with Ultralytics YOLO, which is licensed under AGPL-3.0 (https://ultralytics.com/license)"
    )
    return YOLO


def check_weights(weights: Path | None) -> Path:
    """The path of an existing checkpoint. Raises `UsageError` if none is given or it does not exist."""
    advice = (
        "point --weights at an Ultralytics pose checkpoint such as yolo11n-pose.pt; loading one can run code in it, "
        "so only use files that you trust."
    )
    if weights is None:
        raise UsageError(f"poses need a network, or --source skeleton if the dataset has skeletons: {advice}")
    if not weights.is_file():
        raise UsageError(f"{weights}: no such weights file; {advice}")
    return weights


@lru_cache(maxsize=2)
def load_model(weights: Path, weights_digest: str) -> Any:
    """The fused network of a checkpoint, float32, in evaluation mode, on the processor; read once per process.

    Raises `UsageError` if the file is missing, has another digest than the key says, or is no pose network.
    """
    check_weights(weights)
    if file_digest(weights) != weights_digest:
        raise UsageError(f"{weights}: the file is not the one whose digest is {weights_digest}; start again.")
    yolo = loader()
    # Ultralytics downloads a file whose name it does not accept; a link with a plain name avoids that.
    link = Path(private_folder().name) / f"{weights_digest.removeprefix('sha256:')}.pt"
    if not link.exists():
        link.symlink_to(weights.resolve())
    advice = "point --weights at an Ultralytics pose checkpoint such as yolo11n-pose.pt"
    try:
        with undisturbed():
            model = yolo(str(link)).model
    except Exception as error:
        raise UsageError(f"{weights}: cannot be loaded ({type(error).__name__}); {advice}.") from error
    shape = list(getattr(model.model[-1], "kpt_shape", ())) if hasattr(model, "model") else []
    if len(shape) != 2 or shape[1] != 3:
        raise UsageError(f"{weights}: is not a pose network that gives x, y and score of each joint; {advice}.")
    return model.fuse(verbose=False).float().eval()


def check_joints(weights: Path, weights_digest: str, layout: Layout) -> None:
    """Raise `UsageError` unless a network finds as many joints as the layout has."""
    number = int(load_model(weights, weights_digest).model[-1].kpt_shape[0])
    if number != len(layout.joints):
        raise UsageError(
            f"{weights} finds {number} joints, {layout.name} has {len(layout.joints)}; "
            "say with --layout what its joints are."
        )


def network_stride(weights: Path, weights_digest: str) -> int:
    """Stride of the coarsest feature map of a network: the sides of its input images are multiples of it."""
    return int(load_model(weights, weights_digest).stride.max())


@lru_cache(maxsize=8)
def load_network(
    weights: Path,
    weights_digest: str,
    device: str,
    shape: tuple[int, int, int, int],
    backend: str = "torch",
    precision: str = "fp32",
) -> "PoseNetwork":
    """The network of a checkpoint for batches (B, H, W, 3), built once per process; see `pose_backends`.

    Raises `UsageError` as `load_model` does, and for sides that are no multiples of the network's stride.
    """
    # A copy: building may change the precision of its weights, and keeps anchors of one shape in it.
    model = copy.deepcopy(load_model(weights, weights_digest))
    check_sides(shape[1:3], int(model.stride.max()))
    names, end2end = len(model.names), bool(getattr(model, "end2end", False))
    order = Order(model, weights_digest, device, precision, shape, torch.get_num_threads())
    return PoseNetwork(BACKENDS[backend].build(order), shape, num_classes=names, end2end=end2end)


def check_sides(sides: tuple[int, int], stride: int) -> None:
    """Raise `UsageError` with the nearest valid side unless both are multiples of the network's stride."""
    for side in sides:
        if side % stride:
            nearest = max(1, round(side / stride)) * stride
            raise UsageError(
                f"image size {side} is not a multiple of {stride}, which this network needs; take {nearest}."
            )


class PoseNetwork:
    """A loaded pose network: a backend, and the suppression of overlapping persons.

    shape: of its batches, (B, H, W, 3).
    """

    def __init__(
        self,
        predict: Backend,
        shape: tuple[int, int, int, int],
        *,
        num_classes: int = 1,
        end2end: bool = False,
    ) -> None:
        self.predict, self.shape, self.num_classes, self.end2end = predict, shape, num_classes, end2end
        self._batches: list[Tensor] = []
        # Of a GPU: batches are filled beside the network, not after it.
        self._filling = torch.cuda.Stream(predict.device) if self.takes_frames else None  # type: ignore[no-untyped-call]

    @property
    def takes_frames(self) -> bool:
        """Whether it resizes frames itself, on its GPU; a processor does that where it decodes, in many threads."""
        return self.predict.device.type == "cuda"

    def put(self, place: int, first: int, images: Sequence[np.ndarray]) -> None:
        """Copy images (H, W, 3) uint8 of one size, or with `takes_frames` frames, into one of two batches, from the
        position `first` on.
        """
        batch = self._batch(place)[first : first + len(images)]
        if self._filling is None:
            for each, image in zip(batch.numpy(), images, strict=True):
                each[...] = image
            return
        with torch.cuda.stream(self._filling):
            frames = torch.stack([torch.from_numpy(image).to(batch.device, non_blocking=True) for image in images])
            letterbox_into(batch, frames)

    def detect_in(self, place: int, number: int, confidence: float, max_detections: int) -> list[np.ndarray]:
        """Persons in each of the first `number` images of a batch; see `detect`. The others are black."""
        if self._filling is not None:
            torch.cuda.current_stream(self.predict.device).wait_stream(self._filling)
        batch = self._batch(place)
        batch[number:] = 0
        return self.detect(batch, confidence, max_detections)[:number]

    def _batch(self, place: int) -> Tensor:
        while len(self._batches) <= place:
            self._batches.append(torch.zeros(self.shape, dtype=torch.uint8, device=self.predict.device))
        return self._batches[place]

    def detect(self, images: np.ndarray | Tensor, confidence: float, max_detections: int) -> list[np.ndarray]:
        """Persons in each of the images (B, H, W, 3), RGB uint8.

        Returns B arrays (n, 4 + 1 + V * 3) float32: box x1, y1, x2, y2, score, then x, y, score of each joint, all in
        pixels of the given image, best person first.
        """
        with torch.inference_mode():
            found = self.predict(torch.as_tensor(images).to(self.predict.device))
            if self.end2end:
                return first_persons(found, confidence, max_detections)
            return best_persons(found, confidence, LARGEST_OVERLAP, max_detections, self.num_classes)
