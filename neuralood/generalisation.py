"""How well the frozen brain encoder predicts fMRI out of distribution: r on images of other kinds, beside photos."""

from typing import Any

import numpy as np

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array, open_store
from neuralood.config import Params
from neuralood.data.fmri import TEST, Measured, OodFmri, measured_vertices, read_measured
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.data.nsd.synthetic import read_synthetic
from neuralood.demo.subject import simulate_ood
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.scores import encoder_scores, pearson_columns
from neuralood.encoder.trained import load_encoder, predict, require_recipe

SCORES = "scores.json"

KEYS = ("pearson", "fraction_of_ceiling", "noise_normalised", "groups")
"""What is kept of the encoder's scores; single ROIs have too few vertices for so few images."""


def score_encoder(params: Params, set_name: str) -> None:
    """Tokens and fMRI of SET and of nsd, and the encoder -> data/encoder_ood/SET/scores.json.

    For each class of SET its scores, and under `photo` those of as many test images of nsd, drawn by `seed`.
    Raises UserError for tokens that the encoder was not trained on, or of other images.
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    manifest, measured, (model, encoder) = read_manifest(set_name), read_measured(), load_encoder()
    tokens, photo_tokens = open_store(paths.tokens(set_name)), open_store(paths.tokens("nsd"))
    assert not isinstance(model, ImageEncoder)  # an imported encoder has no set of this role
    require_recipe(tokens, encoder)
    if tokens.attributes["dataset"] != manifest.fingerprint:
        raise UserError(f"{tokens.path} is of other images than {paths.manifest(set_name)}: run `dvc repro`")
    model.to(device)
    seen, labels = ood_fmri(params, manifest, measured), np.array(manifest.labels)
    test = generator(params.seed, "photos beside OOD images").permutation(measured.rows(TEST))

    def score(predicted: Array, fmri: Array, ceiling: Array | None) -> dict[str, Any]:
        r, threshold = pearson_columns(predicted, fmri), params.fmri.ceiling_threshold
        record = encoder_scores(r, None, ceiling, threshold, measured.roi_names, measured.roi)
        return {"n": len(fmri), **{name: record[name] for name in KEYS if name in record}}

    scores = {}
    for label, name in enumerate(manifest.classes):
        rows = np.flatnonzero(labels == label)
        photos = np.sort(test[: len(rows)])
        scores[name] = score(predict(model, tokens, rows), seen.fmri[rows], seen.ceiling[label])
        scores[name]["photo"] = score(predict(model, photo_tokens, photos), measured.fmri[photos], measured.ceiling)
    write_json(paths.encoder_ood(set_name) / SCORES, scores)
    _show(scores, encoder)
    console.wrote(paths.encoder_ood(set_name), f"scores of the encoder on {len(manifest)} images")


def ood_fmri(params: Params, manifest: Manifest, measured: Measured) -> OodFmri:
    """What the subject of `measured` answered to the images of a set of role fmri_ood, vertex by vertex."""
    if measured.simulated:
        return simulate_ood(params, manifest)
    folder = paths.data_root() / manifest.folder
    fmri, ceiling = read_synthetic(folder, measured.subject, measured.space, measured_vertices(), manifest)
    return OodFmri(fmri, ceiling[None])


def _show(scores: dict[str, Any], encoder: dict[str, Any]) -> None:
    simulated = " (simulated fMRI)" if encoder["trained_on"] == "simulated" else ""
    title = f"Brain encoder, control {encoder['control']}{simulated}: median r, and that on as many photos"
    console.results(title, {name: _line(one, one["photo"]) for name, one in scores.items()})


def _line(scores: dict[str, Any], photo: dict[str, Any]) -> str:
    parts = [("all", scores, photo), *((name, one, photo["groups"][name]) for name, one in scores["groups"].items())]
    medians = [
        f"{name} {one['pearson']['median']:5.2f} {other['pearson']['median']:5.2f}" for name, one, other in parts
    ]
    return "   ".join(medians)
