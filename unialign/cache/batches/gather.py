"""The compiled loops of the reading path: all copies of a batch, in one call and without the GIL.

A loop in Python costs two thirds of the rate, and one call per array still a tenth; hence a single loop over samples,
arrays and inner chunks, compiled by numba. While it copies a sample, the processor already fetches what comes a few
samples later: where a sample begins is known from a table only, so it cannot foresee it as it does for the rows of one
array, and 1 KB rows took 1.6 times as long as `numpy.take`.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from unialign.cache.compiled import compiled

_BLOCK, _HALF, _WORD, _FLOAT = 64, 32, 8, 4
# How far ahead of the copies memory is fetched: samples, and bytes of each of them.
_AHEAD, _EARLY = 4, 1024


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


@intrinsic  # type: ignore[untyped-decorator]
def _fetch_line(typing: Any, address: Any) -> Any:
    """Ask the processor to bring the 64 bytes at an address into its caches; nothing happens if there are none."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        to_read, keep, data = (ir.Constant(flag, value) for value in (0, 3, 1))
        builder.call(prefetch, [builder.inttoptr(values[0], cgutils.voidptr_t), to_read, keep, data])
        return context.get_dummy_value()

    return types.void(address), generate


@intrinsic  # type: ignore[untyped-decorator]
def _floats(typing: Any, address: Any) -> Any:
    """An address as a pointer to float32."""
    kind = types.CPointer(types.float32)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(kind))

    return kind(address), generate


@compiled("void(int64,int64)", inline="always")
def _fetch(address: int, size: int) -> None:
    for at in range(0, size, _BLOCK):
        _fetch_line(address + at)


@compiled("int64(int64[:,::1],int64,int64,int64,int64,int64)", inline="always")
def _address(chunks: np.ndarray, row: int, first: int, per_chunk: int, size: int, at: int) -> int:
    """Where an entry of a sample begins."""
    if per_chunk == 1:
        return int(chunks[row, first + at])
    return int(chunks[row, first + at // per_chunk]) + at % per_chunk * size


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
            if number + _AHEAD < len(rows):
                later, at = rows[number + _AHEAD], starts[number + _AHEAD, array]
                _fetch(_address(chunks, later, first, per_chunk, size, at), min(window * size, _EARLY))
                _fetch_line(lengths.ctypes.data + (later * len(columns) + array) * _WORD)
            at, length = starts[number, array], lengths[row, array]
            target = targets[array] + number * window * size
            done = 0
            while done < window:
                source = _address(chunks, row, first, per_chunk, size, at)
                run = min(1 if per_chunk == 1 else per_chunk - at % per_chunk, length - at, window - done)
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
        if number + 1 < len(rows) and bounds[number + 2] > bounds[number + 1]:
            later = _address(chunks, rows[number + 1], first, per_chunk, size, starts[number + 1])
            _fetch(later, min((bounds[number + 2] - bounds[number + 1]) * size, _EARLY))
        while at < end:
            run = min(per_chunk - at % per_chunk, end - at)
            _copy(target, _address(chunks, row, first, per_chunk, size, at), run * size)
            target += run * size
            at += run


@compiled("boolean(int64[::1],int64[:,::1],int64[:,::1],int64[:,::1],int64,int64[::1],int64[::1],int64)")
def copy_alike(
    rows: np.ndarray,
    chunks: np.ndarray,
    lengths: np.ndarray,
    columns: np.ndarray,
    array: int,
    starts: np.ndarray,
    bounds: np.ndarray,
    target: int,
) -> bool:
    """`copy_entries` for stretches of the same length; False, and nothing is copied, if a row or an entry of them does
    not exist or is not mapped. Checked here, since looking at small arrays in Python takes a third of the copies' time.

    lengths, columns: as in `copy_windows`. array: which of the columns.
    """
    first, per_chunk, size, _ = columns[array]
    count = bounds[1]
    for number in range(len(rows)):
        row, start = rows[number], starts[number]
        if row < 0 or row >= len(chunks) or start < 0 or start > lengths[row, array] - count:
            return False
        for chunk in range(start // per_chunk, (start + count - 1) // per_chunk + 1):
            if not chunks[row, first + chunk]:
                return False
    copy_entries(rows, chunks, first, per_chunk, size, starts, bounds, target)
    return True


@compiled("void(int64[::1],int64[:,::1],int64[:,::1],int64[:,::1],int64[::1],int64)", error_model="numpy")
def mean_entries(
    rows: np.ndarray, chunks: np.ndarray, columns: np.ndarray, starts: np.ndarray, targets: np.ndarray, count: int
) -> None:
    """The mean of `count` entries of float32 each, for every array; what is averaged is never written.

    rows: (B * count,) the samples, each `count` times. starts: (B * count, A) the entries. chunks, columns (windows of
    one entry), targets: as in `copy_windows`. Added one after the other, and then divided.
    """
    share = np.float32(count)
    for array in range(len(columns)):
        first, per_chunk, size, _ = columns[array]
        width = size // _FLOAT
        for number in range(0, len(rows), count):
            mean = carray(_floats(targets[array] + number // count * size), width)
            for one in range(number, number + count):
                later = one + _AHEAD * count
                if later < len(rows):
                    _fetch(
                        _address(chunks, rows[later], first, per_chunk, size, starts[later, array]), min(size, _EARLY)
                    )
                address = _address(chunks, rows[one], first, per_chunk, size, starts[one, array])
                entry = carray(_floats(address), width)
                if one == number:
                    for place in range(width):
                        mean[place] = entry[place]
                else:
                    for place in range(width):
                        mean[place] += entry[place]
            for place in range(width):
                mean[place] /= share
