"""Token caches: every image of a set through the frozen backbone, once."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neuralood import console, paths
from neuralood.backbone import FrozenBackbone, weights_fingerprint
from neuralood.config import Cache
from neuralood.data.images import read_image
from neuralood.data.manifest import Manifest
from neuralood.device import autocast
from neuralood.errors import UserError
from neuralood.store import Array, ArraySpec, complete_store, create_store, decode_ids, encode_ids

STAMP = "stamp"
"""Array of an unfinished store: size and modification time of each image stored so far, 0 where none is."""


def provenance(name: str, backbone: FrozenBackbone, settings: Cache, dataset: str) -> dict[str, Any]:
    """What tokens were made of: a cache with another provenance is refused, other versions only warn."""
    shape = backbone.shape
    return {
        "kind": "tokens",
        "backbone": name,
        "weights": weights_fingerprint(backbone),
        "preprocessing": _plain(asdict(backbone.preprocessing)),
        "features": backbone.features,
        "layers": list(backbone.layers),
        "grid": [side // settings.pool for side in shape.grid],
        "pool": settings.pool,
        "dtype": settings.dtype,
        "autocast": settings.autocast,
        "dataset": dataset,
        "versions": {package: importlib.metadata.version(package) for package in ("timm", "torch")},
    }


def cache_tokens(
    manifest: Manifest,
    name: str,
    backbone: FrozenBackbone,
    settings: Cache,
    device: torch.device,
    workers: int,
) -> Path:
    """Write the token store of one set: `cls` I D', `patches` I L N D, `label` I, `image_id`.

    The store grows in data/.partial and is renamed when whole, so an interrupted run goes on where it stopped.
    Undecodable images do not stop the good ones: raises UserError at the end that lists them all.
    """
    final, partial = paths.tokens(manifest.set_name), paths.partial(paths.tokens(manifest.set_name))
    attributes = provenance(name, backbone, settings, manifest.fingerprint)
    group = _resume_or_create(partial, _array_specs(manifest, backbone, settings), attributes, manifest)
    bad = _fill(group, manifest, backbone.to(device), settings, device, workers)
    if bad:
        raise UserError(_list_bad_images(manifest.set_name, bad))
    del group[STAMP]
    complete_store(partial, final)
    return final


def _array_specs(manifest: Manifest, backbone: FrozenBackbone, settings: Cache) -> dict[str, ArraySpec]:
    shape, count, pool = backbone.shape, len(manifest), settings.pool
    if any(side % pool for side in shape.grid):
        raise UserError(f"cache.pool: {pool} does not divide the patch grid {shape.grid[0]} x {shape.grid[1]}")
    patches = shape.patches // pool**2
    return {
        "cls": ArraySpec((count, shape.cls_width), settings.dtype, settings.chunk),
        "patches": ArraySpec((count, shape.layers, patches, shape.width), settings.dtype, settings.chunk),
        STAMP: ArraySpec((count, 2), "int64", settings.chunk),
    }


def _resume_or_create(
    partial: Path, specs: dict[str, ArraySpec], attributes: dict[str, Any], manifest: Manifest
) -> Any:
    """The store of an interrupted run where it was made the same way, else an empty one."""
    found = _open_partial(partial)
    if found is None or any(
        found.attrs.get(key) != value for key, value in attributes.items() if key not in ("dataset", "versions")
    ):
        group: Any = create_store(partial, specs, attributes)
        _write_labels(group, manifest)
        return group
    if found.attrs["dataset"] != attributes["dataset"]:
        _adopt(found, partial, specs, attributes, manifest)
        found = zarr.open_group(partial, mode="r+")
    stored = np.count_nonzero(np.asarray(found[STAMP])[:, 0])
    console.note(f"going on: {stored} of {len(manifest)} images of {manifest.set_name} are stored already")
    return found


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
        and np.array_equal(old_stamps[old_row[path]], _stamp(files[row]))
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


def _fill(
    group: Any,
    manifest: Manifest,
    backbone: FrozenBackbone,
    settings: Cache,
    device: torch.device,
    workers: int,
) -> list[str]:
    """Store the tokens of every image that has none yet, chunk by chunk; returns a line for each bad image."""
    todo = np.flatnonzero(np.asarray(group[STAMP])[:, 0] == 0)
    chunks = [rows for rows in np.split(todo, np.flatnonzero(np.diff(todo // settings.chunk)) + 1) if len(rows)]
    batches = _decoded(manifest, backbone, settings, chunks, workers, device)
    encode = torch.compile(backbone.tokens) if settings.compile else backbone.tokens
    bad: list[str] = []
    steps = console.track(batches, f"tokens of {manifest.set_name} (batches)", len(_batch_rows(chunks, settings)))
    for rows in chunks:
        cls, patches, stamps = [], [], []
        for _ in range(0, len(rows), settings.batch_size):
            batch = next(steps)
            bad += batch.problems
            if len(batch.rows) == 0:
                continue
            with torch.inference_mode(), autocast(device, settings.autocast):
                encoded = encode(batch.pixels.to(device, non_blocking=True))
            one_cls, one_patches = (_to_numpy(part, settings.dtype) for part in _pooled(encoded, backbone, settings))
            _require_finite(manifest, batch.rows, one_cls, one_patches)
            cls.append(one_cls)
            patches.append(one_patches)
            stamps.append((batch.rows, batch.stamps))
        if stamps:
            _store_rows(group, np.concatenate([rows for rows, _ in stamps]), cls, patches, [one for _, one in stamps])
    return bad


def _store_rows(group: Any, rows: Array, cls: list[Array], patches: list[Array], stamps: list[Array]) -> None:
    """Write rows of one chunk; the stamps, which say that rows are stored, come last."""
    whole = slice(rows[0], rows[-1] + 1) if len(rows) == rows[-1] - rows[0] + 1 else None
    for name, pieces in (("cls", cls), ("patches", patches), (STAMP, stamps)):
        values = np.concatenate(pieces)
        if whole is not None:
            group[name][whole] = values
        else:
            group[name].oindex[rows] = values


def _pooled(encoded: tuple[Tensor, Tensor], backbone: FrozenBackbone, settings: Cache) -> tuple[Tensor, Tensor]:
    cls, patches = encoded
    if settings.pool == 1:
        return cls, patches
    batch, layers, _, width = patches.shape
    rows, columns, pool = *backbone.shape.grid, settings.pool
    squares = patches.reshape(batch, layers, rows // pool, pool, columns // pool, pool, width)
    return cls, squares.mean(dim=(3, 5)).flatten(2, 3)


def _to_numpy(values: Tensor, dtype: str) -> Array:
    converted: Array = values.to(getattr(torch, dtype)).cpu().numpy()
    return converted


def _require_finite(manifest: Manifest, rows: Array, *arrays: Array) -> None:
    for values in arrays:
        broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if broken.any():
            file = manifest.image_files()[rows[np.argmax(broken)]]
            raise UserError(
                f"{file}: its tokens are not finite in {values.dtype}; set cache.dtype to float32, "
                "or exclude the image if its pixels are at fault"
            )


@dataclass(frozen=True)
class _Batch:
    """Decoded images of one batch: their rows, pixels B 3 H W, file stamps, and a line for each that failed."""

    rows: Array
    pixels: Tensor
    stamps: Array
    problems: list[str]


class _Images(Dataset[tuple[int, Tensor | str, Array]]):
    """Row -> row, pixels (or why there are none), file stamp."""

    def __init__(self, files: list[Path], backbone: FrozenBackbone) -> None:
        self.files = files
        self.transform = backbone.preprocessing.transform()

    def __getitem__(self, row: int) -> tuple[int, Tensor | str, Array]:
        try:
            return row, self.transform(read_image(self.files[row])), _stamp(self.files[row])
        except UserError as error:
            return row, str(error), np.zeros(2, np.int64)


def _stamp(file: Path) -> Array:
    """Size in bytes and modification time in ns of a file: equal stamps, same image; zeros where it is gone."""
    try:
        stat = file.stat()
    except OSError:
        return np.zeros(2, np.int64)
    return np.array([stat.st_size, stat.st_mtime_ns], np.int64)


def _collate(items: list[tuple[int, Tensor | str, Array]]) -> _Batch:
    good = [item for item in items if isinstance(item[1], Tensor)]
    return _Batch(
        rows=np.array([row for row, _, _ in good], np.int64),
        pixels=torch.stack([pixels for _, pixels, _ in good]) if good else torch.empty(0),  # type: ignore[misc]
        stamps=np.array([stamp for _, _, stamp in good], np.int64),
        problems=[pixels for _, pixels, _ in items if isinstance(pixels, str)],
    )


def _batch_rows(chunks: list[Array], settings: Cache) -> list[list[int]]:
    """Rows of each batch; no batch crosses a chunk's edge."""
    size = settings.batch_size
    return [rows[start : start + size].tolist() for rows in chunks for start in range(0, len(rows), size)]


def _decoded(
    manifest: Manifest,
    backbone: FrozenBackbone,
    settings: Cache,
    chunks: list[Array],
    workers: int,
    device: torch.device,
) -> Iterator[_Batch]:
    loader: DataLoader[Any] = DataLoader(
        _Images(manifest.image_files(), backbone),
        batch_sampler=_batch_rows(chunks, settings),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def _list_bad_images(set_name: str, bad: list[str]) -> str:
    return (
        f"{len(bad)} image(s) of {set_name} cannot be read; all others are stored. Replace them, or list them under "
        f"files.{set_name}.exclude, and run again:\n" + "\n".join(f"  {line}" for line in bad)
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON attributes come back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
