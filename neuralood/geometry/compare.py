"""Are images that differ to people's brains those that differ to the models, and more so after fusion than before?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.records import rounded, write_arrays, write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.fusion.model import FusionClassifier
from neuralood.fusion.trained import load_record, load_seed, open_image_data
from neuralood.geometry.dissimilarity import read_people
from neuralood.geometry.likeness import MEASURES, likeness, noise_ceiling, rsatoolbox_compare
from neuralood.geometry.representations import AFTER, BEFORE, FMRI, model_dissimilarities
from neuralood.geometry.resampling import draw_resamples, resampled_spearman
from neuralood.statistics import low_and_high

SCORES, DISSIMILARITIES = "scores.json", "dissimilarities.npz"

MOST_IMAGES = 2_000
"""Images whose features and pairs are held in memory: two million pairs, and some 7 GB for the patches of a ViT-B."""

COMPARED = (*AFTER, f"{FMRI}_high")
"""Representations whose lead over each of those of the backbone is asked for."""


def compare_geometry(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET, and people's dissimilarities -> data/eval/_geometry/SET/.

    scores.json, and dissimilarities.npz with the pairs of every representation. Raises UserError for more images than
    MOST_IMAGES, dissimilarities that are not of this set, and where rsatoolbox is not installed.
    """
    rsatoolbox_compare()
    device, manifest = prepare_torch(params.runtime.device, params.runtime.threads), read_manifest(set_name)
    if len(manifest) > MOST_IMAGES:
        raise UserError(
            f"geometry.{set_name}: {set_name} has {len(manifest):,} images, whose pairs are too many; at most "
            f"{MOST_IMAGES:,} are compared: name fewer in files.{set_name}, or leave the entry out"
        )
    entry, key = params.geometry[set_name], f"geometry.{set_name}"
    people = read_people(paths.data_root() / entry.dissimilarities, entry.array, len(manifest), key)
    record, (encoder, encoder_record) = load_record(), load_encoder()
    data = open_image_data(manifest, encoder.to(device), encoder_record)
    loaded = [load_seed(number, record, encoder)[0].to(device) for number in range(record["seeds"])]
    seeds = [model for model in loaded if isinstance(model, FusionClassifier)]  # a baseline fuses nothing
    models = model_dissimilarities(data, encoder_record["roi_names"], seeds, device)

    rng = generator(params.seed, "bootstrap", "geometry", set_name)
    scores = {
        "fmri": encoder_record["source"],
        "control": encoder_record["control"],
        "variant": record["variant"],
        "seeds": record["seeds"],
        "n_images": len(manifest),
        **compare_models(models, people, params.evaluation.bootstrap, rng),
    }
    folder = paths.geometry(set_name)
    arrays = {f"{name}.{number}": one for name, versions in models.items() for number, one in enumerate(versions)}
    write_arrays(folder / DISSIMILARITIES, {name: one.astype(np.float32) for name, one in arrays.items()})
    write_json(folder / SCORES, scores)
    _show(set_name, scores, simulated=encoder_record["trained_on"] == "simulated")
    console.wrote(folder, f"likeness of {len(models)} representations to {len(people)} people")


def compare_models(
    models: Mapping[str, Sequence[Array]], people: Array, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Likeness of each model (versions of pairs) to people (P x pairs), the noise ceiling, and who leads whom.

    Means over versions and people of each measure; `low`, `high`: 95 % bootstrap over images and people of `spearman`.
    `lead`: of each of COMPARED over each of BEFORE that is among the models, on the same resamples. No ceiling is known
    of one person.
    """
    images = round((1 + np.sqrt(1 + 8 * people.shape[1])) / 2)
    resampled = resampled_spearman(models, people, draw_resamples(images, len(people), resamples, rng))
    likenesses = {name: likeness(np.stack(versions), people) for name, versions in models.items()}
    spearman = {name: one["spearman"].mean() for name, one in likenesses.items()}
    ceiling = noise_ceiling(people) if len(people) > 1 else {}

    def lead(name: str, other: str) -> dict[str, float]:
        ends = low_and_high(resampled[name] - resampled[other])
        return {"spearman": rounded(spearman[name] - spearman[other]), **ends}

    before = [name for name in BEFORE if name in models]
    return {
        "n_people": len(people),
        "ceiling": {name: {end: rounded(r) for end, r in ends.items()} for name, ends in ceiling.items()},
        "representations": {
            name: {**{measure: rounded(one[measure].mean()) for measure in MEASURES}, **low_and_high(resampled[name])}
            for name, one in likenesses.items()
        },
        "lead": {name: {other: lead(name, other) for other in before} for name in COMPARED if name in models},
    }


def _show(set_name: str, scores: dict[str, Any], *, simulated: bool) -> None:
    fmri = ", SIMULATED fMRI" if simulated else ""
    title = (
        f"Likeness to {scores['n_people']} people on {set_name}, {scores['variant']}, control {scores['control']}{fmri}"
    )
    rows = {
        name: f"{one['spearman']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        for name, one in scores["representations"].items()
    }
    if scores["ceiling"]:
        rows["noise ceiling"] = "{lower:.3f} to {upper:.3f}".format(**scores["ceiling"]["spearman"])
    for name, leads in scores["lead"].items():
        for other, one in leads.items():
            rows[f"{name} - {other}"] = f"{one['spearman']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
    console.results(title, rows)
