"""The token cache of an image set: decoding, forward passes and writing, side by side, resumable."""

import importlib.metadata
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralood.backbone import FrozenBackbone, weights_fingerprint
from neuralood.base import console, paths, ranks
from neuralood.base.collectives import broadcast, gather
from neuralood.base.device import release_memory
from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.base.writing import complete_store
from neuralood.config import Cache
from neuralood.data.manifest import Manifest
from neuralood.tokens.adopt import adopt
from neuralood.tokens.decode import Batch, decoded_batches
from neuralood.tokens.extract import TokenEncoder, token_specs
from neuralood.tokens.unfinished import (
    Unfinished,
    discard,
    missing_rows,
    only_writer,
    read_stamps,
    resume_or_create,
)

BATCHES_IN_FLIGHT = 4
"""Batches whose tokens wait to be fetched from the device."""


def provenance(name: str, backbone: FrozenBackbone, settings: Cache, dataset: str) -> dict[str, Any]:
    """What tokens were made of: a cache with another provenance is refused, other versions only warn."""
    shape = backbone.shape
    return {
        "kind": "tokens",
        "backbone": name,
        "weights": weights_fingerprint(backbone),
        "weights_source": backbone.weights_source,
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

    With `cache.dtype: int8`, patches are integers of -127 to 127 times `patches_scale` I L N, and [CLS] is float16.
    The store grows in data/.partial and is renamed when whole, so an interrupted run goes on where it stopped.
    Undecodable images do not stop the good ones: raises UserError at the end that lists them all. Raises UserError
    before the first image where the store does not fit on the disk, or another process writes it.
    Several processes (see `ranks`) share the chunks; the first does all else.
    """
    final, partial = paths.tokens(manifest.set_name), paths.partial(paths.tokens(manifest.set_name))
    store = Unfinished(partial, token_specs(len(manifest), backbone.shape, settings))

    def begin() -> list[int]:
        resume_or_create(partial, store.specs, provenance(name, backbone, settings, manifest.fingerprint), manifest)
        adopt(store, manifest)
        rows: list[int] = missing_rows(store, manifest).tolist()
        return rows

    def end() -> None:
        complete_store(partial, final)
        discard(partial)

    with only_writer(partial):
        missing = np.array(broadcast(begin), np.int64)
        found = gather(_fill(store, manifest, missing, backbone.to(device), settings, device, workers))
        bad = sorted((line for of_rank in found for line in of_rank), key=lambda line: line[0])
        if bad:
            raise UserError(_list_bad_images(manifest.set_name, [line for _, line in bad]))
        broadcast(end)
    return final


def _fill(
    store: Unfinished,
    manifest: Manifest,
    missing: Array,
    backbone: FrozenBackbone,
    settings: Cache,
    device: torch.device,
    workers: int,
) -> list[tuple[int, str]]:
    """Store this process's share of the missing rows' tokens; returns a chunk and a line for each bad image.

    Three things go on at a time: processes decode the next images, the device works on a batch, and a thread fetches,
    checks and writes the tokens of the batches before.
    """
    encode = TokenEncoder(backbone, settings, device)
    batches = _batch_rows(missing, encode.batch_size, store.chunk)
    loader = decoded_batches(manifest, backbone, batches, device, workers)
    steps = console.track(loader, f"tokens of {manifest.set_name} (batches)", len(batches))
    holes = set(np.unique(np.flatnonzero(~np.isin(np.arange(store.images), missing)) // store.chunk).tolist())
    bad: list[tuple[int, str]] = []
    with ThreadPoolExecutor(1, "writer") as writer:
        fetching: deque[Future[None]] = deque()
        written: Future[list[tuple[int, str]]] | None = None
        for number, of_chunk in groupby(steps, key=lambda batch: batch.first_row // store.chunk):
            chunk = _Chunk(store, number, stored=number in holes)
            for batch in of_chunk:
                bad += [(number, problem) for problem in batch.problems]
                if len(batch.rows) and device.type == "cpu":  # whose tokens need not be waited for
                    chunk.put(batch, encode(batch.pixels))
                elif len(batch.rows):
                    fetching.append(writer.submit(chunk.put, batch, encode(batch.pixels)))
                while len(fetching) > BATCHES_IN_FLIGHT:
                    fetching.popleft().result()
            bad += written.result() if written else []  # no more than two chunks are in memory
            written = writer.submit(chunk.write, manifest)
        for future in fetching:
            future.result()
        bad += written.result() if written else []
    return bad


def _batch_rows(missing: Array, size: int, chunk: int) -> list[list[int]]:
    """Rows of each batch of this process, which takes whole chunks.

    No batch crosses a chunk's edge: a resumed run, and any number of processes, make the same batches.
    """
    edges = np.flatnonzero(np.diff(missing // chunk)) + 1
    chunks = ranks.share(np.split(missing, edges))
    return [rows[start : start + size].tolist() for rows in chunks for start in range(0, len(rows), size)]


class _Chunk:
    """One chunk of a store while its tokens come in, batch by batch, in the writer's thread."""

    def __init__(self, store: Unfinished, number: int, *, stored: bool) -> None:
        self.store = store
        self.number = number
        self.first_row = number * store.chunk
        self.values = store.values(number, stored=stored)
        count = len(store.rows_of(number))
        self.stamps = read_stamps(store.path, number) if stored else np.zeros((count, 2), np.int64)
        self.new = False

    def put(self, batch: Batch, tokens: dict[str, Tensor]) -> None:
        """Take in the tokens of a batch: waits for the device."""
        places = batch.rows - self.first_row
        for name, values in tokens.items():
            self.values[name][places] = values.cpu().numpy()
        self.stamps[places] = batch.stamps
        self.new = True

    def write(self, manifest: Manifest) -> list[tuple[int, str]]:
        """Write the chunk, all but tokens that are not finite; returns its number and a line for each such image."""
        if not self.new:
            return []
        rows = zip(*self.values.values(), strict=True)
        finite = np.array([all(np.isfinite(values).all() for values in of_row) for of_row in rows])
        bad, dtype = np.flatnonzero(~finite), self.values["cls"].dtype
        self.stamps[bad] = 0
        for array in self.values.values():
            array[bad] = 0
        if self.stamps.any():
            self.store.write(self.number, self.values, self.stamps)
        self.values = {}
        release_memory(torch.device("cpu"))
        files = manifest.image_files() if len(bad) else []
        return [
            (self.number, f"{files[row]}: its tokens are not finite in {dtype} (cache.dtype float32?)")
            for row in (self.first_row + bad).tolist()
        ]


def _list_bad_images(set_name: str, bad: list[str]) -> str:
    return (
        f"{len(bad)} image(s) of {set_name} cannot be read; all others are stored. Replace them, or list them under "
        f"files.{set_name}.exclude, and run again:\n" + "\n".join(f"  {line}" for line in bad)
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON attributes come back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
