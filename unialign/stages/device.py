"""Where and how precisely networks are computed: the device and the precision that settings name, checked."""

import torch

from unialign.errors import UsageError


def resolve_device(name: str, *, setting: str, local_rank: int = 0) -> torch.device:
    """The device for "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".

    setting: where the name was set, for the message ("extract.device"). local_rank: the GPU of this process if the name
    has no number. Raises `UsageError` for an unknown or unavailable device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{setting} {name!r} is unknown; it is auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"{setting} is {name}, but torch sees no GPU; set it to auto or cpu.")
        index = local_rank if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise UsageError(f"there is no GPU {index}: torch sees {torch.cuda.device_count()}; start fewer processes.")
        return torch.device("cuda", index)
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision for "auto" on a device: "bf16" on a GPU that computes in it, else "fp32"; other names unchanged."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
