"""Token stores in the making: what an interrupted run left is gone on with, or rebuilt for a changed list of images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from neuralood.base import console
from neuralood.base.store import Array, ArraySpec, create_store, decode_ids, encode_ids
from neuralood.data.manifest import Manifest

STAMP = "stamp"
"""Array of an unfinished store: size and modification time of each image stored so far, 0 where none is."""


def resume_or_create(partial: Path, specs: dict[str, ArraySpec], attributes: dict[str, Any], manifest: Manifest) -> Any:
    """The store of an interrupted run where it was made the same way, else an empty one."""
    found = _open_partial(partial)
    if found is None or any(
        found.attrs.get(key) != value for key, value in attributes.items() if key not in ("dataset", "versions")
    ):
        group: Any = create_store(partial, specs, attributes)
        _write_labels(group, manifest)
        return group
    if found.attrs["dataset"] != attributes["dataset"] or found[STAMP].chunks[0] != specs[STAMP].chunk_rows:
        _adopt(found, partial, specs, attributes, manifest)
        found = zarr.open_group(partial, mode="r+")
    else:
        _forget_changed(found, manifest)
    stored = np.count_nonzero(np.asarray(found[STAMP])[:, 0])
    console.note(f"going on: {stored} of {len(manifest)} images of {manifest.set_name} are stored already")
    return found


def _forget_changed(group: Any, manifest: Manifest) -> None:
    """Have images done again whose files changed since they were stored."""
    stamps, files = np.asarray(group[STAMP]), manifest.image_files()
    stored = np.flatnonzero(stamps.any(axis=1))
    changed = [row for row in stored if not np.array_equal(stamps[row], stamp_of(files[row]))]
    if changed:
        stamps[changed] = 0
        group[STAMP][...] = stamps


def _open_partial(partial: Path) -> Any:
    try:
        group = zarr.open_group(partial, mode="r+")
    except (OSError, ValueError, KeyError):
        return None
    return group if {"cls", "patches", "label", "image_id", STAMP} <= set(group.array_keys()) else None


def _adopt(
    old: Any,
    partial: Path,
    specs: dict[str, ArraySpec],
    attributes: dict[str, Any],
    manifest: Manifest,
) -> None:
    """Rebuild an unfinished store for a changed list of images, with the tokens of every file that is the same."""
    rebuilt = partial.with_name(f".{partial.name}.rebuilt")
    group: Any = create_store(rebuilt, specs, attributes)
    _write_labels(group, manifest)
    old_row = {name: row for row, name in enumerate(decode_ids(old["image_id"][...]))}
    old_stamps = np.asarray(old[STAMP])
    files = manifest.image_files()
    kept = [
        (row, old_row[path])
        for row, path in enumerate(manifest.paths)
        if path in old_row
        and old_stamps[old_row[path]].any()
        and np.array_equal(old_stamps[old_row[path]], stamp_of(files[row]))
    ]
    for start in range(0, len(kept), specs[STAMP].chunk):
        rows, old_rows = (list(part) for part in zip(*kept[start : start + specs[STAMP].chunk], strict=True))
        for name in ("cls", "patches", STAMP):
            group[name].oindex[rows] = old[name].oindex[old_rows]
    shutil.rmtree(partial)
    rebuilt.rename(partial)


def _write_labels(group: Any, manifest: Manifest) -> None:
    values = {"label": np.asarray(manifest.labels, np.int32), "image_id": encode_ids(list(manifest.paths))}
    for name, array in values.items():
        stored = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=array.shape, compressors=None)
        stored[...] = array


def stamp_of(file: Path) -> Array:
    """Size in bytes and modification time in ns of a file: equal stamps, same image; zeros where it is gone."""
    try:
        stat = file.stat()
    except OSError:
        return np.zeros(2, np.int64)
    return np.array([stat.st_size, stat.st_mtime_ns], np.int64)
