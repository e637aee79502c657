"""Token stores in the making, chunk by chunk: what an interrupted run left is gone on with, and one run at a time.

A store grows in data/.partial/tokens/SET.zarr, where DVC does not reach. Beside it, SET.stamps/ has a small file for
each finished chunk, written last: the size and modification time of each of its images, 0 where an image is not
stored. For a changed list of images, finished rows move on from the unfinished store into a new one, chunk by chunk;
no more than a few chunks exist twice.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout

from neuralood.base import console, ranks
from neuralood.base.chunks import bytes_of_chunk, chunk_file, map_chunk, size_problem
from neuralood.base.errors import UserError
from neuralood.base.records import write_whole
from neuralood.base.store import Array, decode_ids, encode_ids, open_arrays
from neuralood.base.writing import ArraySpec, create_store, require_space, write_rows
from neuralood.data.containers import stamp
from neuralood.data.manifest import Manifest

MAY_DIFFER = ("dataset", "versions", "weights_source")
"""Attributes in which an unfinished store may differ from the one that is wanted now."""

LABEL, IMAGE_ID = "label", "image_id"


@dataclass(frozen=True)
class Unfinished:
    """A store in the making: `specs` are its arrays of tokens, one row an image, all of one chunk size."""

    path: Path
    specs: dict[str, ArraySpec]

    @property
    def stamps_folder(self) -> Path:
        """Where the stamps of finished chunks lie."""
        return stamps_folder(self.path)

    @cached_property
    def chunk(self) -> int:
        """Rows in a chunk."""
        return next(iter(self.specs.values())).chunk_rows

    @cached_property
    def images(self) -> int:
        """Rows in all."""
        return next(iter(self.specs.values())).shape[0]

    def rows_of(self, number: int) -> Array:
        """The rows of a chunk."""
        return np.arange(number * self.chunk, min((number + 1) * self.chunk, self.images))

    def stamps(self) -> Array:
        """Size in bytes and modification time in ns of each image stored so far, I 2; 0 where none is."""
        stamps = np.zeros((self.images, 2), np.int64)
        for number in finished_chunks(self.path):
            rows = self.rows_of(number)
            found = read_stamps(self.path, number)
            if len(rows) == len(found) and self._is_whole(number):
                stamps[rows] = found
        return stamps

    def values(self, number: int, *, stored: bool) -> dict[str, Array]:
        """A chunk's values to fill in: those stored so far, else zeros."""
        count = len(self.rows_of(number))
        empty = {name: np.zeros((count, *spec.shape[1:]), spec.dtype) for name, spec in self.specs.items()}
        if not stored:
            return empty
        return {name: self._mapped(name, spec, number)[:count].copy() for name, spec in self.specs.items()}

    def write(self, number: int, values: dict[str, Array], stamps: Array) -> None:
        """Write a chunk of every array, and then its stamps, which say that it is there."""
        for name, array in values.items():
            write_rows(self.path, name, self.specs[name], number * self.chunk, array)
        self.stamps_folder.mkdir(exist_ok=True)

        def save(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.save(stream, stamps, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())

        write_whole(stamp_file(self.path, number), save)

    def bytes_left(self) -> int:
        """Bytes of the chunks that are not there yet."""
        return sum(
            bytes_of_chunk(np.dtype(spec.dtype), (spec.chunk_rows, *spec.shape[1:]))
            for name, spec in self.specs.items()
            for number in range(spec.chunks)
            if not self._file(name, number).exists()
        )

    def _is_whole(self, number: int) -> bool:
        return not any(
            size_problem(
                self._file(name, number), bytes_of_chunk(np.dtype(spec.dtype), (spec.chunk_rows, *spec.shape[1:]))
            )
            for name, spec in self.specs.items()
        )

    def _mapped(self, name: str, spec: ArraySpec, number: int) -> Array:
        return map_chunk(self._file(name, number), np.dtype(spec.dtype), (spec.chunk_rows, *spec.shape[1:]))

    def _file(self, name: str, number: int) -> Path:
        return chunk_file(self.path / name, number, len(self.specs[name].shape))


@contextmanager
def only_writer(partial: Path) -> Iterator[None]:
    """Hold the store for this process; of several of one stage, the first holds it for all.

    Raises UserError where another one has it; a killed one's hold is gone.
    """
    if not ranks.is_first():
        yield
        return
    partial.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial.with_suffix(".lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{partial} is being written by another process: wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def resume_or_create(
    partial: Path, specs: dict[str, ArraySpec], attributes: dict[str, Any], manifest: Manifest
) -> Unfinished:
    """The store of an interrupted run where it was made the same way, else an empty one.

    One of another list of images, or in other chunks, is set aside: see `adopt`.

    Raises UserError where the rest of it does not fit on the disk.
    """
    store = Unfinished(partial, specs)
    fixed = {key: value for key, value in attributes.items() if key not in MAY_DIFFER}
    for path in (partial, *set_aside_stores(partial)):
        if not _is_made_so(path, (*specs, LABEL, IMAGE_ID), fixed):
            _remove(path)
    if not partial.exists():
        _create(store, attributes, manifest)
    elif not _same_rows(store, manifest, attributes["dataset"]):
        _set_aside(partial)
        _create(store, attributes, manifest)
    require_space(partial, store.bytes_left() - sum(_bytes_in(source) for source in set_aside_stores(partial)))
    return store


def resume_chunks(partial: Path, name: str, spec: ArraySpec, attributes: dict[str, Any]) -> list[int]:
    """Numbers of the chunks to write of a store of one array: those that an interrupted run left, else all.

    Raises UserError where the rest of it does not fit on the disk.
    """
    if not _is_made_so(partial, (name,), attributes) or not _has_layout(partial, name, spec):
        create_store(partial, {name: spec}, attributes)
    wanted = bytes_of_chunk(np.dtype(spec.dtype), (spec.chunk_rows, *spec.shape[1:]))
    files = [chunk_file(partial / name, number, len(spec.shape)) for number in range(spec.chunks)]
    missing = [number for number, file in enumerate(files) if size_problem(file, wanted)]
    require_space(partial, len(missing) * wanted)
    return missing


def missing_rows(store: Unfinished, manifest: Manifest) -> Array:
    """Rows of the images that are not stored, or whose files changed since."""
    stamps, images = store.stamps(), len(manifest)
    missing = stamps[:, 0] == 0
    for row in np.flatnonzero(~missing).tolist():
        missing[row] = not np.array_equal(stamps[row], stamp_of(manifest.image_file(row)))
    left = int(np.count_nonzero(missing))
    if left < images:
        console.note(f"going on: {images - left} of {images} images of {manifest.set_name} are stored already")
    return np.flatnonzero(missing)


def discard(partial: Path) -> None:
    """Remove an unfinished store, its stamps, and what was set aside for it."""
    for path in (partial, *set_aside_stores(partial)):
        _remove(path)


def stamp_of(file: Path) -> Array:
    """The stamp of an image's file (see neuralood.data.containers.stamp), as stores keep it."""
    return np.array(stamp(file), np.int64)


def stamps_folder(partial: Path) -> Path:
    """Where the stamps of a store's finished chunks lie."""
    return partial.with_suffix(".stamps")


def stamp_file(partial: Path, number: int) -> Path:
    """The stamps of one chunk."""
    return stamps_folder(partial) / f"{number}.npy"


def read_stamps(partial: Path, number: int) -> Array:
    """The stamps of one chunk; none where the file is damaged."""
    try:
        stamps: Array = np.load(stamp_file(partial, number), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.zeros((0, 2), np.int64)
    return stamps


def finished_chunks(partial: Path) -> list[int]:
    """Numbers of the chunks that have stamps, ascending."""
    return sorted(int(file.stem) for file in stamps_folder(partial).glob("[0-9]*.npy"))


def _create(store: Unfinished, attributes: dict[str, Any], manifest: Manifest) -> None:
    labels = {LABEL: np.asarray(manifest.labels, np.int32), IMAGE_ID: encode_ids(list(manifest.paths))}
    specs = {name: ArraySpec(array.shape, str(array.dtype), len(array)) for name, array in labels.items()}
    create_store(store.path, {**store.specs, **specs}, attributes)
    for name, array in labels.items():
        write_rows(store.path, name, specs[name], 0, array)


def _remove(store: Path) -> None:
    """Remove an unfinished store and its stamps, whatever there is of them."""
    shutil.rmtree(stamps_folder(store), ignore_errors=True)
    shutil.rmtree(store, ignore_errors=True)


def _is_made_so(partial: Path, names: Sequence[str], attributes: Mapping[str, Any]) -> bool:
    """Whether an unfinished store of these arrays lies there, labels whole, made with these attributes."""
    try:
        group = zarr.open_group(partial, mode="r")
        arrays = open_arrays(partial, group)
    except (OSError, ValueError, KeyError, UserError):
        return False
    damaged = any(problem for name in (LABEL, IMAGE_ID) if name in arrays for problem in arrays[name].size_problems())
    same = all(group.attrs.get(key) == value for key, value in attributes.items())
    return set(names) == set(arrays) and same and not damaged


def _has_layout(partial: Path, name: str, spec: ArraySpec) -> bool:
    array = open_arrays(partial, zarr.open_group(partial, mode="r"))[name]
    return (array.shape, array.dtype.name, array.chunk) == (spec.shape, spec.dtype, spec.chunk_rows)


def _same_rows(store: Unfinished, manifest: Manifest, dataset: str) -> bool:
    group = zarr.open_group(store.path, mode="r")
    arrays = open_arrays(store.path, group)
    same = group.attrs["dataset"] == dataset
    same = same and all(arrays[name].chunk == spec.chunk_rows for name, spec in store.specs.items())
    return same and decode_ids(arrays[IMAGE_ID][:]) == list(manifest.paths)


def _set_aside(partial: Path) -> None:
    places = (partial.with_name(f"{partial.stem}.old{number}{partial.suffix}") for number in count())
    aside = next(place for place in places if not place.exists())
    if stamps_folder(partial).exists():
        shutil.rmtree(stamps_folder(aside), ignore_errors=True)
        stamps_folder(partial).rename(stamps_folder(aside))
    partial.rename(aside)


def set_aside_stores(partial: Path) -> list[Path]:
    """Unfinished stores of other lists of images, whose finished tokens are to move on."""
    return sorted(partial.parent.glob(f"{partial.stem}.old[0-9]*{partial.suffix}"))


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("c.*"))
