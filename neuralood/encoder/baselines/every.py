"""All baselines of a brain encoder, fitted to the measured fMRI on the same tokens and split."""

import numpy as np
import torch

from neuralood.base.device import prepare_torch
from neuralood.base.seeding import generator
from neuralood.base.store import Array, Store
from neuralood.config import Params
from neuralood.data.fmri import TEST
from neuralood.encoder.baselines.banded import banded_predictions
from neuralood.encoder.baselines.components import layer_kernels, principal_components
from neuralood.encoder.baselines.factorised import factorised_predictions
from neuralood.encoder.baselines.kept import keep_baselines
from neuralood.encoder.baselines.ridge import pooled_features, ridge_predictions
from neuralood.encoder.viewers import first_viewer


def fit_baselines(params: Params) -> None:
    """Tokens of nsd and data/fmri/measured.zarr -> data/encoder_baselines.zarr.

    They predict the measured fMRI, whatever `encoder.control` trains the encoder on. Raises UserError where tokens and
    fMRI are of different images.
    """
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    viewer = first_viewer(params)
    parts, wanted = (viewer.train, viewer.validation), np.concatenate([viewer.validation, viewer.measured.rows(TEST)])
    predicted = baseline_predictions(params, viewer.tokens, viewer.fmri, parts, wanted, device)
    keep_baselines(predicted, viewer.measured)


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
