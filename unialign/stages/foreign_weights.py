"""Weights from foreign files, checked before they are loaded onto the CPU."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from unialign.errors import CorruptInput, UsageError
from unialign.stages.archives import check_weights


class _Unread:
    """Stands for an array of numpy beside the weights, such as EfficientGCN's confusion matrix; nothing reads it."""

    def __init__(self, *described: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_ARRAY_NAMES = (
    "ndarray",
    "dtype",
    *(f"{core}.multiarray.{kind}" for core in ("core", "_core") for kind in ("_reconstruct", "scalar")),
)
# torch keeps one list of names for the whole process.
_NAMES_LOCK = Lock()


def load_foreign_weights(path: Path, what: str) -> dict[str, Any]:
    """The content of a file of plain PyTorch weights, or of safetensors. Arrays of numpy in it are not read.

    what: which network's ("a skeleton encoder"), for the message.

    Raises `CorruptInput` for a file that is something else or that would run code.
    """
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            allowed: list[Any] = [(_Unread, f"numpy.{name}") for name in _ARRAY_NAMES]
            with path.open("rb") as file, _NAMES_LOCK, torch.serialization.safe_globals(allowed):
                content = read_weights(file)
    except Exception as error:
        # torch.load raises many types of errors for other files, some of them private.
        raise CorruptInput(f"{path} is not a file of plain PyTorch weights; train or download it again.") from error
    if not isinstance(content, Mapping):
        raise CorruptInput(f"{path} holds a {type(content).__name__}, not the weights of {what}.")
    if repeated := _repeated(content):
        raise CorruptInput(
            f"{path}: {repeated} is larger than what is stored of it, as no network's weights are; download it again."
        )
    return dict(content)


def _repeated(content: Mapping[Any, Any], depth: int = 3) -> str:
    """The name of a tensor that repeats a few stored numbers, as a network of its size would cost any memory; or ""."""
    for name, value in content.items():
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return str(name)[:80]
        if isinstance(value, Mapping) and depth and (found := _repeated(value, depth - 1)):
            return found
    return ""


def load_clip_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of OpenCLIP weights (safetensors, or plain PyTorch).

    Raises `UsageError` for a file that is neither.
    """
    from open_clip.factory import load_state_dict

    try:
        check_clip_weights(path)
        return dict(load_state_dict(str(path), weights_only=True))
    except Exception as error:  # it may be any file, so reading it can raise anything
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path}: is not a file of OpenCLIP weights ({reason}); give a state dict.") from error


def check_clip_weights(path: Path) -> None:
    """Raise `ValueError` for a file that OpenCLIP would take far more time or memory to load than its size suggests."""
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            check_weights(file)


def read_weights(file: BinaryIO) -> Any:
    """The content of a PyTorch file. Raises what torch raises, and `ValueError` if loading costs more than declared."""
    check_weights(file)
    return torch.load(file, map_location="cpu", weights_only=True)
