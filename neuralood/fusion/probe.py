"""The linear probe: multinomial logistic regression on the same tokens, as strong as its penalty can make it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neuralood.base.store import Array

MAX_ITERATIONS = 2_000
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Probe:
    """features I F -> logits: standardised by `mean` and `sd` (F), times `weight` (C F), plus `bias` (C)."""

    mean: Array
    sd: Array
    weight: Array
    bias: Array
    c: float

    def logits(self, features: Array) -> Array:
        """features I F -> I C."""
        scaled: Array = ((features - self.mean) / self.sd) @ self.weight.T + self.bias
        return scaled


def fit_probe(features: Array, labels: Array, rows: Array, holdout: Array, strengths: tuple[float, ...]) -> Probe:
    """Fit on `rows`; of the inverse penalties in `strengths`, the one with the lowest cross-entropy on `holdout`.

    Of equals the stronger penalty wins. features I F, labels I; every class has a training row.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and not needed to use a probe
    from sklearn.metrics import log_loss

    mean, sd = features[rows].mean(axis=0), np.maximum(features[rows].std(axis=0), 1e-6)
    scaled = (features - mean) / sd
    best: tuple[float, Any] | None = None
    for c in sorted(strengths):
        model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        model.fit(scaled[rows], labels[rows])
        loss = log_loss(labels[holdout], model.predict_proba(scaled[holdout]), labels=model.classes_)
        if best is None or loss < best[0]:
            best = loss, model
    assert best is not None
    weight, bias = _softmax_form(best[1])
    return Probe(mean, sd, weight, bias, best[1].C)


def _softmax_form(model: Any) -> tuple[Array, Array]:
    """Weights C F and biases C; for two classes scikit-learn keeps only the second's."""
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    return weight.astype(np.float32), bias.astype(np.float32)
