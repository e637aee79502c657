"""Zarr v3 stores whose chunks are plain buffers: any zarr reader opens them, ours maps them into memory.

Arrays are chunked along their first axis (images) only, uncompressed and unsharded (see `chunks`). Asking zarr for
random rows is about a hundred times slower than a memory map of the same bytes, and compression gains a few percent
of space for a several-fold loss of speed. A store's attributes say what it was made of; they carry a checksum of
their own, and `complete` is set last.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from neuralood.base import checking
from neuralood.base.chunks import Array as Array
from neuralood.base.chunks import (
    bytes_of_chunk,
    chunk_file,
    content_problem,
    fetch_chunk,
    map_chunk,
    size_problem,
    stored_checksum,
)
from neuralood.base.errors import UserError

COMPLETE = "complete"
"""Attribute of a store's group, set last."""
CONTENTS = "contents"
"""Attribute: SHA-256 over the checksums of all chunks, in order."""
CHECKSUM = "checksum"
"""Attribute: SHA-256 over all other attributes and the shapes, dtypes and chunks of the arrays."""

CHUNK_LOCKS = 8
"""Chunks of an array that threads may check at the same time."""

LARGE_ROW_BYTES = 4096
"""Rows of this size or more are copied one by one: a gather through NumPy's index would copy them twice."""


@dataclass(frozen=True)
class Store:
    """A complete store, open for reading."""

    path: Path
    attributes: dict[str, Any]
    arrays: dict[str, "Rows"]

    def __getitem__(self, name: str) -> "Rows":
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


class Rows:
    """One array of a store, its chunks mapped into memory as they lie.

    `array[rows]` gathers any rows (a slice or an index array); `chunk` rows lie together in a file. A chunk's checksum
    is compared when it is first touched (`runtime.verify`). At most `checking.most_mapped()` chunks are mapped at a
    time, as each holds a file open. Safe to read from several threads.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], chunk: int) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.chunk = chunk
        self._most_mapped = checking.most_mapped()
        self._mapped: dict[int, Array] = {}
        self._checked: set[int] = set()
        self._map_lock = Lock()
        self._chunk_locks = [Lock() for _ in range(CHUNK_LOCKS)]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.shape[0] // self.chunk)

    def file(self, number: int) -> Path:
        """Where a chunk lies."""
        return chunk_file(self.path, number, len(self.shape))

    def size_problems(self) -> Iterator[str]:
        """A line for each chunk that is missing or of another size than it must be."""
        wanted = bytes_of_chunk(self.dtype, self._chunk_shape)
        for number in range(self.chunks):
            if problem := size_problem(self.file(number), wanted):
                yield problem

    def content_problem(self, number: int) -> str | None:
        """What is wrong with a chunk's content, or None: reads all of it."""
        return content_problem(self.file(number))

    def fetch(self, number: int) -> None:
        """Have a chunk in the page cache, in one sequential read of what is not there, and checked if it is to be."""
        if checking.is_checked(number) and number not in self._checked:
            self._chunk(number)
        else:
            fetch_chunk(self.file(number))

    def read_into(self, rows: Array, out: Array) -> None:
        """Copy rows, by number and in any order, into `out` (len(rows), ...).

        Raises IndexError for a row that is not there, UserError for a damaged chunk.
        """
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row out of 0..{len(self) - 1} in {self.path}")
        numbers, places = np.divmod(rows, self.chunk)
        order = np.argsort(numbers, kind="stable")  # chunk by chunk: each is looked up once
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        for here in np.split(order, starts[1:]):
            if not len(here):
                continue
            values = self._chunk(int(numbers[here[0]]))
            if row_bytes < LARGE_ROW_BYTES:
                out[here] = values[places[here]]
                continue
            for target, place in zip(here.tolist(), places[here].tolist(), strict=True):
                out[target] = values[place]

    def __getitem__(self, rows: slice | npt.ArrayLike) -> Array:
        if isinstance(rows, slice):
            return self._slice(*rows.indices(len(self)))
        index = np.asarray(rows)
        if index.dtype == bool:
            raise TypeError("rows are numbers, not a mask: np.flatnonzero(mask)")
        gathered = np.empty((len(index), *self.shape[1:]), self.dtype)
        self.read_into(index.astype(np.int64), gathered)
        return gathered

    def _slice(self, start: int, stop: int, step: int) -> Array:
        if step != 1:
            return self[np.arange(start, stop, step)]
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        first, last = start // self.chunk, (stop - 1) // self.chunk
        if first == last:
            return self._chunk(first)[start - first * self.chunk : stop - first * self.chunk]
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for number in range(first, last + 1):  # one by one: no more are mapped than may be
            low = number * self.chunk
            part = self._chunk(number)[max(start - low, 0) : stop - low]
            values[max(low - start, 0) :][: len(part)] = part
        return values

    @property
    def _chunk_shape(self) -> tuple[int, ...]:
        return (self.chunk, *self.shape[1:])

    def _chunk(self, number: int) -> Array:
        """A chunk's values, mapped; checked when first touched."""
        values = self._mapped.get(number)  # no lock: the usual case
        if values is None:
            with self._chunk_locks[number % CHUNK_LOCKS]:
                values = self._mapped.get(number)
                if values is None:
                    self._check(number)
                    values = self._map(number)
        return values

    def _map(self, number: int) -> Array:
        values = map_chunk(self.file(number), self.dtype, self._chunk_shape)
        with self._map_lock:
            while len(self._mapped) >= self._most_mapped:
                del self._mapped[next(iter(self._mapped))]  # the oldest
            self._mapped[number] = values
        return values

    def _check(self, number: int) -> None:
        if checking.is_checked(number) and number not in self._checked:
            problem = content_problem(self.file(number))
            if problem:
                raise UserError(f"{problem}: {remedy(self.path.parent)}")
        self._checked.add(number)


def open_store(path: Path) -> Store:
    """Open a complete store.

    Raises UserError where it is missing, incomplete or laid out by somebody else, where its attributes were edited,
    and where a chunk is missing or of another size; a chunk's content is compared when it is first read.
    """
    store = read_store(path)
    problem = attribute_problem(store)
    if problem:
        raise UserError(f"{problem}: {remedy(path)}")
    for array in store.arrays.values():
        for problem in array.size_problems():
            raise UserError(f"{problem}: {remedy(path)}")
    return store


def require_same(store: Store, expected: Mapping[str, Any], warn_only: tuple[str, ...] = ("versions",)) -> list[str]:
    """Compare a store's provenance with what is expected; returns the keys that differ and only warn.

    Raises UserError that names the store and every key that differs.
    """
    differing = [key for key, value in expected.items() if store.attributes.get(key) != value]
    refused = [key for key in differing if key not in warn_only]
    if refused:
        shown = "; ".join(f"{key} is {store.attributes.get(key)!r}, expected {expected[key]!r}" for key in refused)
        raise UserError(f"{store.path} was made differently: {shown}; delete it and run `dvc repro`")
    return differing


def encode_ids(ids: list[str]) -> Array:
    """Image ids as UTF-8 bytes, I x longest, zero-padded: a layout that every zarr reader knows.

    File names that are no UTF-8 keep their bytes.
    """
    encoded = [name.encode(errors="surrogateescape") for name in ids]
    width = max((len(name) for name in encoded), default=1)
    joined = b"".join(name.ljust(width, b"\0") for name in encoded)
    return np.frombuffer(joined, np.uint8).reshape(len(ids), width)


def decode_ids(stored: Array) -> list[str]:
    """The inverse of `encode_ids`."""
    return [bytes(row).rstrip(b"\0").decode(errors="surrogateescape") for row in np.asarray(stored)]


def read_store(path: Path) -> Store:
    """A store, complete or not. Raises UserError where there is none or it is damaged."""
    if not path.exists():
        raise UserError(f"{path} is missing: run `dvc repro`, which makes it")
    try:
        group = zarr.open_group(path, mode="r")
        return Store(path, dict(group.attrs), open_arrays(path, group))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy(path)}") from None


def open_arrays(path: Path, group: zarr.Group) -> dict[str, Rows]:
    """The arrays of a store, complete or not. Raises UserError where one is laid out by somebody else."""
    names = sorted(file.parent.name for file in path.glob("*/zarr.json"))
    return {name: _rows(path, array) for name in names if isinstance(array := group[name], zarr.Array)}


def _rows(path: Path, array: Any) -> Rows:
    little = BytesCodec(endian="little" if np.dtype(array.dtype).itemsize > 1 else None)
    plain = array.compressors == (Crc32cCodec(),) and array.serializer == little
    plain = plain and array.metadata.chunk_key_encoding.separator == "." and array.chunks[1:] == array.shape[1:]
    if not plain or array.shards or array.filters:
        raise UserError(f"{path / array.basename} is not stored in plain chunks of whole rows: make it again")
    return Rows(path / array.basename, array.shape, np.dtype(array.dtype).newbyteorder("<"), array.chunks[0])


def attribute_problem(store: Store) -> str | None:
    """What is wrong with a store's attributes, or None."""
    if store.attributes.get(COMPLETE) is not True:
        return f"{store.path} is incomplete"
    attributes = {key: value for key, value in store.attributes.items() if key != CHECKSUM}
    if store.attributes.get(CHECKSUM) != attributes_digest(attributes, store.arrays):
        return f"{store.path}: attributes were changed after it was made (their checksum does not fit)"
    return None


def attributes_digest(attributes: Mapping[str, Any], arrays: Mapping[str, Rows]) -> str:
    """SHA-256 over attributes and the shapes, dtypes and chunks of the arrays."""
    shapes = {name: [*array.shape, array.dtype.str, array.chunk] for name, array in arrays.items()}
    return hashlib.sha256(json.dumps([attributes, shapes], sort_keys=True).encode()).hexdigest()


def contents_digest(arrays: Mapping[str, Rows]) -> str:
    """SHA-256 over the checksums of all chunks, in order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        for number in range(arrays[name].chunks):
            digest.update(stored_checksum(arrays[name].file(number)))
    return digest.hexdigest()


def remedy(path: Path) -> str:
    """What to do about a store that cannot be used."""
    return f"delete {path} and run `dvc repro`, which makes it again"
