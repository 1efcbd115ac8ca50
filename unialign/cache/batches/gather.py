"""The one compiled loop of the reading path: all copies of a batch, in one call and without the GIL.

A loop in Python costs two thirds of the rate, and one call per array still a tenth; hence a single loop over samples,
arrays and inner chunks, compiled by numba.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from unialign.cache.compiled import compiled

_BLOCK, _HALF = 64, 32


@intrinsic  # type: ignore[untyped-decorator]
def _copy(typing: Any, target: Any, source: Any, size: Any) -> Any:
    """The C library's memcpy between two addresses."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        ends = [builder.inttoptr(value, cgutils.voidptr_t) for value in values[:2]]
        cgutils.raw_memcpy(builder, *ends, values[2], 1)
        return context.get_dummy_value()

    return types.void(target, source, size), generate


@intrinsic  # type: ignore[untyped-decorator]
def _stream_block(typing: Any, target: Any, source: Any) -> Any:
    """64 bytes past the CPU caches (non-temporal stores); `target` is a multiple of 32."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), _HALF)
        for offset in (0, _HALF):
            step = ir.Constant(ir.IntType(64), offset)
            source, target = (
                builder.inttoptr(builder.add(value, step), vector.as_pointer()) for value in (values[1], values[0])
            )
            store = builder.store(builder.load(source, align=1), target, align=_HALF)
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(target, source), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fence(typing: Any) -> Any:
    """A store fence: everything stored so far is visible to other threads before anything stored later."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@compiled("void(int64,int64,int64)", inline="always")
def _stream(target: int, source: int, size: int) -> None:
    whole = size - size % _BLOCK if target % _HALF == 0 else 0
    for at in range(0, whole, _BLOCK):
        _stream_block(target + at, source + at)
    _copy(target + whole, source + whole, size - whole)


@compiled("void(int64[::1],int64[:,::1],int64[:,::1],int64[:,::1],int64[:,::1],int64[::1],boolean)")
def copy_windows(
    rows: np.ndarray,
    chunks: np.ndarray,
    lengths: np.ndarray,
    columns: np.ndarray,
    starts: np.ndarray,
    targets: np.ndarray,
    stream: bool,
) -> None:
    """Copy one window of every array for every sample of a batch.

    rows: (B,) the samples. chunks: (N, K) address of each inner chunk, all arrays side by side. lengths: (N, A) entries
    of each sample in each array. columns: (A, 4) for each array its first column in `chunks`, the entries of an inner
    chunk, the bytes of an entry, the entries of the window. starts: (B, A) first entry of the window; behind the last
    entry of a sample comes its first one again. targets: (A,) address of the first row of each output.
    stream: write past the caches, which is 1.5 times as fast for batches that no cache holds anyway.

    Addresses are not checked: `cache.batches.batch_reader` takes them from indexes that it has checked.
    """
    for array in range(len(columns)):
        first, per_chunk, size, window = columns[array]
        for number in range(len(rows)):
            row = rows[number]
            at, length = starts[number, array], lengths[row, array]
            target = targets[array] + number * window * size
            done = 0
            while done < window:
                within = at % per_chunk
                run = min(per_chunk - within, length - at, window - done)
                source = chunks[row, first + at // per_chunk] + within * size
                if stream:
                    _stream(target + done * size, source, run * size)
                else:
                    _copy(target + done * size, source, run * size)
                done += run
                at += run
                if at == length:
                    at = 0
    if stream:
        _fence()


@compiled("void(int64[::1],int64[:,::1],int64,int64,int64,int64[::1],int64[::1],int64)")
def copy_entries(
    rows: np.ndarray,
    chunks: np.ndarray,
    first: int,
    per_chunk: int,
    size: int,
    starts: np.ndarray,
    bounds: np.ndarray,
    target: int,
) -> None:
    """Copy a stretch of one array for each row, one behind the other.

    rows: (P,) the samples. chunks, first, per_chunk, size: as in `copy_windows`. starts: (P,) first entry of each
    stretch. bounds: (P + 1,) where each begins in the output, in entries, and the end. target: address of the output.
    """
    for number in range(len(rows)):
        row, at = rows[number], starts[number]
        end = at + bounds[number + 1] - bounds[number]
        while at < end:
            within = at % per_chunk
            run = min(per_chunk - within, end - at)
            _copy(target, chunks[row, first + at // per_chunk] + within * size, run * size)
            target += run * size
            at += run
