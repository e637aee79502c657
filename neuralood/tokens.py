"""Token caches: every image of a set through the frozen backbone, once."""

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neuralood.backbone import FrozenBackbone, weights_fingerprint
from neuralood.base import console, paths
from neuralood.base.device import autocast
from neuralood.base.errors import UserError
from neuralood.base.store import Array, ArraySpec, complete_store
from neuralood.config import Cache
from neuralood.data.images import read_image
from neuralood.data.manifest import Manifest
from neuralood.unfinished import STAMP, resume_or_create, stamp_of


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
    group = resume_or_create(partial, _array_specs(manifest, backbone, settings), attributes, manifest)
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
    sampler = _batch_rows(todo, settings)
    loader: DataLoader[Any] = DataLoader(
        _Images(manifest.image_files(), backbone),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    encode = torch.compile(backbone.tokens) if settings.compile else backbone.tokens
    steps = console.track(loader, f"tokens of {manifest.set_name} (batches)", len(sampler))
    bad: list[str] = []
    for _, of_chunk in groupby(steps, key=lambda batch: batch.first_row // settings.chunk):
        encoded = []
        for batch in of_chunk:
            bad += batch.problems
            if len(batch.rows):
                pixels = _filled_up(batch.pixels, settings.batch_size).to(device, non_blocking=True)
                with torch.inference_mode(), autocast(device, settings.autocast):
                    cls, patches = encode(pixels)
                tokens = cls[: len(batch.rows)], patches[: len(batch.rows)]
                encoded.append((batch, *_stored_form(tokens, backbone, settings)))
        bad += _store_finite(group, manifest, encoded)
    return bad


def _batch_rows(todo: Array, settings: Cache) -> list[list[int]]:
    """Rows of each batch; no batch crosses a chunk's edge."""
    edges = np.flatnonzero(np.diff(todo // settings.chunk)) + 1
    chunks, size = np.split(todo, edges), settings.batch_size
    return [rows[start : start + size].tolist() for rows in chunks for start in range(0, len(rows), size)]


def _filled_up(pixels: Tensor, size: int) -> Tensor:
    """B 3 H W with blank images appended up to `size`: kernels are chosen by shape, and so tokens do not depend on
    how images fall into batches."""
    blank = pixels.new_zeros(size - len(pixels), *pixels.shape[1:])
    return torch.cat([pixels, blank]) if len(blank) else pixels


def _stored_form(tokens: tuple[Tensor, Tensor], backbone: FrozenBackbone, settings: Cache) -> tuple[Array, Array]:
    """[CLS] B D' and patches B L N D as they are stored: pooled, of the store's dtype, on the CPU."""
    cls, patches = tokens
    if settings.pool > 1:
        batch, layers, _, width = patches.shape
        (rows, columns), pool = backbone.shape.grid, settings.pool
        squares = patches.reshape(batch, layers, rows // pool, pool, columns // pool, pool, width)
        patches = squares.mean(dim=(3, 5)).flatten(2, 3)
    dtype = getattr(torch, settings.dtype)
    return cls.to(dtype).cpu().numpy(), patches.to(dtype).cpu().numpy()


def _store_finite(group: Any, manifest: Manifest, encoded: list[tuple["_Batch", Array, Array]]) -> list[str]:
    """Write the finite rows of one chunk; the stamps, which say that rows are stored, come last.

    Returns a line for each image whose tokens are not finite.
    """
    if not encoded:
        return []
    batches, cls, patches = (list(parts) for parts in zip(*encoded, strict=True))
    rows = np.concatenate([batch.rows for batch in batches])
    values = {"cls": np.concatenate(cls), "patches": np.concatenate(patches)}
    values[STAMP] = np.concatenate([batch.stamps for batch in batches])
    finite = np.all([np.isfinite(one).reshape(len(rows), -1).all(axis=1) for one in values.values()], axis=0)
    stored = rows[finite]
    if len(stored):
        together = len(stored) == stored[-1] - stored[0] + 1
        for name, array in values.items():
            if together:
                group[name][stored[0] : stored[-1] + 1] = array[finite]
            else:
                group[name].oindex[stored] = array[finite]
    files, dtype = manifest.image_files(), values["cls"].dtype
    return [f"{files[row]}: its tokens are not finite in {dtype} (cache.dtype float32?)" for row in rows[~finite]]


@dataclass(frozen=True)
class _Batch:
    """Decoded images of one batch: their rows, pixels B 3 H W, file stamps, and a line for each that failed."""

    first_row: int
    rows: Array
    pixels: Tensor
    stamps: Array
    problems: list[str]

    def pin_memory(self) -> "_Batch":
        """Called by the loader where batches go to CUDA."""
        return replace(self, pixels=self.pixels.pin_memory())


class _Images(Dataset[tuple[int, Tensor | str, Array]]):
    """Row -> row, pixels (or why there are none), file stamp."""

    def __init__(self, files: list[Path], backbone: FrozenBackbone) -> None:
        self.files = files
        self.transform = backbone.preprocessing.transform()

    def __getitem__(self, row: int) -> tuple[int, Tensor | str, Array]:
        try:
            return row, self.transform(read_image(self.files[row])), stamp_of(self.files[row])
        except UserError as error:
            return row, str(error), np.zeros(2, np.int64)


def _collate(items: list[tuple[int, Tensor | str, Array]]) -> _Batch:
    good = [item for item in items if isinstance(item[1], Tensor)]
    return _Batch(
        first_row=items[0][0],
        rows=np.array([row for row, _, _ in good], np.int64),
        pixels=torch.stack([pixels for _, pixels, _ in good]) if good else torch.empty(0),  # type: ignore[misc]
        stamps=np.array([stamp for _, _, stamp in good], np.int64),
        problems=[pixels for _, pixels, _ in items if isinstance(pixels, str)],
    )


def _list_bad_images(set_name: str, bad: list[str]) -> str:
    return (
        f"{len(bad)} image(s) of {set_name} cannot be read; all others are stored. Replace them, or list them under "
        f"files.{set_name}.exclude, and run again:\n" + "\n".join(f"  {line}" for line in bad)
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON attributes come back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
