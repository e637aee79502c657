"""Zarr v3 stores whose chunks are plain buffers: any zarr reader opens them, ours maps them into memory.

Arrays are chunked along their first axis (images) only, uncompressed and unsharded, so that chunk `i` of an
array is the C-order file `<array>/c/i/0/...`. Asking zarr for random rows is about a hundred times slower
than a memory map of the same bytes, and compression gains a few percent of space for a several-fold loss
of speed.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from neuralood.base.errors import UserError

zarr.config.set({"array.write_empty_chunks": True})  # a chunk of zeros is a file too, or it could not be mapped

COMPLETE = "complete"
"""Attribute of a store's group, set last."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array, and the most rows in a chunk."""

    shape: tuple[int, ...]
    dtype: str
    chunk: int

    @property
    def chunk_rows(self) -> int:
        """Rows in a chunk: no more than there are, no fewer than one."""
        return min(self.chunk, max(self.shape[0], 1))


def create_store(path: Path, specs: Mapping[str, ArraySpec], attributes: Mapping[str, Any]) -> zarr.Group:
    """Make an empty store, not complete, in place of whatever is at `path`."""
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(path, zarr_format=3, attributes={**attributes, COMPLETE: False})
    for name, spec in specs.items():
        group.create_array(
            name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=(spec.chunk_rows, *spec.shape[1:]),
            compressors=None,
            fill_value=0,
        )
    return group


def complete_store(partial: Path, path: Path) -> None:
    """Set the `complete` mark and move a store to its final place."""
    zarr.open_group(partial, mode="r+").attrs[COMPLETE] = True
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(path)


def write_store(path: Path, arrays: Mapping[str, Array], attributes: Mapping[str, Any], chunk: int) -> None:
    """Write a store that fits into memory, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    specs = {name: ArraySpec(values.shape, str(values.dtype), chunk) for name, values in arrays.items()}
    group = create_store(partial, specs, attributes)
    for name, values in arrays.items():
        group[name][...] = values  # type: ignore[index]
    complete_store(partial, path)


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


@dataclass(frozen=True)
class Rows:
    """One array of a store, its chunks mapped into memory as they lie.

    `array[rows]` gathers any rows (a slice or an index array); `chunk` rows lie together in a file.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: int

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def _chunks(self) -> list[Array]:
        tail = ["0"] * (len(self.shape) - 1)
        count = -(-self.shape[0] // self.chunk)
        return [self._map(self.path.joinpath("c", str(index), *tail)) for index in range(count)]

    def _map(self, file: Path) -> Array:
        shape = (self.chunk, *self.shape[1:])
        wanted = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        size = file.stat().st_size if file.exists() else -1
        if size != wanted:
            state = "is missing" if size < 0 else f"has {size} bytes where {wanted} belong"
            raise UserError(f"{file} {state}: delete {self.path.parent} and run `dvc repro`, which makes it again")
        return np.memmap(file, self.dtype, "r", shape=shape) if wanted else np.empty(shape, self.dtype)

    def __getitem__(self, rows: slice | npt.ArrayLike) -> Array:
        if isinstance(rows, slice):
            return self._slice(*rows.indices(len(self)))
        index = np.asarray(rows)
        if index.dtype == bool:
            raise TypeError("rows are numbers, not a mask: np.flatnonzero(mask)")
        index = index.astype(np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"row out of 0..{len(self) - 1} in {self.path}")
        gathered = np.empty((len(index), *self.shape[1:]), self.dtype)
        chunk_of = index // self.chunk
        for number in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == number)
            gathered[here] = self._chunks[number][index[here] - number * self.chunk]
        return gathered

    def _slice(self, start: int, stop: int, step: int) -> Array:
        if step != 1:
            return self[np.arange(start, stop, step)]
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        pieces = []
        for number in range(start // self.chunk, (stop - 1) // self.chunk + 1):
            low = number * self.chunk
            pieces.append(self._chunks[number][max(start - low, 0) : stop - low])
        return np.asarray(pieces[0]) if len(pieces) == 1 else np.concatenate(pieces)


def open_store(path: Path) -> Store:
    """Open a complete store. Raises UserError where it is missing, incomplete or laid out by somebody else."""
    if not path.exists():
        raise UserError(f"{path} is missing: run `dvc repro`, which makes it")
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
        arrays = {name: _rows(path, array) for name, array in group.arrays()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `dvc repro`") from None
    if attributes.get(COMPLETE) is not True:
        raise UserError(f"{path} is incomplete: delete it and run `dvc repro`, which makes it again")
    return Store(path, attributes, arrays)


def _rows(path: Path, array: Any) -> Rows:
    if array.compressors or array.shards or array.chunks[1:] != array.shape[1:]:
        raise UserError(f"{path / array.basename} is not stored in plain chunks of whole rows: make it again")
    return Rows(path / array.basename, array.shape, np.dtype(array.dtype), array.chunks[0])


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
    return np.array([list(name.ljust(width, b"\0")) for name in encoded], np.uint8).reshape(len(ids), width)


def decode_ids(stored: Array) -> list[str]:
    """The inverse of `encode_ids`."""
    return [bytes(row).rstrip(b"\0").decode(errors="surrogateescape") for row in np.asarray(stored)]
