"""Every arm beside people: do its errors become more like theirs, and its features more like their brains?

Of sets of `humans` and `geometry`, from what each arm's own run kept of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuralood.base import paths
from neuralood.base.records import rounded
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.geometry.compare import DISSIMILARITIES
from neuralood.geometry.dissimilarity import read_people
from neuralood.geometry.likeness import likeness
from neuralood.geometry.resampling import draw_resamples, resampled_spearman
from neuralood.humans.agreement import agreement_with
from neuralood.humans.alignment import read_answers
from neuralood.humans.comparison import resampled
from neuralood.statistics import low_and_high
from neuralood.study.arms import LINEAR, MAIN
from neuralood.study.runs import ARMS

AFTER, BEFORE = "fused", "cls"
"""The representations that are compared: of each arm after fusion, and [CLS], which no arm changes, before it."""


def errors_of_arms(params: Params, names: Sequence[str]) -> dict[str, Any]:
    """For each set of `humans` where it is applicable: kappa of each arm with people, and the main arm's minus it."""
    found = {set_name: _errors(params, set_name, names) for set_name in params.humans}
    return {set_name: arms for set_name, arms in found.items() if arms}


def geometry_of_arms(params: Params, names: Sequence[str]) -> dict[str, Any]:
    """For each set of `geometry`: likeness of each arm's fused features to people, and the main arm's minus it.

    Arms that fuse nothing are left out; `before` is [CLS].
    """
    return {set_name: _geometry(params, set_name, names) for set_name in params.geometry}


def _errors(params: Params, set_name: str, names: Sequence[str]) -> dict[str, Any]:
    folder, models = paths.human_comparison(set_name).relative_to(paths.DATA), {}
    for name, arm, model in [(LINEAR, MAIN, "linear"), *((name, name, "fusion") for name in names)]:
        answers = read_answers(ARMS / arm / folder, model)
        if answers is None:
            return {}
        models[name], people = answers
    rng = generator(params.seed, "study", "humans", set_name)
    experiment = params.humans[set_name].experiment
    kappas, _ = resampled(models, people, experiment, params.evaluation.bootstrap, rng)
    points = {
        name: float(np.mean([agreement_with(person, seeds).kappa for person in people]))
        for name, seeds in models.items()
    }
    return _beside_main("kappa", points, kappas)


def _geometry(params: Params, set_name: str, names: Sequence[str]) -> dict[str, Any]:
    entry, images = params.geometry[set_name], len(read_manifest(set_name))
    file = paths.data_root() / entry.dissimilarities
    people = read_people(file, entry.array, images, f"geometry.{set_name}")
    of_arms = {name: _pairs(name, set_name, AFTER) for name in names}
    models = {"before": _pairs(MAIN, set_name, BEFORE), **{name: pairs for name, pairs in of_arms.items() if pairs}}
    rng = generator(params.seed, "study", "geometry", set_name)
    drawn = resampled_spearman(models, people, draw_resamples(images, len(people), params.evaluation.bootstrap, rng))
    points = {name: float(likeness(np.stack(pairs), people)["spearman"].mean()) for name, pairs in models.items()}
    return _beside_main("spearman", points, drawn)


def _pairs(arm: str, set_name: str, representation: str) -> list[Array]:
    """Dissimilarities of one representation of an arm, a version a seed; none where the arm lacks it."""
    file = ARMS / arm / paths.geometry(set_name).relative_to(paths.DATA) / DISSIMILARITIES
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name].astype(float) for name in arrays.files if name.split(".")[0] == representation]


def _beside_main(measure: str, points: Mapping[str, float], drawn: Mapping[str, Array]) -> dict[str, Any]:
    """Each arm's value, and the main arm's minus it, on the same resamples; intervals are 95 %."""
    return {
        name: {
            measure: rounded(value),
            **low_and_high(drawn[name]),
            "main_minus_it": {measure: rounded(points[MAIN] - value), **low_and_high(drawn[MAIN] - drawn[name])},
        }
        for name, value in points.items()
    }
