"""Making a zarr v3 store (see `store`): empty at first, chunk by chunk, complete at last."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from neuralood.base.chunks import bytes_of_chunk, chunk_file, sync, write_chunk
from neuralood.base.errors import UserError
from neuralood.base.store import (
    CHECKSUM,
    COMPLETE,
    CONTENTS,
    Array,
    attributes_digest,
    contents_digest,
    open_arrays,
)


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

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def nbytes(self) -> int:
        """Bytes on disk, all chunks."""
        return self.chunks * bytes_of_chunk(np.dtype(self.dtype), (self.chunk_rows, *self.shape[1:]))


def create_store(path: Path, specs: Mapping[str, ArraySpec], attributes: Mapping[str, Any]) -> None:
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
            serializer=BytesCodec(endian="little"),
            compressors=[Crc32cCodec()],
            fill_value=0,
            chunk_key_encoding={"name": "default", "separator": "."},
        )


def write_rows(path: Path, name: str, spec: ArraySpec, start: int, values: Array) -> None:
    """Write rows from `start` on, whole chunks (the array's last one may be shorter), into a store that was created."""
    rows = spec.chunk_rows
    for low in range(0, len(values), rows):
        file = chunk_file(path / name, (start + low) // rows, len(spec.shape))
        write_chunk(file, np.asarray(values[low : low + rows], np.dtype(spec.dtype).newbyteorder("<")), rows)


def complete_store(partial: Path, path: Path) -> None:
    """Set the checksums and the `complete` mark, and move a store whose chunks are all written to its final place."""
    for stray in partial.rglob("*.partial"):  # what a killed writer left
        stray.unlink()
    group = zarr.open_group(partial, mode="r+")
    arrays = open_arrays(partial, group)
    attributes = {key: value for key, value in group.attrs.items() if key != CHECKSUM}
    attributes |= {COMPLETE: True, CONTENTS: contents_digest(arrays)}
    group.attrs.put({**attributes, CHECKSUM: attributes_digest(attributes, arrays)})
    sync(partial)
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(path)


def write_store(path: Path, arrays: Mapping[str, Array], attributes: Mapping[str, Any], chunk: int) -> None:
    """Write a store that fits into memory, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    specs = {name: ArraySpec(values.shape, str(values.dtype), chunk) for name, values in arrays.items()}
    create_store(partial, specs, attributes)
    for name, values in arrays.items():
        write_rows(partial, name, specs[name], 0, values)
    complete_store(partial, path)


def require_space(path: Path, nbytes: int) -> None:
    """Raise UserError where the disk of `path` has no room for so many bytes more."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise UserError(
            f"{path} needs {nbytes / 1e9:,.2f} GB more and its disk has {free / 1e9:,.2f} GB free: free some, put "
            "data/ on another disk, or make tokens smaller (cache.dtype, cache.pool); `neuralood plan` shows all stores"
        )
