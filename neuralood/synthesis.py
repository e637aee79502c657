"""Predicted fMRI: the frozen brain encoder on the tokens, or the pixels, of any image set. No scanner is needed."""

from pathlib import Path
from typing import Any

import numpy as np

from neuralood.base import console, paths, ranks
from neuralood.base.collectives import broadcast
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.store import CONTENTS, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, write_rows
from neuralood.config import Cache, Params
from neuralood.data.manifest import read_manifest
from neuralood.encoder.form import ARRAYS, as_attributes, form_of
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.trained import load_encoder, predict, require_recipe
from neuralood.tokens.unfinished import only_writer, resume_chunks


def synthesize(params: Params, set_name: str) -> None:
    """data/tokens/SET.zarr, or the images themselves -> data/fmri/SET.zarr: `fmri` I V, raw, in the encoder's units.

    Or what `synthesis` asks for: some vertices, the `roi_tokens` that they are read out from, or no array at all.

    An interrupted run goes on at the first chunk that is missing. Raises UserError for tokens of another grid, layer,
    pooling or weights than the encoder was trained on, and before any work where the store does not fit on the disk.
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    tokens, (model, record), manifest = open_store(paths.tokens(set_name)), load_encoder(), read_manifest(set_name)
    require_recipe(tokens, record)
    if tokens.attributes["dataset"] != manifest.fingerprint:
        raise UserError(f"{tokens.path} is of other images than {paths.manifest(set_name)}: run `dvc repro`")
    count, form = len(tokens["patches"]), form_of(params.synthesis, model, record)
    final = paths.predicted_fmri(set_name)
    partial = paths.partial(final)
    attributes = {
        "kind": "predicted fMRI",
        "source": record["source"],
        "control": record["control"],
        "encoder": record["fingerprint"],
        "dataset": manifest.fingerprint,
        "tokens": tokens.attributes[CONTENTS],
        "form": as_attributes(params.synthesis),
    }
    if form.store == "none":
        broadcast(lambda: _write_none(partial, final, attributes))
        console.wrote(final, f"no fMRI of {count} images: it is predicted as it is read")
        return
    name, spec = ARRAYS[form.store], fmri_spec(count, form.width, params.cache)
    with only_writer(partial):
        missing = ranks.share(broadcast(lambda: resume_chunks(partial, name, spec, attributes)))
        model.to(device)
        starts = [number * spec.chunk_rows for number in missing]
        chunks = [np.arange(start, min(start + spec.chunk_rows, count)) for start in starts]
        if isinstance(model, ImageEncoder):
            from neuralood.encoder.from_images import predict_images  # timm takes seconds to import

            predicted = predict_images(
                model, form.keep, record["preprocessing"], manifest, chunks, params.runtime.workers
            )
        else:
            predicted = (predict(model, tokens, rows, form.keep) for rows in chunks)
        for start in console.track(starts, f"predicted fMRI of {set_name} (chunks)", len(starts)):
            write_rows(partial, name, spec, start, next(predicted))
        broadcast(lambda: complete_store(partial, final))
    what = "vertices" if form.store == "vertices" else "numbers, from which vertices are read out"
    console.wrote(final, f"predicted fMRI, {count} images x {form.width} {what}")


def _write_none(partial: Path, final: Path, attributes: dict[str, Any]) -> None:
    """A store without arrays: it says only what fMRI would be predicted by."""
    create_store(partial, {}, attributes)
    complete_store(partial, final)


def fmri_spec(count: int, width: int, settings: Cache) -> ArraySpec:
    """The array of predicted fMRI of so many images, `width` numbers each; int8 is for tokens only."""
    dtype = "float16" if settings.dtype == "int8" else settings.dtype
    return ArraySpec((count, width), dtype, settings.chunk)
