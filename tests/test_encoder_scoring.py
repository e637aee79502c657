"""Intervals of correlations against plain resampling, and what the scores of an encoder are written to."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, Measured
from neuralood.encoder import scoring
from neuralood.encoder.baselines.kept import keep_baselines, read_baselines
from neuralood.encoder.resampling import draw_counts, resampled_means
from neuralood.encoder.scores import pearson_columns
from neuralood.statistics import percentile_interval

N_IMAGES, V, S = 30, 7, 40


@pytest.fixture
def measured_fmri(rng):
    return (rng.standard_normal((N_IMAGES, V)) + 100).astype(np.float32)


@pytest.fixture
def predictions(rng, measured_fmri):
    return [(measured_fmri + noise * rng.standard_normal((N_IMAGES, V))).astype(np.float32) for noise in (0.5, 2.0)]


MEMBERS = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, 1]], bool)


@pytest.mark.parametrize("vertices", [1, 3, 100])
def test_resampled_means_are_those_of_plain_resampling(rng, predictions, measured_fmri, vertices):
    counts = draw_counts(N_IMAGES, S, rng)
    found = resampled_means(counts, predictions, measured_fmri, MEMBERS, vertices)
    assert found.shape == (2, S, 3)
    for number, predicted in enumerate(predictions):
        for sample, count in enumerate(counts):
            images = np.repeat(np.arange(N_IMAGES), count)
            r = [
                pearsonr(predicted[images, v].astype(float), measured_fmri[images, v].astype(float))[0]
                for v in range(V)
            ]
            expected = [np.mean(np.array(r)[inside]) for inside in MEMBERS]
            np.testing.assert_allclose(found[number, sample], expected, atol=1e-9)


def test_constants_score_0_in_a_resample_too(rng, predictions, measured_fmri):
    predicted = predictions[0]
    predicted[:, 2] = 0.1
    predicted[3, 5] = predicted[4, 5] = 0.7  # tied where only these two images are drawn
    counts = np.zeros((3, N_IMAGES), int)
    counts[0] = 1
    counts[1, 8] = N_IMAGES  # one image alone
    counts[2, [3, 4]] = N_IMAGES // 2
    found = resampled_means(counts, [predicted], measured_fmri, np.eye(V, dtype=bool), V)[0]
    np.testing.assert_allclose(found[0], pearson_columns(predicted, measured_fmri), atol=1e-9)
    np.testing.assert_array_equal(found[1], 0)
    assert found[2, 2] == found[2, 5] == 0
    assert (np.abs(np.delete(found[2], [2, 5])) > 0.99).all()  # two images lie on a line


def test_what_rounding_leaves_of_a_constant_is_no_correlation(rng):
    """Sums of equal numbers in other shares: the variance is some 1e-17, above or below 0, not 0."""
    for _ in range(200):
        predicted = np.append(np.full(7, rng.standard_normal()), rng.standard_normal(5))[:, None]
        counts = np.append(rng.multinomial(12, np.full(7, 1 / 7)), np.zeros(5, int))[None]
        found = resampled_means(counts, [predicted], rng.standard_normal((12, 1)), np.ones((1, 1), bool), 5)
        assert found.item() == 0


def test_resamples_are_drawn_with_replacement_from_all_images(rng):
    counts = draw_counts(N_IMAGES, 2000, rng)
    assert (counts.sum(axis=1) == N_IMAGES).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.15)
    assert counts.var() == pytest.approx(1 - 1 / N_IMAGES, abs=0.02)  # binomial


def test_an_interval_holds_95_percent():
    assert percentile_interval(np.arange(1001)) == (25, 975)


NAMES = ("lh.V1v", "rh.EBA", "rh.early-stream")


def subject(ceiling=True):
    """Seven vertices, the last in no ROI; of 60 images half are the test."""
    return Measured(
        fmri=None,
        split=np.repeat([TEST, TRAIN, VALIDATION], [N_IMAGES, 20, 10]).astype(np.int8),
        hemi=np.array([0, 0, 0, 1, 1, 1, 1], np.int8),
        roi=np.array([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0]], bool),
        ceiling=np.array([0.9, 0.8, 0.2, 0.7, 0.9, 0.1, 0.9], np.float32) if ceiling else None,
        fsaverage_vertex=None,
        roi_names=NAMES,
        source="simulated",
        subject="subj01",
        space="simulated",
        simulated=True,
        dataset="images",
        fingerprint="fmri",
        vertices_left_out=0,
        rois_left_out=(),
    )


@pytest.fixture
def scored(rng, project):
    """A function: score an encoder beside three baselines, of which ridge_gap is best on validation, not on test."""
    fmri = rng.standard_normal((60, V)).astype(np.float32)
    test, validation = np.arange(N_IMAGES), np.arange(50, 60)

    def noisy(on_validation, on_test):
        wanted = np.concatenate([validation, test])
        noise = np.repeat([on_validation, on_test], [10, N_IMAGES])[:, None] * rng.standard_normal((40, V))
        return (fmri[wanted] + noise).astype(np.float32)

    baselines = {"ridge": noisy(2, 0.7), "ridge_gap": noisy(0.5, 1), "factorised": noisy(0, 0.5)}
    predicted = noisy(1, 0.6)[10:]

    project.edit(**{"encoder.bootstrap": S})

    def score(measured):
        keep_baselines(baselines, measured)
        record = scoring.score_encoder(project.load(), predicted, measured, fmri)
        return record, predicted, {name: values[10:] for name, values in baselines.items()}, fmri[test]

    return score


def test_the_best_ridge_is_chosen_on_validation_and_compared_on_test(scored):
    record, predicted, baselines, truth = scored(subject())
    assert record["best_ridge"] == "ridge_gap"
    r, gap = pearson_columns(predicted, truth), pearson_columns(baselines["ridge_gap"], truth)
    for scores, inside in (
        (record, slice(None)),
        (record["groups"]["early"], [0, 1, 2]),
        (record["groups"]["high"], [3, 4]),
        (record["roi"]["rh.early-stream"], [4, 5]),
    ):
        assert scores["mean"]["r"] == pytest.approx(r[inside].mean(), abs=1e-6)
        assert scores["over_ridge"]["r"] == pytest.approx((r - gap)[inside].mean(), abs=1e-6)
        for key in ("mean", "over_ridge"):
            assert scores[key]["low"] < scores[key]["r"] < scores[key]["high"]


@pytest.mark.parametrize("changed", ["fingerprint", "dataset", "split"])
def test_baselines_of_another_fmri_images_or_split_are_refused(project, rng, changed):
    measured = subject()
    kept = {"ridge": rng.standard_normal((40, V)).astype(np.float32)}
    keep_baselines(kept, measured)
    np.testing.assert_array_equal(read_baselines(measured)["ridge"], kept["ridge"])
    split = np.where(measured.split == TRAIN, VALIDATION, measured.split).astype(np.int8)
    other = {"fingerprint": "other", "dataset": "other", "split": split}[changed]
    with pytest.raises(UserError, match=rf"{paths.ENCODER_BASELINES} is not of .*measured\.zarr as it is now"):
        read_baselines(replace(measured, **{changed: other}))


def test_the_interval_over_ridge_is_paired(rng, predictions, measured_fmri):
    """The same images are drawn for both: a model that is compared with itself differs by nothing."""
    record = {"groups": {}, "roi": {name: {} for name in NAMES}}
    counts, predicted = draw_counts(N_IMAGES, S, rng), predictions[0]
    scoring.add_intervals(record, subject(), counts, (predicted, 2 * predicted + 1), measured_fmri, 3)
    for scores in (record, record["roi"]["lh.V1v"]):
        assert scores["over_ridge"] == {"r": 0, "low": 0, "high": 0}
        assert scores["mean"]["low"] < scores["mean"]["high"]


def test_every_baseline_has_scores_of_its_own(scored):
    record, _, baselines, truth = scored(subject())
    assert set(record["baselines"]) == {"ridge", "ridge_gap", "factorised"}
    for name, scores in record["baselines"].items():
        r = pearson_columns(baselines[name], truth)
        assert scores["pearson"]["mean"] == pytest.approx(r.mean(), abs=1e-6)
        assert scores["groups"]["high"]["pearson"]["median"] == pytest.approx(np.median(r[[3, 4]]), abs=1e-6)
        assert scores["roi"]["lh.V1v"] == pytest.approx(np.median(r[:3]), abs=1e-6)
    assert record["ridge"]["pearson"] == record["baselines"]["ridge"]["pearson"]
    assert record["roi"]["rh.EBA"]["ridge"] == record["baselines"]["ridge"]["roi"]["rh.EBA"]
    assert (record["n_train"], record["n_test"], record["n_vertices"]) == (20, N_IMAGES, V)
    assert json.loads(paths.ENCODER_METRICS.read_text()) == record


def test_scores_of_single_vertices_are_kept(scored):
    measured = subject()
    record, predicted, baselines, truth = scored(measured)
    store = open_store(paths.ENCODER_VERTICES)
    r = pearson_columns(predicted, truth)
    np.testing.assert_allclose(store["pearson"][:], r, rtol=1e-6)
    np.testing.assert_array_equal(store["noise_ceiling"][:], measured.ceiling)
    expected = np.where(measured.ceiling > 0.2, r * np.abs(r) / measured.ceiling.astype(float) ** 2, np.nan)
    np.testing.assert_allclose(store["noise_normalised"][:], expected, rtol=1e-6)
    assert np.isnan(expected).sum() == 2  # 0.2 itself, as float32, is above 0.2
    for name, values in baselines.items():
        np.testing.assert_allclose(store[f"baseline_{name}"][:], pearson_columns(values, truth), rtol=1e-6)
    assert set(store.attributes["arrays"]) == set(store.arrays)
    assert store.attributes["simulated"] is True
    assert record["algonauts2023"]["mean"] > 0


def test_without_a_ceiling_nothing_is_divided_by_one(scored):
    record, *_ = scored(subject(ceiling=False))
    store = open_store(paths.ENCODER_VERTICES)
    assert {"algonauts2023", "fraction_of_ceiling"}.isdisjoint(record)
    assert "noise_ceiling" not in store
    assert np.isnan(store["noise_normalised"][:]).all()
    assert "over_ridge" in record["roi"]["lh.V1v"]
