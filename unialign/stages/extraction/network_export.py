"""A network as ONNX: what ONNX Runtime, OpenVINO and TensorRT run; exported from the user's own weights, once per user.

Tracing takes seconds, so the result is kept in the user's cache folder. It is never kept beside a store: a store may
come from someone else, and then so would the network. The name of a kept file holds its own SHA-256.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from unialign.cache import atomic
from unialign.errors import UsageError

# The operators of this version are known to every ONNX Runtime and OpenVINO since 2023.
OPSET = 17


def kept_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Where exported networks are kept: `unialign/networks` in XDG_CACHE_HOME or ~/.cache; None without a home."""
    given = os.environ if environment is None else environment
    base = given.get("XDG_CACHE_HOME") or (f"{given['HOME']}/.cache" if given.get("HOME") else "")
    return Path(base) / "unialign" / "networks" if os.path.isabs(base) else None


def exported(network: torch.nn.Module, shape: tuple[int, ...], weights_digest: str, form: str = "") -> bytes:
    """The ONNX file of a network that takes one uint8 tensor "images" of exactly this shape and gives "found".

    weights_digest: SHA-256 of the file that the network was loaded from. form: how it differs from what others export.
    Raises `UsageError` without `onnx`.
    """
    try:
        made_by = f"{version('onnx')}-{version('torch')}-{version('ultralytics')}-{OPSET}{form}"
    except PackageNotFoundError as error:
        raise UsageError("exporting a network needs onnx; install it with: pip install onnx.") from error
    size = "x".join(map(str, shape))
    return kept(f"{weights_digest} {size} {made_by}", "onnx", lambda: _traced(network, shape))


def kept(made_from: str, suffix: str, make: Callable[[], bytes]) -> bytes:
    """The file that `make` gives, made once per user. made_from: everything that decides its bytes."""
    named = hashlib.sha256(made_from.encode()).hexdigest()[:24]
    folder = kept_folder()
    if folder and (found := _kept(folder, named, suffix)):
        return found
    data = make()
    if folder:
        # A full or read-only home costs the next start some seconds.
        with suppress(OSError):
            for old in folder.glob(f"{named}-*.{suffix}"):
                atomic.remove(old)
            atomic.write_file(folder / f"{named}-{hashlib.sha256(data).hexdigest()}.{suffix}", data)
    return data


def _kept(folder: Path, named: str, suffix: str) -> bytes | None:
    """The kept file of that name, if its bytes are those that its name promises."""
    for path in sorted(folder.glob(f"{named}-*.{suffix}")):
        with suppress(OSError):
            data = path.read_bytes()
            if path.stem == f"{named}-{hashlib.sha256(data).hexdigest()}":
                return data
    return None


def _traced(network: torch.nn.Module, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    # The exporter prints, and warns about everything that tracing makes constant: the shape is meant to be.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(shape, dtype=torch.uint8),),
            out,  # type: ignore[arg-type] # without dynamo, it also writes into a buffer
            input_names=["images"],
            output_names=["found"],
            opset_version=OPSET,
            dynamo=False,
        )
    return out.getvalue()
