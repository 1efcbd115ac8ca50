"""Functions compiled by numba at import, and kept on disk where that can be done."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(signature: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function for one signature, without Python's lock. options: of numba's `njit`.

    The machine code is kept beside the module, in NUMBA_CACHE_DIR or in the user's cache folder. Where none of them can
    be written (a shared installation, no HOME), or what lies there cannot be read (cut by a full disk), it is compiled
    anew by each process, which takes seconds.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, nogil=True, cache=True, **options)(function)
        except Exception:  # noqa: BLE001 (a fault of the function itself comes again below)
            return njit(signature, nogil=True, **options)(function)

    return compile_it
