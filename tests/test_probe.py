"""The linear probe: scikit-learn's logistic regression, its penalty chosen on the holdout."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralood.fusion.probe import MAX_ITERATIONS, TOLERANCE, Probe, fit_probe

ROWS, HOLDOUT = np.arange(0, 90), np.arange(90, 120)


def draw(rng, classes, noise=1.5):
    """Blobs: features I F of very different scales, labels I."""
    labels = np.tile(np.arange(classes), 120 // classes + 1)[:120]
    centres = rng.standard_normal((classes, 6))
    features = (centres[labels] + noise * rng.standard_normal((120, 6))) * 10.0 ** np.arange(-2, 4) + 5
    return features.astype(np.float32), labels


def sklearns(features, labels, c):
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    return make_pipeline(StandardScaler(), model).fit(features[ROWS], labels[ROWS])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_are_scikit_learns(rng, classes):
    features, labels = draw(rng, classes)
    probe = fit_probe(features, labels, ROWS, HOLDOUT, (0.3,))
    expected = sklearns(features, labels, 0.3).predict_proba(features)
    logits = probe.logits(features)
    assert logits.shape == (120, classes)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=2e-3)  # both stop at a tolerance


@pytest.mark.parametrize("classes", [2, 4])
def test_the_strength_of_lowest_holdout_cross_entropy_is_chosen(rng, classes):
    features, labels = draw(rng, classes, noise=2.5)
    strengths = (100.0, 1e-4, 0.01, 1.0)
    losses = {
        c: log_loss(labels[HOLDOUT], sklearns(features, labels, c).predict_proba(features[HOLDOUT])) for c in strengths
    }
    assert len(set(losses.values())) == 4
    probe = fit_probe(features, labels, ROWS, HOLDOUT, strengths)
    assert probe.c == min(losses, key=losses.get)
    own = -log_softmax(probe.logits(features[HOLDOUT]), axis=1)[np.arange(30), labels[HOLDOUT]].mean()
    assert own == pytest.approx(min(losses.values()), abs=1e-4)


@pytest.mark.parametrize("strengths", [(10.0, 0.1, 1.0), (0.1, 1.0, 10.0)])
def test_ties_go_to_the_smaller_model(strengths):
    """Features that never vary: every strength gives the same probabilities."""
    labels = np.tile([0, 1, 2], 40)
    assert fit_probe(np.ones((120, 3), np.float32), labels, ROWS, HOLDOUT, strengths).c == 0.1


def test_only_training_rows_are_fitted_and_scaled_by(rng):
    features, labels = draw(rng, 3)
    changed = features.copy()
    changed[HOLDOUT] = 1e3 * features[HOLDOUT][::-1]
    one, other = (fit_probe(part, labels, ROWS, HOLDOUT, (1.0,)) for part in (features, changed))
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_allclose(one.mean, features[ROWS].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(one.sd, features[ROWS].std(axis=0), rtol=1e-5)


def test_same_data_same_probe(rng):
    features, labels = draw(rng, 3)
    one, other = (fit_probe(features, labels, ROWS, HOLDOUT, (0.1, 1.0)) for _ in range(2))
    assert one.weight.tobytes() == other.weight.tobytes()


def test_logits_by_hand():
    probe = Probe(
        np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([0.0, 3.0]), 1.0
    )
    np.testing.assert_allclose(probe.logits(np.array([[3.0, 6.0]])), [[1.0, 5.5]])
