"""Predicted fMRI: the frozen brain encoder on the tokens of any image set. No scanner is needed here."""

from typing import Any

import numpy as np

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.store import ArraySpec, complete_store, create_store, open_store
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.encoder.trained import load_encoder, predict, require_recipe


def synthesize(params: Params, set_name: str) -> None:
    """data/tokens/SET.zarr -> data/fmri/SET.zarr: `fmri` I V, raw, in the units of the measured fMRI.

    Raises UserError for tokens of another grid, layer, pooling or weights than the encoder was trained on.
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    tokens, (model, record) = open_store(paths.tokens(set_name)), load_encoder()
    require_recipe(tokens, record)
    dataset = read_manifest(set_name).fingerprint
    if tokens.attributes["dataset"] != dataset:
        raise UserError(f"{tokens.path} is of other images than {paths.manifest(set_name)}: run `dvc repro`")
    count, vertices = len(tokens["patches"]), model.membership.shape[1]
    final = paths.predicted_fmri(set_name)
    partial = paths.partial(final)
    spec = ArraySpec((count, vertices), params.cache.dtype, params.cache.chunk)
    attributes = {
        "kind": "predicted fMRI",
        "source": record["source"],
        "control": record["control"],
        "encoder": record["fingerprint"],
        "dataset": dataset,
    }
    group: Any = create_store(partial, {"fmri": spec}, attributes)
    model.to(device)
    starts = range(0, count, params.cache.chunk)
    for start in console.track(starts, f"predicted fMRI of {set_name} (chunks)", len(starts)):
        rows = np.arange(start, min(start + params.cache.chunk, count))
        group["fmri"][start : start + len(rows)] = predict(model, tokens["patches"], rows)
    complete_store(partial, final)
    console.wrote(final, f"predicted fMRI, {count} images x {vertices} vertices")
