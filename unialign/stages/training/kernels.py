"""Which kernels a GPU computes with while a run trains: the fastest ones, or those that repeat their bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unialign.errors import UnialignError


@contextmanager
def chosen_kernels(*, deterministic: bool) -> Iterator[None]:
    """Kernels of everything computed inside the block.

    deterministic: the same bits in every run on the same device; raises `UnialignError` where an operation has no such
    kernel. Otherwise cuDNN measures which convolution is fastest for the shapes that it meets.
    """
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=not deterministic, deterministic=deterministic):
            yield
    except RuntimeError as error:
        if not deterministic or "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UnialignError(f"train.settings.deterministic cannot be kept ({reason}); set it to false.") from error
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
