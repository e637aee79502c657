"""Linear probe and fusion beside people: answers to one set of stimuli, where the training classes can say them."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.reading import batches
from neuralood.base.records import read_json, write_arrays, write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array, decode_ids, encode_ids
from neuralood.config import Params
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.evaluation import BLOCK, model_logits
from neuralood.fusion.trained import load_record, load_seed, open_image_data
from neuralood.humans.categories import CATEGORIES, answers_of
from neuralood.humans.comparison import Models, compare, shown_alike
from neuralood.humans.tables import show
from neuralood.humans.trials import Observer
from neuralood.predictions import MODELS

LEAST = 12
"""Of the 16 categories, how many the training classes must make up for answers to be compared with people's."""

SCORES, ANSWERS = "scores.json", "answers.npz"

Members = dict[str, tuple[int, ...]]
"""Category -> the training classes that make it up."""


def compare_humans(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET, and people's answers -> data/humans/SET: scores.json, answers.npz.

    Where training knows fewer than 12 of the 16 categories, scores.json says that this is not applicable.
    """
    members = {name: tuple(columns) for name, columns in read_json(paths.CATEGORIES).items()}
    folder, settings = paths.human_comparison(set_name), params.humans[set_name]
    if len(members) < LEAST:
        reason = f"classes map onto {len(members)} of {len(CATEGORIES)} categories"
        write_json(folder / SCORES, {"applicable": False, "reason": reason})
        console.note(f"{set_name}: not applicable, {reason}; {LEAST} are wanted")
        return
    manifest, encoder = read_manifest(set_name), read_json(paths.ENCODER / "encoder.json")
    answers = _answers(params, manifest, members)
    models, people = shown_alike(
        answers, manifest.paths, paths.data_root() / settings.answers, settings.experiment, members
    )
    rng = generator(params.seed, "bootstrap", "humans", set_name)
    record = compare(models, people, settings.experiment, params.evaluation.bootstrap, rng)
    record |= {"categories": len(members), "fmri": encoder["source"]}
    write_arrays(folder / ANSWERS, _arrays(models, people))
    write_json(folder / SCORES, record)
    show(set_name + (", simulated fMRI" if encoder["trained_on"] == "simulated" else ""), record)
    console.wrote(folder, f"answers to {len(people[0].images)} images, beside those of {len(people)} people")


def read_answers(folder: Path, model: str) -> tuple[list[Observer], list[Observer]] | None:
    """One model's seeds, and the people, as `compare_humans` kept their answers; None where it was not applicable."""
    if not (folder / ANSWERS).exists():
        return None
    with np.load(folder / ANSWERS, allow_pickle=False) as arrays:
        images, conditions = (tuple(decode_ids(arrays[name])) for name in ("images", "conditions"))

        def observer(name: str, answers: Array) -> Observer:
            return Observer(name, images, conditions, arrays["truth"], answers)

        people = [observer(*one) for one in zip(decode_ids(arrays["people_names"]), arrays["people"], strict=True)]
        return [observer(model, own) for own in arrays[model]], people


def _answers(params: Params, manifest: Manifest, members: Members) -> dict[str, Array]:
    """What each model answers, seed by seed: S I, indices of categories."""
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    record, (encoder, encoder_record) = load_record(), load_encoder()
    data = open_image_data(manifest, encoder.to(device), encoder_record)
    loaded = (load_seed(number, record, encoder) for number in range(record["seeds"]))
    seeds = [(model.to(device), probe) for model, probe in loaded]
    parts: dict[str, list[Array]] = {name: [] for name in MODELS}
    for rows in batches(np.arange(len(data)), BLOCK):
        for name, logits in model_logits(data, rows, seeds, device).items():
            parts[name].append(np.array([answers_of(softmax(of_seed, axis=-1), members) for of_seed in logits]))
    return {name: np.concatenate(of_blocks, axis=1) for name, of_blocks in parts.items()}


def _arrays(models: Models, people: list[Observer]) -> dict[str, Any]:
    """The answers by image: ids and truth of T images, those of each model S T, of people H T with their names."""
    return {
        "images": encode_ids(list(people[0].images)),
        "conditions": encode_ids(list(people[0].conditions)),
        "truth": people[0].truth,
        "people": np.array([person.answers for person in people]),
        "people_names": encode_ids([person.name for person in people]),
        **{name: np.array([one.answers for one in seeds]) for name, seeds in models.items()},
    }
