"""Chunk files: rows of one array as a plain C-order buffer, then the CRC-32C of these bytes (zarr's `crc32c` codec).

The buffer starts the file, so it is mapped into memory as it lies; the checksum behind it is one that every zarr
reader checks as well. A chunk file is written whole or not at all.
"""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from neuralood.base.errors import DISK_FULL, UserError

Array = npt.NDArray[Any]

CHECKSUM_BYTES = 4
RELEASE_GIL = 1
SLICE_BYTES = 2**20
"""Files are read and checked in slices of this size."""


def chunk_file(array: Path, number: int, axes: int) -> Path:
    """Where chunk `number` of an array lies whose chunks hold whole rows: ARRAY/c.NUMBER.0.0 for three axes."""
    return array / ".".join(["c", str(number), *["0"] * (axes - 1)])


def write_chunk(file: Path, values: Array, rows: int) -> None:
    """Write a chunk of `rows` rows; missing ones at the end are zeros, as zarr fills up an array's last chunk.

    The bytes are on the disk when this returns. Raises UserError where the disk is full; nothing is left then.
    """
    missing = np.zeros((rows - len(values), *values.shape[1:]), values.dtype)
    parts = [_bytes_of(part) for part in (values, missing) if part.size]
    checksum = 0
    for content in parts:
        checksum = checksum_of(content, checksum)
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            for content in parts:
                stream.write(content.data)
            stream.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"the disk is full ({error.strerror}) at {file}: free some space and run again; finished chunks are kept"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def map_chunk(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A chunk's values, mapped from its file, read-only. Its size must be right: see `size_problem`."""
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype, int(np.prod(shape, dtype=np.int64))).reshape(shape)


def fetch_chunk(file: Path) -> None:
    """Have a chunk in the page cache: reads what is not there yet, in sequence."""
    buffer = bytearray(SLICE_BYTES)
    with file.open("rb", buffering=0) as stream:
        for start in range(0, os.fstat(stream.fileno()).st_size, SLICE_BYTES):
            if not _is_cached(stream.fileno(), start):
                stream.seek(start)
                stream.readinto(buffer)


def bytes_of_chunk(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Size of a whole chunk file."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize + CHECKSUM_BYTES


def size_problem(file: Path, wanted: int) -> str | None:
    """What is wrong with a chunk file's presence or size, or None."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return f"{file} is missing"
    return None if size == wanted else f"{file} has {size} bytes where {wanted} belong"


def stored_checksum(file: Path) -> bytes:
    """The checksum at a chunk file's end."""
    with file.open("rb") as stream:
        stream.seek(-CHECKSUM_BYTES, os.SEEK_END)
        return stream.read()


def content_problem(file: Path) -> str | None:
    """What is wrong with a chunk file's content, or None: reads all of it."""
    buffer = np.empty(SLICE_BYTES, np.uint8)
    if not file.exists():
        return f"{file} is missing"
    checksum, left = 0, file.stat().st_size - CHECKSUM_BYTES
    with file.open("rb", buffering=0) as stream:  # reading lets other threads run while the disk is waited for
        while left > 0 and (count := stream.readinto(buffer[:left].data)):
            checksum = checksum_of(buffer[:count], checksum)
            left -= count
        found = stream.read(CHECKSUM_BYTES)
    whole = found == checksum.to_bytes(CHECKSUM_BYTES, "little")
    return None if whole else f"{file} is damaged (its checksum does not fit its content)"


def checksum_of(content: Array, checksum: int = 0) -> int:
    """CRC-32C of bytes, going on from `checksum`; other threads run meanwhile."""
    return int(crc32c(content.data, checksum, RELEASE_GIL))


def _bytes_of(values: Array) -> Array:
    """The C-order bytes of an array."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _is_cached(handle: int, start: int) -> bool:
    """Whether a file's byte can be read without waiting for the disk; where the system cannot tell, no."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(handle, [bytearray(1)], start, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def sync(folder: Path) -> None:
    """Have a folder's metadata files and names on the disk before its store is called complete."""
    for path in (*folder.rglob("*.json"), *(inner for inner in folder.rglob("*") if inner.is_dir()), folder):
        if os.name == "nt" and path.is_dir():
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
