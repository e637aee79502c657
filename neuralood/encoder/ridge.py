"""The baseline of every encoding paper: ridge regression on principal components of the tokens."""

import numpy as np
from himalaya.ridge import RidgeCV
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from neuralood.base.store import Array

ALPHAS = np.logspace(0, 6, 13)
"""Penalties that cross-validation chooses from, for each vertex."""

FOLDS = 5
TARGETS_IN_A_BATCH = 5_000
"""Vertices solved at once: bounds memory."""


def ridge_predictions(train: Array, fmri: Array, test: Array, components: int, seed: int) -> Array:
    """Predicted fMRI of the test images: train I F, fmri I V, test J F -> J V.

    Flattened tokens are standardised and reduced to `components` principal components or fewer, fitted on train;
    the penalty of each vertex is chosen by 5-fold cross-validation inside train.
    """
    scaler = StandardScaler()
    scaled = scaler.fit_transform(train)
    pca = PCA(min(components, *train.shape), svd_solver="randomized", random_state=seed % 2**32)
    model = RidgeCV(
        alphas=ALPHAS,
        cv=FOLDS,
        fit_intercept=True,
        solver_params={"n_targets_batch": TARGETS_IN_A_BATCH, "warn": False},
    )
    model.fit(pca.fit_transform(scaled), fmri)
    predicted: Array = model.predict(pca.transform(scaler.transform(test)))
    return predicted
