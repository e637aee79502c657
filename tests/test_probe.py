"""The linear probe: equal to scikit-learn's logistic regression, its penalty chosen on the holdout."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralood.fusion import probe as probe_module
from neuralood.fusion.probe import MAX_ITERATIONS, TOLERANCE, Probe, Split, fit_probes

TOLERANCE_OF_PARITY = 2e-3
"""In probabilities: both solvers stop where no derivative is above TOLERANCE, on different ways."""
ROWS, HOLDOUT = np.arange(0, 90), np.arange(90, 120)


def draw(rng, classes, noise=1.5):
    """Blobs: features I F of very different scales, labels I."""
    labels = np.tile(np.arange(classes), 120 // classes + 1)[:120]
    centres = rng.standard_normal((classes, 6))
    features = (centres[labels] + noise * rng.standard_normal((120, 6))) * 10.0 ** np.arange(-2, 4) + 5
    return features.astype(np.float32), labels


def split_of(features, rows=ROWS, holdout=HOLDOUT):
    chosen = torch.from_numpy(features[rows]).double()
    return Split(rows, holdout, chosen.mean(0).float(), chosen.std(0, correction=0).float())


def fit_probe(features, labels, strengths):
    (probe,) = fit_probes(features, labels, [split_of(features)], strengths, torch.device("cpu"))
    return probe


def sklearns(features, labels, c):
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    return make_pipeline(StandardScaler(), model).fit(features[ROWS], labels[ROWS])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_are_scikit_learns(rng, classes):
    features, labels = draw(rng, classes)
    probe = fit_probe(features, labels, (0.3,))
    expected = sklearns(features, labels, 0.3).predict_proba(features)
    logits = probe.logits(features)
    assert logits.shape == (120, classes)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=TOLERANCE_OF_PARITY)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_strength_of_lowest_holdout_cross_entropy_is_chosen(rng, classes):
    features, labels = draw(rng, classes, noise=2.5)
    strengths = (100.0, 1e-4, 0.01, 1.0)
    losses = {
        c: log_loss(labels[HOLDOUT], sklearns(features, labels, c).predict_proba(features[HOLDOUT])) for c in strengths
    }
    assert len(set(losses.values())) == 4
    probe = fit_probe(features, labels, strengths)
    assert probe.c == min(losses, key=losses.get)
    own = -log_softmax(probe.logits(features[HOLDOUT]), axis=1)[np.arange(30), labels[HOLDOUT]].mean()
    assert own == pytest.approx(min(losses.values()), abs=1e-4)


@pytest.mark.parametrize("strengths", [(10.0, 0.1, 1.0), (0.1, 1.0, 10.0)])
def test_ties_go_to_the_smaller_model(strengths):
    """Features that never vary: every strength gives the same probabilities."""
    labels = np.tile([0, 1, 2], 40)
    assert fit_probe(np.ones((120, 3), np.float32), labels, strengths).c == 0.1


def test_only_training_rows_are_fitted_and_scaled_by(rng):
    features, labels = draw(rng, 3)
    changed = features.copy()
    changed[HOLDOUT] = 1e3 * features[HOLDOUT][::-1]
    one, other = (fit_probe(part, labels, (1.0,)) for part in (features, changed))
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_allclose(one.mean, features[ROWS].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(one.sd, features[ROWS].std(axis=0), rtol=1e-5)


def test_same_data_same_probe(rng):
    features, labels = draw(rng, 3)
    one, other = (fit_probe(features, labels, (0.1, 1.0)) for _ in range(2))
    assert one.weight.tobytes() == other.weight.tobytes()


def objective(scaled, labels, weight, bias, c):
    """Mean cross-entropy + ||weight||^2 / (2 c n)."""
    log_odds = log_softmax(scaled @ weight.T.astype(float) + bias, axis=1)[np.arange(len(labels)), labels]
    return -log_odds.mean() + (weight.astype(float) ** 2).sum() / (2 * c * len(labels))


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize(("tolerance", "parity"), [(1e-5, 5e-3), (1e-7, 1e-3)])
def test_parity_with_scikit_learn_on_many_features_and_classes(rng, monkeypatch, c, tolerance, parity):
    monkeypatch.setattr(probe_module, "TOLERANCE", tolerance)
    labels = np.tile(np.arange(12), 100)
    features = (0.5 * rng.standard_normal((12, 60))[labels] + rng.standard_normal((1200, 60))).astype(np.float32)
    rows, holdout = np.arange(1100), np.arange(1100, 1200)
    (probe,) = fit_probes(features, labels, [split_of(features, rows, holdout)], [c], torch.device("cpu"))
    scaled = StandardScaler().fit(features[rows].astype(float)).transform(features.astype(float))
    expected = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=tolerance).fit(scaled[rows], labels[rows])
    own = softmax(probe.logits(features), axis=1)
    np.testing.assert_allclose(own, expected.predict_proba(scaled), atol=parity)
    ours = objective(scaled[rows], labels[rows], probe.weight, probe.bias, c)
    theirs = objective(scaled[rows], labels[rows], expected.coef_, expected.intercept_, c)
    assert abs(ours - theirs) < 1e-6  # nats an image; where it is flat, probabilities differ and this does not


def test_probes_solved_together_are_those_solved_alone(rng):
    features, labels = draw(rng, 3)
    splits = [split_of(features), split_of(features, np.arange(30, 120), np.arange(30))]
    together = fit_probes(features, labels, splits, (0.01, 1.0), torch.device("cpu"))
    for split, probe in zip(splits, together, strict=True):
        (alone,) = fit_probes(features, labels, [split], (0.01, 1.0), torch.device("cpu"))
        assert probe.c == alone.c
        np.testing.assert_allclose(probe.weight, alone.weight, rtol=1e-4, atol=1e-5)


def test_batches_of_any_size_give_the_same_probe(rng, monkeypatch):
    features, labels = draw(rng, 3)
    whole = fit_probe(features, labels, (1.0,))
    monkeypatch.setattr(probe_module, "BATCH", 7)
    np.testing.assert_allclose(fit_probe(features, labels, (1.0,)).weight, whole.weight, rtol=1e-4, atol=1e-5)


def test_a_pass_over_the_features_serves_all_probes(rng):
    """Ten strengths and two seeds read the features hardly more often than the slowest of them alone."""
    features, labels = draw(rng, 3)
    strengths = np.geomspace(1e-4, 10, 10).tolist()
    splits = [split_of(features), split_of(features, np.arange(30, 120), np.arange(30))]

    def reads(splits, strengths):
        counted = Counted(features)
        fit_probes(counted, labels, splits, strengths, torch.device("cpu"))
        return counted.reads

    alone = max(reads(splits[:1], [c]) for c in strengths)
    assert reads(splits, strengths) <= 2 * (alone + 5)  # two splits: each reads its own rows of a batch


class Counted:
    """Features that count how often they are read."""

    def __init__(self, values):
        self.values, self.shape, self.reads = values, values.shape, 0

    def __getitem__(self, rows):
        self.reads += 1
        return self.values[rows]


def test_a_probe_that_was_not_reached_is_said(rng, monkeypatch, capsys):
    features, labels = draw(rng, 3)
    monkeypatch.setattr(probe_module, "MAX_ITERATIONS", 1)
    fit_probe(features, labels, (1.0,))
    assert "a linear probe stopped before its gradient was below 1e-05" in capsys.readouterr().err


def test_logits_by_hand():
    probe = Probe(
        np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([0.0, 3.0]), 1.0
    )
    np.testing.assert_allclose(probe.logits(np.array([[3.0, 6.0]])), [[1.0, 5.5]])
