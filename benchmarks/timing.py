"""Times side by side: cases take turns, and a ratio is the median over repeats of the ratio within each repeat.

Also the memory that a process, or the tensors of a computation, take.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Seconds = dict[str, list[float]]


def alternate(cases: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True) -> Seconds:
    """Seconds of each case in each repeat; every repeat runs all cases one after the other."""
    if warm_up:
        for case in cases.values():
            case()
    seconds: Seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times faster one case is than another: median and range over repeats."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_digits(self.median)} [{_digits(self.low)}, {_digits(self.high)}]"


def ratio(seconds: Seconds, fast: str, slow: str, slow_share: float = 1.0) -> Ratio:
    """Speed of `fast` over `slow`; `slow` did only `slow_share` of the work that `fast` did."""
    each = np.array(seconds[slow]) / slow_share / np.array(seconds[fast])
    return Ratio(float(np.median(each)), float(each.min()), float(each.max()))


class PeakAnonymous:
    """The most anonymous memory (RssAnon, MB) of this process while the context lasts, read every 5 ms."""

    def __enter__(self) -> "PeakAnonymous":
        self.start_mb = self.peak_mb = _anonymous_mb()
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak_mb = max(self.peak_mb, _anonymous_mb())


class PeakTensors(TorchDispatchMode):
    """The most memory that tensors made in the context take at once, forward and backward; counted, not sampled."""

    def __init__(self) -> None:
        super().__init__()
        self._changes: list[tuple[int, int]] = []  # number of a storage, bytes that came (or went)
        self._numbers: dict[int, int] = {}  # of the storages that are there, by address

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in _tensors((args, kwargs))}
        made = op(*args, **(kwargs or {}))
        for value in _tensors(made):
            storage = value.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._numbers:
                self._came(storage)
        return made

    def peak_mb(self, without: Iterable[Tensor] = ()) -> float:
        """MB of 2^20 bytes; `without` these tensors, which must be there still."""
        left_out = {self._numbers.get(value.untyped_storage()._cdata) for value in without}
        changes = [change for number, change in self._changes if number not in left_out]
        return float(np.cumsum([0, *changes]).max()) / 2**20

    def _came(self, storage: torch.UntypedStorage) -> None:
        number, nbytes = len(self._changes), storage.nbytes()
        self._numbers[storage._cdata] = number
        self._changes.append((number, nbytes))
        finalize(storage, self._went, storage._cdata, number, nbytes)

    def _went(self, address: int, number: int, nbytes: int) -> None:
        del self._numbers[address]
        self._changes.append((number, -nbytes))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def drop_pages(files: list[Path]) -> None:
    """Drop files from the page cache, so that the next read comes from the disk."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _anonymous_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}"
