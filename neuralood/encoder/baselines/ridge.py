"""Ridge regression on features of the images, one penalty a vertex: the baseline of every encoding paper."""

from typing import NamedTuple

import numpy as np
import torch
from himalaya.ridge import RidgeCV

from neuralood.base.reading import PREDICT_BATCH, batches, patch_batch
from neuralood.base.store import Array, Store
from neuralood.encoder.baselines.components import SMALLEST_SD

ALPHAS = np.logspace(0, 6, 13)
"""Penalties that cross-validation chooses from, for each vertex."""

FOLDS = 5


class RidgePrediction(NamedTuple):
    """Predicted fMRI, and how far off it was in cross-validation."""

    fmri: Array
    """Of the images wanted, W V."""
    loss: Array
    """Mean squared error inside train at the penalty chosen, V."""


def ridge_predictions(features: Array, train: Array, fmri: Array, wanted: Array, vertices: int) -> RidgePrediction:
    """Ridge from features I F, fitted on fMRI of the rows `train`, T V, for the rows `wanted`, W.

    The penalty of each vertex is chosen by 5-fold cross-validation inside train; `vertices` are solved at a time.
    """
    model = RidgeCV(
        alphas=ALPHAS,
        cv=FOLDS,
        fit_intercept=True,
        solver_params={"n_targets_batch": vertices, "warn": False},
    )
    model.fit(features[train], fmri)
    return RidgePrediction(model.predict(features[wanted]), -model.cv_scores_)


def pooled_features(tokens: Store, train: Array) -> Array:
    """The mean patch token (GAP) of each image, layers side by side, standardised on the rows `train`: I (L D)."""
    rows = np.arange(len(tokens["patches"]))
    parts = [patch_batch(tokens, batch, torch.device("cpu")).mean(dim=1) for batch in batches(rows, PREDICT_BATCH)]
    pooled: Array = torch.cat(parts).numpy()
    pooled -= pooled[train].mean(axis=0)
    pooled /= np.maximum(pooled[train].std(axis=0), SMALLEST_SD)
    return pooled
