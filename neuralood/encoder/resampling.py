"""How sure one is of a mean correlation: a bootstrap over images, every vertex's r made anew in each resample."""

from collections.abc import Sequence

import numpy as np

from neuralood.base.store import Array
from neuralood.encoder.scores import SMALLEST_SD

ROUNDING = 1e-12
"""A variance that is a smaller share of its second moment is what rounding left of 0."""


def draw_counts(images: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each image is drawn in each resample: S I, rows that sum to I."""
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_means(
    counts: Array, predictions: Sequence[Array], measured: Array, members: Array, vertices: int
) -> Array:
    """Mean r over the vertices of each set, in each resample: P S K.

    counts S I, P predictions I V, measured I V, members K V (bool, a set of vertices a row). The same resamples serve
    all predictions, so that their differences are paired. `vertices` are worked on at a time: about ten arrays of
    S x vertices float64.
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    means = np.zeros((len(predictions), len(counts), len(members)))
    for start in range(0, measured.shape[1], vertices):
        batch = slice(start, start + vertices)
        share = members[:, batch].T / members.sum(axis=1)
        for number, r in enumerate(_resampled_r(weights, [one[:, batch] for one in predictions], measured[:, batch])):
            means[number] += r @ share
    return means


def _resampled_r(weights: Array, predictions: Sequence[Array], measured: Array) -> list[Array]:
    """Pearson r of each column in each resample, from weighted moments: weights S I -> S V for each prediction."""
    y = _centred(measured)
    y_mean, y_sd = _mean_and_sd(weights, y)
    found = []
    for predicted in predictions:
        x = _centred(predicted)
        x_mean, x_sd = _mean_and_sd(weights, x)
        constant = x_sd * y_sd < SMALLEST_SD**2
        found.append(
            np.where(constant, 0.0, (weights @ (x * y) - x_mean * y_mean) / np.where(constant, 1.0, x_sd * y_sd))
        )
    return found


def _centred(values: Array) -> Array:
    """Less the mean of each column, float64: moments about 0 then lose no digits."""
    centred: Array = values - values.mean(axis=0, dtype=np.float64)
    return centred


def _mean_and_sd(weights: Array, values: Array) -> tuple[Array, Array]:
    mean: Array = weights @ values
    square: Array = weights @ values**2
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance < ROUNDING * square, 0, variance))
