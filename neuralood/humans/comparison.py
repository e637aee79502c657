"""How much like people classifiers answer to the same images: the record of one experiment."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from neuralood.base.records import rounded
from neuralood.base.store import Array
from neuralood.humans.agreement import ShapeBias, agreement_among, agreement_with, shape_bias
from neuralood.humans.experiments import CUE_CONFLICT, counted_images, read_people
from neuralood.humans.resampling import draw_images, mean_kappa, pooled_shape_bias
from neuralood.humans.trials import Observer, image_id
from neuralood.statistics import low_and_high

Models = Mapping[str, Sequence[Observer]]
"""Classifiers by name, each as trained with one seed or several."""


def shown_alike(
    answers: Mapping[str, Array], files: Sequence[str], folder: Path, experiment: str, known: Collection[str]
) -> tuple[dict[str, list[Observer]], list[Observer]]:
    """Models and people as observers of the same trials, those that count for the categories that are `known`.

    Each model's answers S I to the images of `files` I; people's are in `folder`. Raises UserError where people
    were not shown one of the images.
    """
    images = [image_id(Path(file).name) for file in files]
    people = [person.at(images) for person in read_people(folder, experiment)]
    shown = people[0]
    counted = counted_images(shown, experiment, known)
    models = {
        name: [Observer(name, shown.images, shown.conditions, shown.truth, of_seed).at(counted) for of_seed in of_model]
        for name, of_model in answers.items()
    }
    return models, [person.at(counted) for person in people]


def compare(
    models: Models, people: Sequence[Observer], experiment: str, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Accuracy (percent), observed consistency and kappa with people, of cue-conflict shape bias; people's own beside.

    All are observers of the same images. Means over seeds, but shape bias, which pools answers; intervals are 95 %
    percentile bootstraps over images, people and trained models fixed. `gain`: kappa of fusion less the probe's.
    """
    kappas, biases = resampled(models, people, experiment, resamples, rng)
    record: dict[str, Any] = {
        "applicable": True,
        "experiment": experiment,
        "n": len(people[0].images),
        "people": _people_record(people, experiment),
    }
    for name, seeds in models.items():
        record[name] = _model_record(seeds, people, kappas[name])
        if experiment == CUE_CONFLICT:
            record[name] |= _shape_record(seeds, biases[name])
    if {"linear", "fusion"} <= models.keys():
        value = record["fusion"]["kappa"]["value"] - record["linear"]["kappa"]["value"]
        record["gain"] = {"kappa": _with_interval(value, kappas["fusion"] - kappas["linear"])}
    return record


def resampled(
    models: Models, people: Sequence[Observer], experiment: str, resamples: int, rng: np.random.Generator
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Of each model kappa with people, and of cue-conflict shape bias, in each resample: R. All models see the same."""
    kappas: dict[str, list[Array]] = {name: [] for name in models}
    biases: dict[str, list[Array]] = {name: [] for name in models}
    for drawn in draw_images(people[0].conditions, resamples, rng):
        for name, seeds in models.items():
            kappas[name].append(mean_kappa(seeds, people, drawn))
            if experiment == CUE_CONFLICT:
                biases[name].append(pooled_shape_bias(seeds, drawn))
    return (
        {name: np.concatenate(blocks) for name, blocks in kappas.items()},
        {name: np.concatenate(blocks) for name, blocks in biases.items() if blocks},
    )


def _people_record(people: Sequence[Observer], experiment: str) -> dict[str, Any]:
    among = agreement_among(people)
    record: dict[str, Any] = {
        "count": len(people),
        "accuracy": _accuracy(people),
        "consistency": rounded(among.observed),
        "kappa": {"value": rounded(among.kappa)},
    }
    return record | (_shape_record(people) if experiment == CUE_CONFLICT else {})


def _model_record(seeds: Sequence[Observer], people: Sequence[Observer], kappas: Array) -> dict[str, Any]:
    with_each = {person.name: agreement_with(person, seeds) for person in people}
    return {
        "accuracy": _accuracy(seeds),
        "consistency": rounded(float(np.mean([one.observed for one in with_each.values()]))),
        "kappa": _with_interval(float(np.mean([one.kappa for one in with_each.values()])), kappas),
        "with": {
            name: {"consistency": rounded(one.observed), "kappa": rounded(one.kappa)} for name, one in with_each.items()
        },
    }


def _shape_record(observers: Sequence[Observer], biases: Array | None = None) -> dict[str, Any]:
    """Shape bias of all their answers together, and the share of either cue; nothing where neither was answered."""
    pooled: ShapeBias = reduce(add, [shape_bias(one.images, one.answers) for one in observers])
    if pooled.bias is None:
        return {}
    value = {"value": rounded(pooled.bias)} if biases is None else _with_interval(pooled.bias, biases)
    return {"shape_bias": {**value, "either": rounded(pooled.either)}}


def _accuracy(observers: Sequence[Observer]) -> float:
    return rounded(float(100 * np.mean([one.correct.mean() for one in observers])))


def _with_interval(value: float, drawn: Array) -> dict[str, float]:
    return {"value": rounded(value), **low_and_high(drawn)}
