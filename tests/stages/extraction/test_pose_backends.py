"""Every backend of the pose network finds the same people as PyTorch, and says in the key that it is another one."""

import contextlib
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction import network_export, pose_backends, ultralytics_pose
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.letterbox import canvas_sides, letterbox
from unialign.stages.extraction.pose_backends import BACKENDS, Order, onnx_session
from unialign.stages.extraction.poses import YoloPoses, to_detections
from unialign.stages.video import decode_frames

pytestmark = pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the extra ultralytics")

SIDE, BATCH = 320, 4


def installed(name: str) -> bool:
    # Compiling takes minutes.
    wanted = name != "torch-compile" or os.environ.get("COMPILED") == "full"
    return wanted and all(find_spec(library) for library in BACKENDS[name].libraries)


OTHERS = [
    pytest.param(
        name, marks=pytest.mark.skipif(not installed(name), reason=f"needs the extra {name}, or COMPILED=full")
    )
    for name in BACKENDS
    if name != "torch"
]


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights" / "yolo11n-pose.pt"


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[np.ndarray]:
    """Frames of real clips of one and of several people, 4:3 and 16:9."""
    clips = [*sorted((shared_data / "videos" / "gestures").rglob("*.mp4"))[::30]]
    clips += sorted((shared_data / "videos" / "fights").rglob("*.mp4"))[::20]
    return [next(iter(decode_frames(clip))) for clip in clips]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for exported networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ultralytics_pose.load_network.cache_clear()
    return tmp_path / "unialign" / "networks"


def people(weights: Path, frames: list[np.ndarray], stride: int = 0, **chosen: str) -> list[np.ndarray]:
    """The people of each frame (n, 5 + 51), in pixels of the frame."""
    found = []
    for start in range(0, len(frames), BATCH):
        part = frames[start : start + BATCH]
        images = [letterbox(frame, SIDE, stride) for frame in part]
        for image, frame in zip(images, part, strict=True):
            shape = (BATCH, *image.shape)
            network = ultralytics_pose.load_network(weights, file_digest(weights), "cpu", shape, **chosen)
            batch = np.zeros(shape, dtype=np.uint8)
            batch[0] = image
            one = to_detections(network.detect(batch, 0.25, 20)[0], frame.shape[0], frame.shape[1], SIDE, stride)
            columns = (one.boxes, one.scores[:, None], one.keypoints.reshape(len(one.scores), -1))
            found.append(np.concatenate(columns, axis=1))
    return found


def farthest(ours: list[np.ndarray], others: list[np.ndarray]) -> tuple[float, float]:
    """The largest difference of a coordinate of a box, in pixels, and of a person's score."""
    assert [len(one) for one in ours] == [len(one) for one in others]
    assert sum(map(len, ours)) >= len(ours)
    differences = np.abs(np.concatenate(ours) - np.concatenate(others))
    return float(differences[:, :4].max()), float(differences[:, 4].max())


@pytest.mark.parametrize("backend", OTHERS)
def test_other_backends_find_the_same_people(backend: str, weights: Path, frames: list[np.ndarray], kept: Path) -> None:
    pixels, score = farthest(people(weights, frames), people(weights, frames, backend=backend))
    assert pixels < 0.1
    assert score < 0.001
    # The second start of a process reads the file that the first one has exported.
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("backend", OTHERS)
def test_an_images_result_depends_on_no_other_image(
    backend: str, weights: Path, frames: list[np.ndarray], kept: Path
) -> None:
    shape = (BATCH, SIDE, SIDE, 3)
    network = ultralytics_pose.load_network(weights, file_digest(weights), "cpu", shape, backend)
    batch = np.stack([letterbox(frame, SIDE) for frame in frames[:BATCH]])
    together = network.detect(batch, 0.25, 20)
    backwards = network.detect(np.ascontiguousarray(batch[::-1]), 0.25, 20)[::-1]
    alone = network.detect(np.concatenate([batch[:1], np.zeros_like(batch[1:])]), 0.25, 20)[:1]
    for one, other in zip([*together, together[0]], [*backwards, alone[0]], strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_coordinates_exactly(
    precision: str, weights: Path, frames: list[np.ndarray], kept: Path
) -> None:
    """Decoded in bfloat16, boxes would lie on multiples of 1 or 2 pixels."""
    ours, half = people(weights, frames[:2]), people(weights, frames[:2], precision=precision)
    pixels, score = farthest(ours, half)
    assert 0 < pixels < {"bf16": 4, "fp16": 0.5}[precision]
    assert score < {"bf16": 0.05, "fp16": 0.005}[precision]
    on_grid = np.concatenate(half)[:, :4] % 1 == 0
    assert on_grid.mean() < 0.5


def test_a_rectangle_shows_the_same_people(weights: Path, frames: list[np.ndarray], kept: Path) -> None:
    wide = max(frames, key=lambda frame: frame.shape[1] / frame.shape[0])
    assert canvas_sides(wide.shape[0], wide.shape[1], SIDE, 32)[0] < SIDE
    (square,), (rectangle,) = people(weights, [wide]), people(weights, [wide], stride=32)
    clear = square[square[:, 4] > 0.5]
    assert len(clear)
    for person in clear:
        nearest = np.abs(rectangle[:, :4] - person[:4]).max(axis=1).argmin()
        assert np.abs(rectangle[nearest, :4] - person[:4]).max() < 0.05 * wide.shape[1]
        assert abs(rectangle[nearest, 4] - person[4]) < 0.2


def test_clips_of_other_shapes_share_no_batch_of_rectangles(weights: Path, shared_data: Path) -> None:
    """And the result of a clip does not depend on the clips beside it."""
    torch.set_num_threads(1)
    clips = [min((shared_data / "videos" / kind).rglob("*.mp4")) for kind in ("gestures", "fights")]
    shapes = {decode.shape for clip in clips for decode in [next(iter(decode_frames(clip)))]}
    assert len({canvas_sides(*shape[:2], SIDE, 32) for shape in shapes}) == 2
    extractor = YoloPoses(weights, file_digest(weights), image_size=SIDE, device="cpu", rectangular=True)
    sources = [Source(clip.stem, clip) for clip in clips]
    for one, other in zip(extractor.run(sources), (next(extractor.run([each])) for each in sources), strict=True):
        assert one.status == other.status
        assert {name: array.tobytes() for name, array in one.arrays.items()} == {
            name: array.tobytes() for name, array in other.arrays.items()
        }


def test_a_kept_export_is_used_only_if_its_bytes_are_those_of_its_name(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[tuple[int, ...]] = []

    def trace(network: torch.nn.Module, shape: tuple[int, ...]) -> bytes:
        traced.append(shape)
        return b"network"

    monkeypatch.setattr(network_export, "_traced", trace)
    monkeypatch.setattr(network_export, "version", lambda name: "1")

    def export(digest: str = "sha256:1", shape: tuple[int, ...] = (1, 2)) -> bytes:
        return network_export.exported(torch.nn.Identity(), shape, digest)

    assert export() == export() == b"network"
    assert len(traced) == 1
    export("sha256:2")
    export(shape=(1, 3))
    assert len(traced) == len(list(kept.iterdir())) == 3
    for path in kept.iterdir():
        path.write_bytes(b"another")
    assert export() == b"network"
    assert len(traced) == 4
    assert len(list(kept.iterdir())) == 3


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_export.kept_folder({}) is None
    assert network_export.kept_folder({"HOME": "/home/me"}) == Path("/home/me/.cache/unialign/networks")
    assert network_export.kept_folder({"HOME": "/home/me", "XDG_CACHE_HOME": "/c"}) == Path("/c/unialign/networks")


def test_the_key_names_what_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unialign.stages.extraction.pose_backends.version", lambda name: f"{name} 1")
    plain = YoloPoses(Path("weights.pt"), "sha256:1")
    key = plain.key()
    assert not {"backend", "precision", "rectangular"} & set(key["parameters"])  # type: ignore[arg-type]
    other = replace(plain, backend="openvino").key()
    assert other["parameters"] == {**key["parameters"], "backend": "openvino", "precision": "fp32"}  # type: ignore[dict-item]
    assert other["libraries"]["openvino"] == "openvino 1"  # type: ignore[index, call-overload]
    keys = [
        plain,
        replace(plain, backend="openvino"),
        replace(plain, precision="bf16"),
        replace(plain, rectangular=True),
    ]
    assert len({str(each.key()) for each in keys}) == len(keys)


def test_a_backend_that_cannot_run_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = YoloPoses(Path("weights.pt"), "sha256:1")
    with pytest.raises(UsageError, match="known are torch, torch-compile, onnxruntime, openvino, tensorrt"):
        replace(plain, backend="tensorflow")
    with pytest.raises(UsageError, match="onnxruntime computes in fp32, not in bf16"):
        replace(plain, backend="onnxruntime", precision="bf16")
    row = replace(BACKENDS["openvino"], libraries=("not-installed",))
    monkeypatch.setitem(BACKENDS, "openvino", row)
    with pytest.raises(UsageError, match=r"pip install 'unialign\[openvino\]'"):
        replace(plain, backend="openvino")


@pytest.mark.skipif(not installed("onnxruntime"), reason="needs the extra onnxruntime")
def test_what_tensorrt_gets_is_the_same_network_that_begins_with_floats(kept: Path) -> None:
    import onnx

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(images)
            return found

    order = Order(Network().eval(), "sha256:1", "cpu", "fp32", (2, 8, 8, 3), 1)
    plain, floats_first = (pose_backends._onnx(order, floats_first=each) for each in (False, True))
    assert onnx.load_from_string(floats_first).graph.node[0].op_type == "Cast"
    assert onnx.load_from_string(plain).graph.node[0].op_type == "Transpose"
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    one, other = (onnx_session(data, "cpu", 1).run(None, {"images": images})[0] for data in (plain, floats_first))
    np.testing.assert_array_equal(one, other)
    # Each is kept under a name of its own.
    assert len(list(kept.iterdir())) == 2


def test_an_engine_of_tensorrt_is_built_once_for_each_precision(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library, which needs a GPU."""
    stand_in: Any = MagicMock()
    stand_in.__version__ = "10.0"
    stand_in.Builder.return_value.build_serialized_network.return_value = b"engine"
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setattr(pose_backends, "_onnx", lambda order, floats_first: b"network")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    order = Order(torch.nn.Identity(), "sha256:1", "cuda", "fp32", (1, 8, 8, 3), 1)
    for precision in ("fp32", "fp16", "fp16"):
        pose_backends.TensorrtBackend(replace(order, precision=precision))
    assert stand_in.Builder.return_value.build_serialized_network.call_count == len(list(kept.iterdir())) == 2
    settings = stand_in.Builder.return_value.create_builder_config.return_value
    settings.set_flag.assert_called_once_with(stand_in.BuilderFlag.FP16)
    stand_in.Runtime.return_value.deserialize_cuda_engine.assert_called_with(b"engine")
    with pytest.raises(UsageError, match="--device cuda"):
        pose_backends.TensorrtBackend(replace(order, device="cpu"))
