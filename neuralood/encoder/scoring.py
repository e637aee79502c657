"""From predicted fMRI of the test images to metrics/encoder.json and metrics/encoder.zarr: baselines and intervals."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from neuralood.base import paths
from neuralood.base.records import rounded, write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.base.writing import write_store
from neuralood.config import Params
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, Measured, vertices_of
from neuralood.encoder.baselines.kept import RIDGES, read_baselines
from neuralood.encoder.resampling import draw_counts, resampled_means
from neuralood.encoder.scores import (
    algonauts2023_score,
    encoder_scores,
    mean_and_median,
    noise_normalised,
    pearson_columns,
)
from neuralood.statistics import low_and_high

KIND = "scores of a brain encoder, a vertex"
ORDER = "vertices in the order of data/fmri/measured.zarr: lh, then rh"


def score_encoder(params: Params, predicted: Array, measured: Measured, fmri: Array) -> dict[str, Any]:
    """Score predicted fMRI of the test images, J V, beside all baselines; write metrics and arrays, return the metrics.

    fMRI: the measured one, I V, whatever the encoder was trained on. The best ridge is chosen on validation. Raises
    UserError where data/encoder_baselines.zarr is of another fMRI or split.
    """
    train, validation, test = (measured.rows(part) for part in (TRAIN, VALIDATION, TEST))
    baselines = read_baselines(measured)
    best = best_ridge({name: values[: len(validation)] for name, values in baselines.items()}, fmri[validation])

    truth, threshold = fmri[test], params.fmri.ceiling_threshold
    r = pearson_columns(predicted, truth)
    baseline_r = {name: pearson_columns(values[len(validation) :], truth) for name, values in baselines.items()}
    record = encoder_scores(r, baseline_r["ridge"], measured.ceiling, threshold, measured.roi_names, measured.roi)
    record |= {
        "data": measured.source,
        "subject": measured.subject,
        "n_train": len(train),
        "n_test": len(test),
        "baselines": {name: _baseline_scores(values, record, measured) for name, values in baseline_r.items()},
        "best_ridge": best,
        "vertices_left_out": measured.vertices_left_out,
        "rois_left_out": list(measured.rois_left_out),
    }
    if measured.ceiling is not None:
        record["algonauts2023"] = algonauts2023_score(r, measured.ceiling)
    counts = draw_counts(len(test), params.encoder.bootstrap, generator(params.seed, "encoder bootstrap"))
    compared = (predicted, baselines[best][len(validation) :])
    add_intervals(record, measured, counts, compared, truth, params.runtime.vertices_in_a_batch)

    write_vertex_scores(r, baseline_r, measured, threshold)
    write_json(paths.ENCODER_METRICS, record)
    return record


def best_ridge(predictions: Mapping[str, Array], measured: Array) -> str:
    """The ridge whose r on these images, mean over vertices, is highest; the first of equals."""
    means = {name: pearson_columns(predictions[name], measured).mean() for name in RIDGES if name in predictions}
    return max(means, key=lambda name: float(means[name]))


def add_intervals(
    record: dict[str, Any],
    measured: Measured,
    counts: Array,
    compared: tuple[Array, Array],
    truth: Array,
    vertices: int,
) -> None:
    """Put `mean` and `over_ridge` with 95 % intervals into the scores of all vertices, each group and each ROI.

    compared: predictions J V of the encoder and of the best ridge, for fMRI `truth` J V; counts: resamples of the
    images, S J, the same for both.
    """
    parts = list(_vertex_sets(record, measured))
    members = np.array([inside for _, inside in parts])
    means = resampled_means(counts, compared, truth, members, vertices)
    r, ridge_r = (pearson_columns(predicted, truth) for predicted in compared)
    for number, (scores, inside) in enumerate(parts):
        encoder, ridge = means[:, :, number]
        scores["mean"] = _with_interval(r[inside].mean(), encoder)
        scores["over_ridge"] = _with_interval((r - ridge_r)[inside].mean(), encoder - ridge)


def write_vertex_scores(r: Array, baseline_r: Mapping[str, Array], measured: Measured, threshold: float) -> None:
    """metrics/encoder.zarr: what the metrics sum up, a value a vertex."""
    ceiling = measured.ceiling
    unknown = np.full(len(r), np.nan)
    arrays = {
        "pearson": (r, "r of the encoder"),
        "noise_normalised": (
            unknown if ceiling is None else noise_normalised(r, ceiling, threshold),
            f"r |r| / noise_ceiling^2; NaN where noise_ceiling is {threshold:g} or below, or not known",
        ),
    }
    arrays |= {f"baseline_{name}": (values, f"r of the baseline {name}") for name, values in baseline_r.items()}
    if ceiling is not None:
        arrays["noise_ceiling"] = (ceiling, "the largest r that a perfect model can reach")
    attributes = {
        "kind": KIND,
        "vertices": ORDER,
        "arrays": {name: about for name, (_, about) in arrays.items()},
        "data": measured.source,
        "simulated": measured.simulated,
        "subject": measured.subject,
        "fmri": measured.fingerprint,
    }
    values = {name: one.astype(np.float32) for name, (one, _) in arrays.items()}
    write_store(paths.ENCODER_VERTICES, values, attributes, chunk=len(r))


def _baseline_scores(r: Array, record: dict[str, Any], measured: Measured) -> dict[str, Any]:
    names, roi = measured.roi_names, measured.roi
    return {
        "pearson": mean_and_median(r),
        "groups": {
            group: {"pearson": mean_and_median(r[vertices_of(group, names, roi)])} for group in record["groups"]
        },
        "roi": {name: rounded(np.median(r[inside])) for name, inside in zip(names, roi, strict=True)},
    }


def _vertex_sets(record: dict[str, Any], measured: Measured) -> Iterator[tuple[dict[str, Any], Array]]:
    """The scores of all vertices, of each group and of each ROI, and which vertices they are of, V bool."""
    names, roi = measured.roi_names, measured.roi
    yield record, np.ones(roi.shape[1], bool)
    for group, scores in record["groups"].items():
        yield scores, np.isin(np.arange(roi.shape[1]), vertices_of(group, names, roi))
    for name, inside in zip(names, roi, strict=True):
        yield record["roi"][name], inside


def _with_interval(value: float, resampled: Array) -> dict[str, float]:
    return {"r": rounded(value), **low_and_high(resampled)}
