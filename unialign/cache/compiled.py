"""Functions compiled by numba at import, and cached on disk where possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(signature: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function for one signature, without the GIL. options: of numba's `njit`.

    The machine code is cached next to the module, in NUMBA_CACHE_DIR or in the user's cache folder. If none of them is
    writable (a shared installation, no HOME), or the cached file cannot be read (truncated by a full disk), each
    process compiles it again, which takes seconds.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, nogil=True, cache=True, **options)(function)
        except Exception:  # noqa: BLE001 (a fault of the function itself comes again below)
            return njit(signature, nogil=True, **options)(function)

    return compile_it
