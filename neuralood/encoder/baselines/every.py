"""All baselines of a brain encoder, fitted to the measured fMRI on the same tokens and split."""

import numpy as np
import torch

from neuralood.base.seeding import generator
from neuralood.base.store import Array, Store
from neuralood.config import Params
from neuralood.encoder.baselines.banded import banded_predictions
from neuralood.encoder.baselines.components import layer_kernels, principal_components
from neuralood.encoder.baselines.factorised import factorised_predictions
from neuralood.encoder.baselines.ridge import pooled_features, ridge_predictions

RIDGES = ("ridge", "ridge_gap", "banded_ridge")
"""Those that an encoder has to beat: the best of them on validation is the one it is compared with."""


def baseline_predictions(
    params: Params, tokens: Store, fmri: Array, parts: tuple[Array, Array], wanted: Array, device: torch.device
) -> dict[str, Array]:
    """Predicted fMRI of the images `wanted`, W V float32, of each baseline.

    fMRI: I V; parts: rows of train and validation, of which ridges see train only. `banded_ridge` is there where
    tokens have several layers.
    """
    settings, train, vertices = params.encoder, parts[0], params.runtime.vertices_in_a_batch
    measured = fmri[train]
    kernels = list(layer_kernels(tokens, train, params.runtime.patches_in_a_block))
    whole = principal_components(sum(kernels[1:], kernels[0]), train, settings.ridge_components)
    predicted = {
        "ridge": ridge_predictions(whole, train, measured, wanted, vertices).fmri,
        "ridge_gap": ridge_predictions(pooled_features(tokens, train), train, measured, wanted, vertices).fmri,
    }
    if len(kernels) > 1:
        predicted["banded_ridge"] = banded_predictions(
            kernels,
            train,
            measured,
            wanted,
            components=settings.ridge_components,
            samples=settings.banded_samples,
            vertices=vertices,
            rng=generator(params.seed, "banded ridge"),
        ).fmri
    predicted["factorised"] = factorised_predictions(
        tokens, parts, fmri, wanted, settings=settings, vertices=vertices, seed=params.seed, device=device
    )
    return {name: values.astype(np.float32, copy=False) for name, values in predicted.items()}
