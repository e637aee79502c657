"""Scores of predicted fMRI, and what the controls train on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from neuralood.encoder.controls import derangement, feature_fmri, shuffled_fmri
from neuralood.encoder.scores import (
    algonauts2023_score,
    fraction_of_ceiling,
    noise_normalised,
    pearson_columns,
    roi_scores,
    summary,
)


@pytest.fixture
def pair(rng):
    measured = rng.standard_normal((40, 6))
    return measured + rng.standard_normal((40, 6)), measured


def test_pearson_is_scipys_for_each_column(pair):
    r = pearson_columns(*pair)
    assert r.shape == (6,)
    for column in range(6):
        assert r[column] == pytest.approx(pearsonr(pair[0][:, column], pair[1][:, column]).statistic, abs=1e-12)


def test_pearson_is_numpys_in_float32(pair):
    r = pearson_columns(*(part.astype(np.float32) for part in pair))
    expected = [np.corrcoef(pair[0][:, column], pair[1][:, column])[0, 1] for column in range(6)]
    np.testing.assert_allclose(r, expected, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constants_score_0(pair, constant, dtype):
    predicted, measured = (part.astype(dtype) for part in pair)
    predicted[:, 2] = constant
    measured[:, 4] = constant
    r = pearson_columns(predicted, measured)
    assert r[2] == r[4] == 0.0
    assert (np.delete(r, [2, 4]) != 0).all()


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 2**31))
def test_pearson_does_not_change_by_scale_and_shift(scale, shift, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 12, 3))
    r = pearson_columns(a, b)
    np.testing.assert_allclose(pearson_columns(scale * a + shift, b), r, atol=1e-6)
    np.testing.assert_allclose(pearson_columns(-scale * a + shift, b), -r, atol=1e-6)
    np.testing.assert_allclose(pearson_columns(b, a), r, atol=1e-12)
    assert (np.abs(r) <= 1 + 1e-12).all()
    np.testing.assert_allclose(pearson_columns(a, a), 1.0)


R = np.array([0.3, 0.2, -0.4, 0.9, 0.1])
CEILING = np.array([0.6, 0.5, 0.8, 0.2, 0.0])


def test_fraction_of_ceiling_is_the_median_above_the_threshold():
    # above 0.2: 0.3/0.6, 0.2/0.5, -0.4/0.8; 0.2 itself does not count
    assert fraction_of_ceiling(R, CEILING, 0.2) == pytest.approx(0.4)
    assert fraction_of_ceiling(R, CEILING, 0.55) == pytest.approx(0.0)
    assert fraction_of_ceiling(R, CEILING, 0.9) is None


def test_noise_normalised_is_signed_and_squared():
    np.testing.assert_allclose(noise_normalised(R, CEILING, 0.2), [0.25, 0.16, -0.25, np.nan, np.nan])


def test_the_algonauts_score_divides_r_squared_by_a_ceiling_of_r_squared():
    # 100 * 0.09 / 0.36, 100 * 0.04 / 0.25, negative: 0, above its ceiling: 100, ceiling 0: 100
    assert algonauts2023_score(R, CEILING) == {"mean": (25 + 16 + 0 + 100 + 100) / 5, "median": 25}
    assert algonauts2023_score(np.array([-0.1, 0.0]), np.zeros(2)) == {"mean": 0, "median": 0}
    assert algonauts2023_score(np.array([0.5]), np.array([0.6], np.float32))["mean"] == pytest.approx(69.444, abs=1e-3)


def test_summary_is_what_the_metrics_hold():
    assert summary(R, R / 2, CEILING, 0.2) == {
        "pearson": {"mean": 0.22, "median": 0.2},
        "ridge": {"pearson": {"mean": 0.11, "median": 0.1}},
        "fraction_of_ceiling": 0.4,
        "noise_normalised": {"mean": round(0.16 / 3, 6), "median": 0.16},
    }


@pytest.mark.parametrize(("ceiling", "threshold"), [(None, 0.2), (CEILING, 0.9)])
def test_what_needs_a_ceiling_is_left_out_without_one(ceiling, threshold):
    assert set(summary(R, R, ceiling, threshold)) == {"pearson", "ridge"}


def test_roi_scores_are_medians_over_its_vertices():
    members = np.array([True, True, True, False, False])
    assert roi_scores(R, -R, CEILING, members) == {
        "n_vertices": 3,
        "pearson": 0.2,
        "ridge": -0.2,
        "noise_ceiling": 0.6,
    }
    assert "noise_ceiling" not in roi_scores(R, R, None, members)


@given(n=st.integers(2, 60), seed=st.integers(0, 2**31))
def test_derangement_is_a_permutation_without_a_fixed_point(n, seed):
    order = derangement(n, np.random.default_rng(seed))
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()
    np.testing.assert_array_equal(order, derangement(n, np.random.default_rng(seed)))


def test_nothing_to_derange(rng):
    assert len(derangement(0, rng)) == 0
    with pytest.raises(ValueError, match="one image cannot be deranged"):
        derangement(1, rng)


def test_every_derangement_of_three_is_drawn(rng):
    drawn = {tuple(derangement(3, rng).tolist()) for _ in range(50)}
    assert drawn == {(1, 2, 0), (2, 0, 1)}


def test_shuffled_fmri_exchanges_images_within_their_part_for_all_vertices_alike(rng):
    fmri = rng.standard_normal((20, 4))
    order = rng.permutation(20)
    train, validation, test = np.sort(order[:12]), np.sort(order[12:16]), np.sort(order[16:])
    kept = fmri.copy()
    shuffled = shuffled_fmri(fmri, [train, validation], rng)
    np.testing.assert_array_equal(fmri, kept)
    np.testing.assert_array_equal(shuffled[test], fmri[test])
    for part in (train, validation):
        came_from = [int(np.flatnonzero((fmri == row).all(axis=1))[0]) for row in shuffled[part]]
        assert sorted(came_from) == part.tolist()
        assert all(source != row for source, row in zip(came_from, part, strict=True))


def test_feature_fmri_has_the_ceiling_given(rng):
    features = rng.standard_normal((20_000, 8)).astype(np.float32) * 3 + 1
    ceiling = np.array([0.0, 0.2, 0.5, 0.9, 1.0], np.float32)
    train = np.arange(15_000)
    noisy = feature_fmri(features, train, ceiling, np.random.default_rng(5))
    signal = feature_fmri(features, train, np.ones(5, np.float32), np.random.default_rng(5))  # the same projections
    np.testing.assert_allclose(pearson_columns(noisy, signal), ceiling, atol=0.02)  # sd of r: 0.007
    np.testing.assert_allclose(noisy[train].std(axis=0), 1, atol=0.03)
    assert noisy.dtype == np.float32


def test_feature_fmri_without_noise_is_linear_in_the_features(rng):
    features = rng.standard_normal((50, 4)).astype(np.float32)
    signal = feature_fmri(features, np.arange(40), np.ones(3, np.float32), rng)
    design = np.column_stack([features, np.ones(50)])
    fitted = design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    np.testing.assert_allclose(signal, fitted, atol=1e-4)
    np.testing.assert_allclose(signal[:40].mean(axis=0), 0, atol=1e-5)


def test_feature_fmri_bears_a_feature_that_never_varies(rng):
    features = rng.standard_normal((30, 4)).astype(np.float32)
    features[:, 1] = 7.0
    assert np.isfinite(feature_fmri(features, np.arange(20), np.full(3, 0.5, np.float32), rng)).all()
