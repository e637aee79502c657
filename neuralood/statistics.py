"""Paired bootstrap over source images: how sure one is of a difference in accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neuralood.base.store import Array

INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True)
class PairedResult:
    """Differences of one set: per image, seeds averaged (I), and the source image of each (I)."""

    difference: Array
    sources: tuple[str, ...]


def bootstrap_interval(
    sets: Mapping[str, PairedResult], resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the unweighted mean over sets of the mean difference.

    Source images are resampled; all versions of one, in whatever set, are drawn together. Sources that occur in
    the same sets form a stratum, so that every resample of a set has as many images as the set. Exact shortcut:
    sources with equal entries are interchangeable, so only how often each kind of entry is drawn is drawn.
    """
    sums, counts = _by_source(sets)
    totals = np.zeros((resamples, len(sets)))
    images = np.zeros((resamples, len(sets)))
    for pattern in np.unique(counts > 0, axis=0):
        inside = ((counts > 0) == pattern).all(axis=1)
        kinds, multiplicity = np.unique(np.hstack([sums[inside], counts[inside]]), axis=0, return_counts=True)
        drawn = rng.multinomial(inside.sum(), multiplicity / inside.sum(), size=resamples)
        totals += drawn @ kinds[:, : len(sets)]
        images += drawn @ kinds[:, len(sets) :]
    low, high = np.percentile((totals / images).mean(axis=1), INTERVAL)
    return float(low), float(high)


def _by_source(sets: Mapping[str, PairedResult]) -> tuple[Array, Array]:
    """Sum of differences and number of images of each source in each set: two arrays, sources x sets."""
    names = sorted({source for result in sets.values() for source in result.sources})
    row = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros((len(names), len(sets))), np.zeros((len(names), len(sets)))
    for column, result in enumerate(sets.values()):
        rows = np.array([row[source] for source in result.sources])
        np.add.at(sums[:, column], rows, result.difference)
        np.add.at(counts[:, column], rows, 1)
    return sums.round(9), counts
