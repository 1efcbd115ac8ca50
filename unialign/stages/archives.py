"""Untrusted archives of arrays and weights (npz, PyTorch files): loading must cost no more than the file suggests."""

import io
import tokenize
import warnings
import zipfile
from collections.abc import Mapping
from typing import IO, BinaryIO

import numpy as np

from unialign.stages.pickle_scan import check_costs

# A PyTorch file from before 2018 is this many pickles in sequence, then the numbers.
_LEGACY_PICKLES = 5


def check_archive(file: BinaryIO) -> None:
    """Raise `ValueError` for a zip archive with compressed or overlapping members.

    numpy and PyTorch store members uncompressed, so a genuine archive is longer than its content.
    """
    size = file.seek(0, io.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"no whole archive ({error})") from error
    if any(each.compress_type != zipfile.ZIP_STORED for each in found):
        raise ValueError("an archive of compressed parts")
    if sum(each.file_size for each in found) > size:
        raise ValueError("an archive that is shorter than its parts")


def check_weights(file: BinaryIO) -> None:
    """Raise `ValueError` for a PyTorch file that would take far more time or memory to load than its size suggests.

    The names in its pickles are left to `torch.load(weights_only=True)`. The file is at its start afterwards.
    """
    file.seek(0)
    try:
        if file.read(4) == b"PK\x03\x04":
            check_archive(file)
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        check_costs(io.BytesIO(archive.read(name)))
        else:
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                check_costs(file)
    finally:
        file.seek(0)


def read_npz(data: bytes) -> Mapping[str, np.ndarray]:
    """The arrays of an npz file by name. Raises `ValueError` for one that is damaged, compressed or holds objects."""
    check_archive(io.BytesIO(data))
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            for name in stored.files:
                # numpy allocates memory for what a header declares, whatever follows it.
                with stored.zip.open(f"{name}.npy") as part:
                    _check_header(part, stored.zip.getinfo(f"{name}.npy").file_size)
            return {name: stored[name] for name in stored.files}
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(str(error)) from error


def npy_header(part: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of an npy file, up to its numbers. Raises `ValueError` for others."""
    version = np.lib.format.read_magic(part)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        # Headers that only Python 2 could read are read another way, which numpy warns of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            shape, in_columns, kind = read(part)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({str(error)[:80]})") from error
    return tuple(shape), bool(in_columns), np.dtype(kind)


def _check_header(part: BinaryIO, size: int) -> None:
    shape, _, kind = npy_header(part)
    count = 1
    for each in shape:
        count *= each
    if count < 0 or count * kind.itemsize > size:
        raise ValueError(f"an array of shape {shape} in {size} bytes")
