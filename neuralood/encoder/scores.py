"""How well fMRI is predicted: Pearson r a vertex, against the noise ceiling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from neuralood.base.records import rounded
from neuralood.base.store import Array
from neuralood.data.fmri import present_groups, vertices_of

SMALLEST_SD = 1e-5
"""Where predicted and measured fMRI vary less, in the geometric mean of both, r is 0: a constant."""

SMALLEST_CEILING = 1e-14
"""What the Algonauts 2023 score divides by where the ceiling, of r^2, is 0."""


def pearson_columns(predicted: Array, measured: Array) -> Array:
    """Pearson r of each column: predicted I V, measured I V -> V. A constant column scores 0."""
    a = predicted - predicted.mean(axis=0, dtype=np.float64)
    b = measured - measured.mean(axis=0, dtype=np.float64)
    norms = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    constant = norms < SMALLEST_SD**2 * len(a)
    r: Array = np.where(constant, 0.0, (a * b).sum(axis=0) / np.where(constant, 1.0, norms))
    return r


def fraction_of_ceiling(r: Array, ceiling: Array, threshold: float) -> float | None:
    """Median over vertices with a ceiling above `threshold` of r / c; None where there is no such vertex."""
    counted = ceiling > threshold
    return float(np.median(r[counted] / ceiling[counted])) if counted.any() else None


def noise_normalised(r: Array, ceiling: Array, threshold: float) -> Array:
    """r |r| / c^2 of each vertex, V: share of the explainable variance, signed. NaN up to the ceiling `threshold`."""
    counted = ceiling > threshold
    normalised = np.full(len(r), np.nan)
    normalised[counted] = r[counted] * np.abs(r[counted]) / ceiling[counted] ** 2
    return normalised


def algonauts2023_score(r: Array, ceiling: Array) -> dict[str, float]:
    """Percent of the explainable variance, over all vertices: mean and median of 100 r^2 / c^2, at most 100 each.

    A negative r counts as 0. The challenge's ceiling is of r^2: ours, c of r, is squared. Its code
    (github.com/gifale95/algonauts_2023, 03_test_encoding.py) gives values a vertex; whether its leaderboard showed
    their mean or their median is told differently.
    """
    explained = 100 * np.maximum(r, 0) ** 2 / np.maximum(ceiling.astype(np.float64) ** 2, SMALLEST_CEILING)
    return mean_and_median(np.minimum(explained, 100))


def encoder_scores(
    r: Array, ridge_r: Array | None, ceiling: Array | None, threshold: float, roi_names: Sequence[str], roi: Array
) -> dict[str, Any]:
    """Scores of all vertices, of the groups early and high, and of each ROI (roi: R V), as in metrics/encoder.json."""

    def of(values: Array | None, members: Array) -> Array | None:
        return None if values is None else values[members]

    record = summary(r, ridge_r, ceiling, threshold) | {"n_vertices": len(r), "groups": {}}
    for group in ("early", "high"):
        if group in present_groups(roi_names):
            members = vertices_of(group, roi_names, roi)
            record["groups"][group] = summary(r[members], of(ridge_r, members), of(ceiling, members), threshold)
    record["roi"] = {
        name: roi_scores(r, ridge_r, ceiling, members) for name, members in zip(roi_names, roi, strict=True)
    }
    return record


def summary(r: Array, ridge_r: Array | None, ceiling: Array | None, threshold: float) -> dict[str, Any]:
    """Scores of a set of vertices; what needs a ceiling, or the ridge baseline, is left out where none is known."""
    scores: dict[str, Any] = {"pearson": mean_and_median(r)}
    if ridge_r is not None:
        scores["ridge"] = {"pearson": mean_and_median(ridge_r)}
    fraction = None if ceiling is None else fraction_of_ceiling(r, ceiling, threshold)
    if ceiling is not None and fraction is not None:
        scores["fraction_of_ceiling"] = rounded(fraction)
        normalised = noise_normalised(r, ceiling, threshold)
        scores["noise_normalised"] = mean_and_median(normalised[~np.isnan(normalised)])
    return scores


def roi_scores(r: Array, ridge_r: Array | None, ceiling: Array | None, members: Array) -> dict[str, Any]:
    """Medians over the vertices of one ROI."""
    scores = {"n_vertices": int(np.count_nonzero(members)), "pearson": rounded(np.median(r[members]))}
    if ridge_r is not None:
        scores["ridge"] = rounded(np.median(ridge_r[members]))
    if ceiling is not None:
        scores["noise_ceiling"] = rounded(np.median(ceiling[members]))
    return scores


def mean_and_median(values: Array) -> dict[str, float]:
    """Mean and median over vertices, V."""
    return {"mean": rounded(values.mean()), "median": rounded(np.median(values))}
