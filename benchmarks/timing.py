"""Times side by side: cases take turns, and a ratio is the median over repeats of the ratio within each repeat."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import numpy as np

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
