"""How sure one is of a difference in accuracy: over images, over seeds, over several questions at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import asin, sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit  # scipy.stats has the same, and takes two seconds to import

from neuralood.base.records import rounded
from neuralood.base.store import Array


@dataclass(frozen=True)
class PairedResult:
    """Differences of one set: per image, seeds averaged (I), and the source image of each (I)."""

    difference: Array
    sources: tuple[str, ...]


def bootstrap_interval(
    sets: Mapping[str, PairedResult], resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the unweighted mean over sets of the mean difference."""
    return percentile_interval(bootstrap_means(sets, resamples, rng))


def bootstrap_means(sets: Mapping[str, PairedResult], resamples: int, rng: np.random.Generator) -> Array:
    """The unweighted mean over sets of the mean difference in each resample of the source images: one a resample.

    All versions of a source image, in whatever set, are drawn together. Sources that occur in the same sets form a
    stratum, so that every resample of a set has as many images as the set. Exact shortcut: sources with equal entries
    are interchangeable, so only how often each kind of entry is drawn is drawn.
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
    means: Array = (totals / images).mean(axis=1)
    return means


def percentile_interval(means: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of resampled values."""
    tail = round(50 * (1 - level), 9)  # percent
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(low), float(high)


def low_and_high(values: Array) -> dict[str, float]:
    """95 % percentile interval of resampled values, those that are undefined (NaN) left out, as records have it."""
    low, high = percentile_interval(values[np.isfinite(values)])
    return {"low": rounded(low), "high": rounded(high)}


def bootstrap_p(means: Array) -> float:
    """Two-sided p of no difference: the smallest alpha whose percentile interval leaves 0 out.

    One resample beyond 0 is counted in, so that it is never 0 (Davison & Hinkley 1997, section 4.2).
    """
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return min(1.0, 2 * (beyond + 1) / (len(means) + 1))


def seed_interval(per_seed: Sequence[float]) -> tuple[float, float] | None:
    """95 % t interval of the mean over seeds, each trained anew; None for one seed, which says nothing of others."""
    if len(per_seed) < 2:
        return None
    half = stdtrit(len(per_seed) - 1, 0.975) * np.std(per_seed, ddof=1) / sqrt(len(per_seed))
    return float(np.mean(per_seed) - half), float(np.mean(per_seed) + half)


class McNemar(NamedTuple):
    """Images that only the one classifier has right, and only the other; the exact two-sided p that both are equal."""

    only_one: int
    only_other: int
    p: float


def mcnemar(one: Array, other: Array) -> McNemar:
    """Exact test of two classifiers on the images of one set (McNemar 1947): correct I, I bool.

    Images are taken to be independent: of several versions of one photograph they are not, and p is then too small.
    """
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    p = min(1.0, 2 * float(bdtr(min(only_one, only_other), only_one + only_other, 0.5)))  # Binomial, symmetric
    return McNemar(only_one, only_other, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979), in the order given: the family's error rate is kept."""
    count, corrected, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, (count - rank) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def holm_levels(p_values: Sequence[float], level: float = 0.95) -> list[float]:
    """The level of the interval that decides on each of several questions, as Holm's steps take them.

    The smallest p has the widest interval, 1 - alpha / m, the largest p that of `level`. All intervals lie off 0 if
    and only if all corrected p are below alpha.
    """
    levels, count = [level] * len(p_values), len(p_values)
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        levels[place] = 1 - (1 - level) / (count - rank)
    return levels


def cohens_h(one: float, other: float) -> float:
    """Effect size of two shares, 2 asin sqrt(p) - 2 asin sqrt(q) (Cohen 1988, chapter 6): 0.2 small, 0.5, 0.8 large."""
    return 2 * asin(sqrt(one)) - 2 * asin(sqrt(other))


def smallest_gain(means: Array, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that so many images show with this probability, in the unit of resampled `means`.

    (z(1 - alpha/2) + z(power)) x the bootstrap's standard error: of a normal two-sided test.
    """
    return float((ndtri(1 - alpha / 2) + ndtri(power)) * np.std(means))


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
