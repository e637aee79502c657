"""Reading patch tokens: ours beside numpy.memmap, zarr, zarrs and tensorstore on the same bytes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.timing import Ratio, alternate, drop_pages, ratio
from neuralood.base.reading import batches, host_rows, read_batches, training_orders
from neuralood.base.store import Array, Rows, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, write_rows

TOKENS, WIDTH, BATCH, CHUNK = 257, 384, 128, 256
"""ViT-S/14 at 224 px, [CLS] included; images in a batch and in a chunk."""


@dataclass(frozen=True)
class Reads:
    """What is read when the page cache is warm: a store's array, by each reader, and one raw file of its bytes."""

    rows: Rows
    array: Any
    memmap: Array
    tensorstore: Any


def random_store(folder: Path, images: int, tokens: int = TOKENS, width: int = WIDTH) -> Path:
    """A store of random normals, float16, in chunks; labels beside them."""
    path, partial = folder / f"{images}.zarr", folder / "partial.zarr"
    rng = np.random.default_rng(0)
    spec = ArraySpec((images, 1, tokens, width), "float16", CHUNK)
    create_store(partial, {"patches": spec}, {"dataset": "random"})
    for start in range(0, images, CHUNK):
        count = min(CHUNK, images - start)
        values = rng.standard_normal((count, 1, tokens, width), dtype=np.float32).astype(np.float16)
        write_rows(partial, "patches", spec, start, values)
    complete_store(partial, path)
    return path


def measure_reads(folder: Path, images: int, repeats: int) -> dict[str, Ratio]:
    """Ratios of reading speed, page cache warm and cold."""
    path = random_store(folder, images)
    return _measure_warm(path, images, repeats) | _measure_cold(path, images, repeats)


def _measure_warm(path: Path, images: int, repeats: int) -> dict[str, Ratio]:
    reads = _open(path)
    few = max(1, images // BATCH // 16)  # batches of the slow readers
    order = np.random.default_rng(1).permutation(images)
    mixed = _training_order(images)
    cases: dict[str, Callable[[], object]] = {
        "memmap sequential": lambda: _drain(np.array(reads.memmap[rows]) for rows in _slices(images)),
        "ours sequential": lambda: _drain(np.array(reads.rows[rows]) for rows in _slices(images)),
        "ours training": lambda: _drain(read_batches((reads.rows,), mixed, BATCH, _load(reads.rows))),
        "memmap random": lambda: _drain(reads.memmap[rows] for rows in batches(order, BATCH)),
        "ours random": lambda: _drain(reads.rows[rows] for rows in batches(order, BATCH)),
        "zarr random": lambda: _drain(reads.array.oindex[rows] for rows in batches(order[: few * BATCH], BATCH)),
        "zarr sequential": lambda: _drain(reads.array[rows] for rows in _slices(few * BATCH)),
        "zarrs random": lambda: _zarrs(lambda: reads.array.oindex[order[:BATCH]]),
        "zarrs sequential": lambda: _zarrs(lambda: _drain(reads.array[rows] for rows in _slices(few * BATCH))),
        "tensorstore random": lambda: _drain(
            reads.tensorstore[rows].read().result() for rows in batches(order[: few * BATCH], BATCH)
        ),
        "tensorstore sequential": lambda: _drain(
            reads.tensorstore[rows].read().result() for rows in _slices(few * BATCH)
        ),
    }
    seconds = alternate(cases, repeats)
    share = few * BATCH / images
    found = {
        "sequential over numpy.memmap": ratio(seconds, "ours sequential", "memmap sequential"),
        "training order over numpy.memmap's sequential": ratio(seconds, "ours training", "memmap sequential"),
        "random rows over numpy.memmap's": ratio(seconds, "ours random", "memmap random"),
        "random rows over zarr's oindex": ratio(seconds, "ours random", "zarr random", share),
        "sequential over zarr's": ratio(seconds, "ours sequential", "zarr sequential", share),
        "random rows over zarrs' oindex": ratio(seconds, "ours random", "zarrs random", BATCH / images),
        "sequential over zarrs'": ratio(seconds, "ours sequential", "zarrs sequential", share),
        "random rows over tensorstore's": ratio(seconds, "ours random", "tensorstore random", share),
        "sequential over tensorstore's": ratio(seconds, "ours sequential", "tensorstore sequential", share),
    }
    gigabytes = reads.memmap.nbytes / 1e9
    rates = {name: gigabytes / np.median(seconds[name]) for name in ("memmap sequential", "memmap random")}
    found |= {f"GB/s of {name}": Ratio(rate, rate, rate) for name, rate in rates.items()}
    return found


def _measure_cold(path: Path, images: int, repeats: int) -> dict[str, Ratio]:
    """From the disk: pages are dropped before each case; ours opens the store anew, its checksums included."""
    store, order = open_store(path)["patches"], _training_order(images)
    files = [store.file(number) for number in range(store.chunks)]

    def plain() -> None:
        buffer = bytearray(2**20)
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    def ours() -> None:
        fresh = open_store(path)["patches"]
        _drain(read_batches((fresh,), order, BATCH, _load(fresh)))

    cases = {"plain": plain, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(repeats):
        for name in sorted(cases, reverse=bool(number % 2)):  # a shared disk's bursts shall favour neither
            drop_pages(files)
            seconds[name] += alternate({name: cases[name]}, 1, warm_up=False)[name]
    rate = sum(file.stat().st_size for file in files) / 1e9 / float(np.median(seconds["plain"]))
    return {
        "training order over a plain sequential read, from the disk": ratio(seconds, "ours", "plain"),
        "GB/s of a plain sequential read from the disk": Ratio(rate, rate, rate),
    }


def _training_order(images: int) -> Array:
    return next(training_orders(np.arange(images), CHUNK, 2 * CHUNK, np.random.default_rng(2)))


def _open(path: Path) -> Reads:
    import tensorstore

    rows = open_store(path)["patches"]
    raw = path.with_name("raw.bin")
    with raw.open("wb") as stream:
        for chunk in _slices(len(rows)):
            stream.write(np.ascontiguousarray(rows[chunk]).tobytes())
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str((path / "patches").absolute())}}
    return Reads(
        rows=rows,
        array=zarr.open_group(path, mode="r")["patches"],
        memmap=np.memmap(raw, np.float16, "r", shape=rows.shape),
        tensorstore=tensorstore.open(spec, read=True).result(),
    )


def _load(rows: Rows) -> Callable[[Array], Any]:
    return lambda chosen: host_rows(rows, chosen, pin=False)


def _zarrs(read: Callable[[], object]) -> None:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        read()


def _slices(images: int) -> Iterator[slice]:
    for start in range(0, images, BATCH):
        yield slice(start, min(start + BATCH, images))


def _drain(items: Any) -> None:
    for _ in items:
        pass


def clean(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
