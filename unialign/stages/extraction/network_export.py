"""A network as ONNX: what ONNX Runtime and OpenVINO run; exported from the user's own weights, once per user.

Tracing takes seconds, so the result is kept in the user's cache folder. It is never kept beside a store: a store may
come from someone else, and then so would the network. The name of a kept file holds its own SHA-256.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
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


def exported(network: torch.nn.Module, shape: tuple[int, ...], weights_digest: str) -> bytes:
    """The ONNX file of a network that takes one uint8 tensor "images" of exactly this shape and gives "found".

    weights_digest: SHA-256 of the file that the network was loaded from. Raises `UsageError` without `onnx`.
    """
    try:
        made_by = f"{version('onnx')}-{version('torch')}-{version('ultralytics')}-{OPSET}"
    except PackageNotFoundError as error:
        raise UsageError("exporting a network needs onnx; install it with: pip install onnx.") from error
    size = "x".join(map(str, shape))
    named = hashlib.sha256(f"{weights_digest} {size} {made_by}".encode()).hexdigest()[:24]
    folder = kept_folder()
    if folder and (kept := _kept(folder, named)):
        return kept
    data = _traced(network, shape)
    if folder:
        # A full or read-only home costs the next start some seconds.
        with suppress(OSError):
            for old in folder.glob(f"{named}-*.onnx"):
                atomic.remove(old)
            atomic.write_file(folder / f"{named}-{hashlib.sha256(data).hexdigest()}.onnx", data)
    return data


def _kept(folder: Path, named: str) -> bytes | None:
    """The kept export of that name, if its bytes are those that its name promises."""
    for path in sorted(folder.glob(f"{named}-*.onnx")):
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
