"""What computes a pose network: PyTorch, ONNX Runtime or OpenVINO, a row each.

All run the same weights on the same uint8 images and give the same raw predictions, before suppression, up to rounding.
Each backend rounds in its own way, so its name, its precision and its version are in a store's key unless they are the
default (torch, fp32). Each is built for one shape of batches, so an image's result never depends on the batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.extraction.network_export import exported

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Backend(Protocol):
    """A pose network ready to run on batches of one shape."""

    @property
    def device(self) -> torch.device:
        """Where it takes its images."""

    def __call__(self, images: Tensor) -> Any:
        """Raw predictions of RGB images (B, H, W, 3) uint8: (B, 4 + 1 + 17 * 3, A) for A anchors, or what an
        end-to-end network gives.
        """


@dataclass(frozen=True)
class Order:
    """What a backend is built for.

    model: the fused float32 network in evaluation mode. weights_digest: of the file it comes from. device: "cpu",
    "cuda", "cuda:1". shape: of the batches, (B, H, W, 3). threads: of the processor.
    """

    model: nn.Module
    weights_digest: str
    device: str
    precision: str
    shape: tuple[int, int, int, int]
    threads: int


@dataclass(frozen=True)
class BackendRow:
    """One backend. libraries: distributions whose versions decide its last digits. precisions: those it can compute in.

    build: makes it. Raises `UsageError` for a device that it cannot use.
    """

    build: Callable[[Order], Backend]
    libraries: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)


class Normalized(nn.Module):
    """A network on uint8 images: its first layer turns (B, H, W, 3) of 0..255 into (B, 3, H, W) of 0..1.

    With the conversion inside, one byte per value is copied to a device instead of four.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, images: Tensor) -> Any:
        """What the network predicts, without the raw outputs of its head."""
        found = self.model(images.permute(0, 3, 1, 2).to(self.precision) / 255)
        return found[0] if isinstance(found, list | tuple) else found


class TorchBackend:
    """PyTorch, on any device that it has."""

    def __init__(self, order: Order) -> None:
        self.device = torch.device(order.device)
        precision = PRECISIONS[order.precision]
        model = order.model.to(self.device)
        if precision != torch.float32:
            model = _in_half(model, precision)
        if self.device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        self.network = Normalized(model, precision)

    def __call__(self, images: Tensor) -> Any:
        """See `Backend`."""
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            return self.network(images)


def _in_half(model: nn.Module, precision: torch.dtype) -> nn.Module:
    """The network in half precision up to its head's outputs; boxes and joints are computed from these in float32.

    In half precision a coordinate of 600 is a multiple of 0.5 (fp16) or 4 (bf16) pixels.
    """
    head: Any = model.model[-1]  # type: ignore[index]
    decode = head._inference

    def decode_exactly(found: Mapping[str, Any]) -> Any:
        return decode({name: _floats(value) for name, value in found.items()})

    model = model.to(precision)
    # The weights of the expected distance are 0, 1, 2, ...
    head.dfl = head.dfl.float()
    head._inference = decode_exactly
    return model


def _floats(value: Any) -> Any:
    return [one.float() for one in value] if isinstance(value, list | tuple) else value.float()


def _onnx(order: Order) -> bytes:
    """The network with its conversion of images, as ONNX."""
    head: Any = order.model.model[-1]  # type: ignore[index]
    # It computes the same with fewer operations, none of which writes into a part of a tensor.
    head.export = True
    return exported(Normalized(order.model), order.shape, order.weights_digest)


def onnx_session(data: bytes, device: str, threads: int) -> Any:
    """ONNX Runtime's session for the network in an ONNX file. Raises `UsageError` for a device that it cannot use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Waiting threads would take the cores of decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    provider: Any = "CPUExecutionProvider"
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UsageError(f"this onnxruntime cannot use {device}: install onnxruntime-gpu, or take --device cpu.")
        number = torch.device(device).index or 0
        provider = ("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0, "cudnn_conv_algo_search": "DEFAULT"})
    return onnxruntime.InferenceSession(data, options, providers=[provider])


class OnnxBackend:
    """ONNX Runtime, on the processor, or on a GPU with onnxruntime-gpu."""

    device = torch.device("cpu")

    def __init__(self, order: Order) -> None:
        self.session = onnx_session(_onnx(order), order.device, order.threads)

    def __call__(self, images: Tensor) -> Any:
        """See `Backend`."""
        return torch.from_numpy(self.session.run(None, {"images": images.numpy()})[0])


class OpenvinoBackend:
    """OpenVINO, on the processor."""

    device = torch.device("cpu")

    def __init__(self, order: Order) -> None:
        import openvino

        if order.device != "cpu":
            raise UsageError(f"OpenVINO runs on the processor here, not on {order.device}; take --device cpu.")
        core = openvino.Core()
        settings = {
            # Otherwise it takes bfloat16 where the processor has it, and results depend on the machine.
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[order.precision],
            "INFERENCE_NUM_THREADS": order.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self.request = core.compile_model(core.read_model(_onnx(order), b""), "CPU", settings).create_infer_request()

    def __call__(self, images: Tensor) -> Any:
        """See `Backend`."""
        self.request.infer([images.numpy()], share_inputs=True)
        # A copy: the next batch is written into the same memory.
        return torch.from_numpy(np.array(self.request.get_output_tensor(0).data))


BACKENDS: dict[str, BackendRow] = {
    "torch": BackendRow(TorchBackend, precisions=("fp32", "fp16", "bf16")),
    "onnxruntime": BackendRow(OnnxBackend, libraries=("onnx", "onnxruntime")),
    "openvino": BackendRow(OpenvinoBackend, libraries=("onnx", "openvino"), precisions=("fp32", "bf16")),
}


def check_backend(name: str, precision: str) -> None:
    """Raise `UsageError` for an unknown backend, a precision that it lacks, or libraries that are not installed."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}; known are {', '.join(BACKENDS)}.")
    row = BACKENDS[name]
    if precision not in row.precisions:
        raise UsageError(f"the backend {name} computes in {' or '.join(row.precisions)}, not in {precision}.")
    libraries_of(name)


def libraries_of(name: str) -> dict[str, str]:
    """Versions of the libraries of a backend. Raises `UsageError` where one is not installed."""
    try:
        return {library: version(library) for library in BACKENDS[name].libraries}
    except PackageNotFoundError as error:
        raise UsageError(
            f"the backend {name} needs {' and '.join(BACKENDS[name].libraries)}; "
            f"install them with: pip install 'unialign[{name}]'."
        ) from error
