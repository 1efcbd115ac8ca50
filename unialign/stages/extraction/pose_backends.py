"""What computes a pose network: PyTorch, ONNX Runtime, OpenVINO or TensorRT, a row each.

All run the same weights on the same uint8 images and give the same raw predictions, before suppression, up to rounding.
Each backend rounds in its own way, so its name, its precision and its version are in a store's key unless they are the
default (torch, fp32). Each is built for one shape of batches, so an image's result never depends on the batch.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.extraction.network_export import exported, kept, kept_folder

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

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float32, *, floats_first: bool = False) -> None:
        """floats_first: convert to floats before anything else, since TensorRT does nothing else with bytes."""
        super().__init__()
        self.model, self.precision, self.floats_first = model, precision, floats_first

    def forward(self, images: Tensor) -> Any:
        """What the network predicts, without the raw outputs of its head."""
        if self.floats_first:
            images = images.to(self.precision)
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


class CompiledBackend(TorchBackend):
    """PyTorch, with the network compiled for its shape by `torch.compile`: on a CPU by a C++ compiler.

    Compiling takes a minute or more, once per user: what is compiled is kept beside the exports.
    """

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        folder = kept_folder()
        if folder:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.with_name("compiled")))
        # In this process: the others that it would start outlive a worker that is killed.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        self.network = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        try:
            # Now, while it is loaded, and not when the first clip waits for it.
            self(torch.zeros(order.shape, dtype=torch.uint8, device=self.device))
        except Exception as error:
            raise UsageError(
                f"the pose network cannot be compiled ({type(error).__name__}: {_first_line(error)}); torch.compile"
                " needs a C++ compiler on a CPU and Triton on a GPU. Take --backend torch."
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


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


def _onnx(order: Order, *, floats_first: bool = False) -> bytes:
    """The network with its conversion of images, as ONNX. floats_first: see `Normalized`."""
    head: Any = order.model.model[-1]  # type: ignore[index]
    # It computes the same with fewer operations, none of which writes into a part of a tensor.
    head.export = True
    network = Normalized(order.model, floats_first=floats_first)
    return exported(network, order.shape, order.weights_digest, "-floats-first" if floats_first else "")


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


class TensorrtBackend:
    """TensorRT, on NVIDIA's GPUs. Written for the documented interface of TensorRT 10, and never run: there was no GPU.

    An engine is built for this GPU, this TensorRT and this shape, which takes minutes, once per user. With fp16 or bf16
    TensorRT chooses which layers compute in it.
    """

    def __init__(self, order: Order) -> None:
        import tensorrt

        self.device = torch.device(order.device)
        if self.device.type != "cuda":
            raise UsageError(f"TensorRT runs on NVIDIA's GPUs, not on {order.device}; take --device cuda.")
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        data = _onnx(order, floats_first=True)
        built_for = f"{torch.cuda.get_device_name(self.device)} {tensorrt.__version__} {order.precision}"
        made_from = f"{hashlib.sha256(data).hexdigest()} {built_for}"
        with torch.cuda.device(self.device):
            plan = kept(made_from, "plan", lambda: _plan(tensorrt, logger, data, order.precision))
            self._runtime = tensorrt.Runtime(logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            self._context = self._engine.create_execution_context()

    def __call__(self, images: Tensor) -> Any:
        """See `Backend`."""
        found = torch.empty(tuple(self._engine.get_tensor_shape("found")), dtype=torch.float32, device=self.device)
        self._context.set_tensor_address("images", images.data_ptr())
        self._context.set_tensor_address("found", found.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise RuntimeError("TensorRT could not run the pose network")
        return found


def _plan(tensorrt: Any, logger: Any, data: bytes, precision: str) -> bytes:
    """The engine of an ONNX network, serialized."""
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(data):
        raise UsageError(f"TensorRT cannot read the exported network: {parser.get_error(0)}; take another --backend.")
    settings = builder.create_builder_config()
    # As PyTorch here: fp32 is not rounded to TensorFloat-32.
    settings.clear_flag(tensorrt.BuilderFlag.TF32)
    if precision != "fp32":
        settings.set_flag({"fp16": tensorrt.BuilderFlag.FP16, "bf16": tensorrt.BuilderFlag.BF16}[precision])
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise UsageError(f"TensorRT cannot build the pose network in {precision} here; take another --backend.")
    return bytes(plan)


BACKENDS: dict[str, BackendRow] = {
    "torch": BackendRow(TorchBackend, precisions=("fp32", "fp16", "bf16")),
    "torch-compile": BackendRow(CompiledBackend, precisions=("fp32", "fp16", "bf16")),
    "onnxruntime": BackendRow(OnnxBackend, libraries=("onnx", "onnxruntime")),
    "openvino": BackendRow(OpenvinoBackend, libraries=("onnx", "openvino"), precisions=("fp32", "bf16")),
    "tensorrt": BackendRow(TensorrtBackend, libraries=("onnx", "tensorrt"), precisions=("fp32", "fp16", "bf16")),
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
