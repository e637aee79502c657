"""Finished tokens of an unfinished store move on into one for a changed list of images, chunk by chunk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr

from neuralood.base import console
from neuralood.base.store import Array, Rows, decode_ids, open_arrays
from neuralood.data.manifest import Manifest
from neuralood.tokens.unfinished import (
    IMAGE_ID,
    LABEL,
    Unfinished,
    finished_chunks,
    read_stamps,
    set_aside_stores,
    stamp_file,
    stamp_of,
    stamps_folder,
)


def adopt(store: Unfinished, manifest: Manifest) -> None:
    """Move the rows of every image that is the same from stores set aside, and delete each old chunk once used up."""
    sources = set_aside_stores(store.path)
    if not sources:
        return
    arrays = [open_arrays(source, zarr.open_group(source, mode="r")) for source in sources]
    origin, origin_stamps = _origins(sources, arrays, manifest)
    done = store.stamps()[:, 0] != 0
    wanted = np.unique(np.flatnonzero((origin[:, 0] >= 0) & ~done) // store.chunk)
    last_use = {}
    for number in wanted.tolist():
        for source, row in origin[store.rows_of(number)].tolist():
            if source >= 0:
                last_use[source, row // _chunk_of(arrays[source], store)] = number
    unused = [
        (place, number)
        for place, source in enumerate(sources)
        for number in finished_chunks(source)
        if (place, number) not in last_use
    ]
    _delete(sources, unused)
    for number in console.track(
        wanted.tolist(), f"moving finished tokens of {manifest.set_name} (chunks)", len(wanted)
    ):
        _adopt_chunk(store, number, arrays, origin, origin_stamps, done)
        _delete(sources, [chunk for chunk, last in last_use.items() if last == number])
    for source in sources:
        shutil.rmtree(stamps_folder(source), ignore_errors=True)
        shutil.rmtree(source)


def _origins(sources: Sequence[Path], arrays: Sequence[dict[str, Rows]], manifest: Manifest) -> tuple[Array, Array]:
    """Source and row (I 2; -1 where there is none), and stamps (I 2), of images whose files are as they were."""
    origin, stamps = np.full((len(manifest), 2), -1, np.int64), np.zeros((len(manifest), 2), np.int64)
    row_of = {path: row for row, path in enumerate(manifest.paths)}
    files = manifest.image_files()
    for place, (source, of_source) in enumerate(zip(sources, arrays, strict=True)):
        ids = decode_ids(of_source[IMAGE_ID][:])
        chunk = next(of_source[name].chunk for name in of_source if name not in (LABEL, IMAGE_ID))
        for number in finished_chunks(source):
            for old_row, stamp in enumerate(read_stamps(source, number), start=number * chunk):
                row = row_of.get(ids[old_row])
                if row is not None and stamp.any() and np.array_equal(stamp, stamp_of(files[row])):
                    origin[row], stamps[row] = (place, old_row), stamp
    return origin, stamps


def _adopt_chunk(
    store: Unfinished,
    number: int,
    arrays: Sequence[dict[str, Rows]],
    origin: Array,
    origin_stamps: Array,
    done: Array,
) -> None:
    rows = store.rows_of(number)
    some_done = bool(done[rows].any())
    values = store.values(number, stored=some_done)
    stamps = read_stamps(store.path, number) if some_done else np.zeros((len(rows), 2), np.int64)
    for place, of_source in enumerate(arrays):
        here = np.flatnonzero((origin[rows, 0] == place) & ~done[rows])
        if len(here):
            stamps[here] = origin_stamps[rows[here]]
            for name in values:
                values[name][here] = of_source[name][origin[rows[here], 1]]
    store.write(number, values, stamps)


def _chunk_of(arrays: dict[str, Rows], store: Unfinished) -> int:
    return arrays[next(iter(store.specs))].chunk


def _delete(sources: Sequence[Path], chunks: Sequence[tuple[int, int]]) -> None:
    """Delete used-up chunks of old stores, their stamps first."""
    for place, number in chunks:
        stamp_file(sources[place], number).unlink(missing_ok=True)
        for file in sources[place].glob(f"*/c.{number}.*"):
            if file.parent.name not in (LABEL, IMAGE_ID):
                file.unlink()
