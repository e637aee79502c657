"""Rows of token stores as batches: in sequence, in any order, or mixed for training, read ahead in the background."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from neuralood.base import ranks
from neuralood.base.moments import Moments, Scale
from neuralood.base.store import Array, Rows, Store

T = TypeVar("T")
Request = TypeVar("Request")

PREDICT_BATCH = 256
"""Images in a batch where no gradient is needed."""

READ_THREADS = max(1, min(4, (os.cpu_count() or 2) // 2))
DISK_THREADS = 2
"""Threads that make batches, and threads that fetch chunks from the disk before they are asked for."""
BATCHES_AHEAD = 4
"""Batches that are read, or being read, before they are asked for."""
MOST_FREE = 16
"""Pieces of memory that are kept for later batches."""
IMAGES_AHEAD = 1_024
"""Chunks that are wanted within so many images are fetched from the disk."""
PAGE_BYTES = 4096
"""Batches start on a page of memory: 16 bytes off it, where malloc puts them, copying runs at a third of its speed."""


def batches(rows: Array, size: int) -> Iterator[Array]:
    """Consecutive parts of `rows`; the last may be smaller."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def groups_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive groups of items that come one by one; the last may be smaller."""
    coming = iter(items)
    while group := list(islice(coming, size)):
        yield group


def training_orders(rows: Array, chunk: int, buffer: int, rng: np.random.Generator) -> Iterator[Array]:
    """Endlessly, an epoch's order of `rows`: chunks in a random order, their rows mixed within `buffer` rows.

    A row is moved by `buffer` rows at the most from where its chunk was put, so that only about `buffer` rows' chunks
    (of `chunk` rows each) are wanted at a time, and a disk reads whole files in sequence. Where `buffer` holds all
    rows, the order is a plain random permutation. Epoch e of a generator's draws is always the same.

    How far from a full shuffle: a linear probe trained in this order on a store sorted by class ends 0.2 points of
    top-1 below one trained in a full shuffle (mean over 7 seeds, 0.5 at the most), where the store's own order loses
    3.3; measured on 1,000 classes with chunks and buffer as ImageNet-1k has them (benchmarks/token_cache.md, 'Mixing').
    """
    while True:
        yield _mixed(rows, chunk, buffer, rng)


def training_epochs(
    arrays: Sequence[Rows],
    rows: Array,
    buffer: int,
    size: int,
    load: Callable[[Array], T],
    rng: np.random.Generator,
    done: int = 0,
) -> Iterator[Iterator[tuple[Array, T]]]:
    """Endlessly, the batches of an epoch in training order: their rows, and what `load` makes of them.

    The first `done` batches, of however many epochs, are left out and not read. Of several processes each loads its own
    part of every batch.
    """

    def load_own(rows: Array) -> T:
        return load(ranks.own_rows(rows))

    epochs, batch = divmod(done, -(-len(rows) // size))
    for order in islice(training_orders(rows, arrays[0].chunk, buffer, rng), epochs, None):
        yield read_batches(arrays, order[batch * size :], size, load_own)
        batch = 0


def _mixed(rows: Array, chunk: int, buffer: int, rng: np.random.Generator) -> Array:
    if buffer >= len(rows):
        return rng.permutation(rows)
    _, number = np.unique(rows // chunk, return_inverse=True)
    queue = np.argsort(rng.permutation(number.max() + 1)[number], kind="stable")  # chunk after chunk
    place = np.arange(len(rows)) + rng.uniform(-buffer / 2, buffer / 2, len(rows))
    place = np.abs(place)  # reflected at both ends, where else few rows would be mixed
    place = np.minimum(place, 2 * len(rows) - place)
    mixed: Array = rows[queue[np.argsort(place, kind="stable")]]
    return mixed


def read_batches(
    arrays: Sequence[Rows], order: Array, size: int, load: Callable[[Array], T]
) -> Iterator[tuple[Array, T]]:
    """The rows of each batch of `order`, and what `load` makes of them in background threads, in order.

    `load` reads from `arrays`; their chunks are fetched from the disk before `load` asks for them.
    """
    uses = [(place, array, number) for array in arrays for place, number in _first_uses(order, array.chunk)]
    coming = deque(sorted(uses, key=lambda use: use[0]))

    def announced(disk: ThreadPoolExecutor) -> Iterator[Array]:
        for step, rows in enumerate(batches(order, size)):
            while coming and coming[0][0] < step * size + IMAGES_AHEAD:
                _, array, number = coming.popleft()
                disk.submit(array.fetch, number)
            yield rows

    with ThreadPoolExecutor(DISK_THREADS, "disk") as disk:
        try:
            yield from read_ahead(load, announced(disk))
        finally:
            disk.shutdown(wait=False, cancel_futures=True)


def _first_uses(order: Array, chunk: int) -> Iterator[tuple[int, int]]:
    """Place in `order` where each chunk is first used, and its number."""
    numbers, places = np.unique(order // chunk, return_index=True)
    yield from zip(places.tolist(), numbers.tolist(), strict=True)


def read_ahead(load: Callable[[Request], T], requests: Iterable[Request]) -> Iterator[tuple[Request, T]]:
    """Each request and what `load` makes of it, in order; a few are loaded in threads before they are asked for."""
    coming = iter(requests)
    with ThreadPoolExecutor(READ_THREADS, "reader") as pool:
        pending: deque[tuple[Request, Future[T]]] = deque()
        try:
            pending.extend((request, pool.submit(load, request)) for request in islice(coming, BATCHES_AHEAD))
            while pending:
                request, loaded = pending.popleft()
                pending.extend((more, pool.submit(load, more)) for more in islice(coming, 1))
                yield request, loaded.result()
        finally:
            for _, future in pending:
                future.cancel()


def host_rows(array: Rows, rows: Array, *, pin: bool) -> Tensor:
    """Rows of an array as a tensor on the CPU; pinned, so that CUDA copies it while the CPU goes on."""
    shape = (len(rows), *array.shape[1:])
    if pin:  # from PyTorch's own pool of pinned memory
        values = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=True)
    else:
        values = torch.from_numpy(_batch_memory(shape, array.dtype))
    array.read_into(rows, values.numpy())
    return values


_free_memory: SimpleQueue[Array] = SimpleQueue()
"""Memory of batches that nobody holds any more. A queue that finalizers may put into."""


def _batch_memory(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array to fill, in memory of an earlier batch: fresh pages would cost as much time as copying the tokens."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = _take_memory(nbytes)
    values = memory[:nbytes].view(dtype).reshape(shape)
    finalize(values, _free_memory.put, memory)  # when the last tensor that shares `values` is gone
    return values


def _take_memory(nbytes: int) -> Array:
    for _ in range(_free_memory.qsize()):
        try:
            memory = _free_memory.get_nowait()
        except Empty:
            break
        if nbytes <= memory.nbytes <= 2 * nbytes:
            return memory
        if _free_memory.qsize() < MOST_FREE:
            _free_memory.put(memory)
    memory = np.empty(nbytes + PAGE_BYTES, np.uint8)
    start = -memory.ctypes.data % PAGE_BYTES
    return memory[start : start + nbytes]


class HostPatches(NamedTuple):
    """Patch tokens as they are stored, B L N D, on the CPU; int8 ones with the scale of each token, B L N."""

    values: Tensor
    scale: Tensor | None

    def on(self, device: torch.device) -> Tensor:
        """As float32 on a device, B N (L D): layers side by side."""
        values = self.values.to(device, non_blocking=True).float()
        if self.scale is not None:
            values *= self.scale.to(device, non_blocking=True).unsqueeze(-1)
        return values.transpose(1, 2).flatten(2)


def host_patches(tokens: Store, rows: Array, *, pin: bool) -> HostPatches:
    """Patch tokens of the given rows of a token store."""
    scale = host_rows(tokens["patches_scale"], rows, pin=pin) if "patches_scale" in tokens else None
    return HostPatches(host_rows(tokens["patches"], rows, pin=pin), scale)


def patch_batch(tokens: Store, rows: Array, device: torch.device) -> Tensor:
    """Patch tokens of the given rows of a token store as float32 B N (L D): layers side by side."""
    return host_patches(tokens, rows, pin=False).on(device)


def token_statistics(tokens: Store, rows: Array) -> Scale:
    """Mean and sd over images and patches of each token feature, (L D) each; several processes read a part each."""
    cpu, (_, layers, _, width) = torch.device("cpu"), tokens["patches"].shape
    moments = Moments(layers * width, cpu)
    for batch in ranks.share(list(batches(np.sort(rows), PREDICT_BATCH))):
        values = patch_batch(tokens, batch, cpu).flatten(0, 1).double()
        moments.add(len(values), values.sum(0), (values**2).sum(0))
    return moments.scale()
