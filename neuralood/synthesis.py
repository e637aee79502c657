"""Predicted fMRI: the frozen brain encoder on the tokens of any image set. No scanner is needed here."""

import numpy as np

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.store import CONTENTS, open_store
from neuralood.base.writing import ArraySpec, complete_store, write_rows
from neuralood.config import Cache, Params
from neuralood.data.manifest import read_manifest
from neuralood.encoder.trained import load_encoder, predict, require_recipe
from neuralood.tokens.unfinished import only_writer, resume_chunks


def synthesize(params: Params, set_name: str) -> None:
    """data/tokens/SET.zarr -> data/fmri/SET.zarr: `fmri` I V, raw, in the units of the measured fMRI.

    An interrupted run goes on at the first chunk that is missing. Raises UserError for tokens of another grid, layer,
    pooling or weights than the encoder was trained on, and before any work where the store does not fit on the disk.
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
    spec = fmri_spec(count, vertices, params.cache)
    attributes = {
        "kind": "predicted fMRI",
        "source": record["source"],
        "control": record["control"],
        "encoder": record["fingerprint"],
        "dataset": dataset,
        "tokens": tokens.attributes[CONTENTS],
    }
    with only_writer(partial):
        missing = resume_chunks(partial, "fmri", spec, attributes)
        model.to(device)
        starts = [number * spec.chunk_rows for number in missing]
        for start in console.track(starts, f"predicted fMRI of {set_name} (chunks)", len(starts)):
            rows = np.arange(start, min(start + spec.chunk_rows, count))
            write_rows(partial, "fmri", spec, start, predict(model, tokens, rows))
        complete_store(partial, final)
    console.wrote(final, f"predicted fMRI, {count} images x {vertices} vertices")


def fmri_spec(count: int, vertices: int, settings: Cache) -> ArraySpec:
    """The array of predicted fMRI of so many images; int8 is for tokens only."""
    dtype = "float16" if settings.dtype == "int8" else settings.dtype
    return ArraySpec((count, vertices), dtype, settings.chunk)
