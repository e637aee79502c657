"""Banded ridge: one penalty a layer and vertex (Nunez-Elizalde, Huth and Gallant 2019, NeuroImage 197)."""

from collections.abc import Sequence

import numpy as np

from neuralood.base.store import Array
from neuralood.encoder.baselines.components import principal_components
from neuralood.encoder.baselines.ridge import RidgePrediction, ridge_predictions


def banded_predictions(
    kernels: Sequence[Array],
    train: Array,
    fmri: Array,
    wanted: Array,
    *,
    components: int,
    samples: int,
    vertices: int,
    rng: np.random.Generator,
) -> RidgePrediction:
    """Ridge from several layers, each scaled: kernels I T (`layer_kernels`), fMRI of the rows `train` T V, rows wanted.

    A layer scaled by sqrt(w) is penalised by alpha / w. Each vertex takes, by 5-fold cross-validation inside train, the
    best of `samples` sets of scales w that sum to the number of layers: equal ones, which is plain ridge, then random
    ones (Dupre la Tour et al. 2022, NeuroImage 264: Dirichlet). Features are reduced to `components` principal
    components after scaling.
    """
    best = RidgePrediction(np.zeros((len(wanted), fmri.shape[1]), np.float32), np.full(fmri.shape[1], np.inf))
    for scales in layer_scales(len(kernels), samples, rng):
        kernel = sum(scale * kernel for scale, kernel in zip(scales, kernels, strict=True))
        found = ridge_predictions(principal_components(kernel, train, components), train, fmri, wanted, vertices)
        better = found.loss < best.loss
        best.fmri[:, better], best.loss[better] = found.fmri[:, better], found.loss[better]
    return best


def layer_scales(layers: int, samples: int, rng: np.random.Generator) -> Array:
    """`samples` rows of a scale for each layer that sum to the number of layers: equal ones first, then random."""
    drawn = rng.dirichlet(np.ones(layers), samples - 1)
    return layers * np.vstack([np.full(layers, 1 / layers), drawn])
