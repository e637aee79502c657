"""What the arms of a study scored, image by image and seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuralood.base.records import read_json, rounded
from neuralood.base.store import Array
from neuralood.predictions import read_predictions
from neuralood.statistics import PairedResult
from neuralood.study.arms import LINEAR, MAIN
from neuralood.study.runs import ARMS, RECORD

OOD_MEAN = "ood_mean"


@dataclass(frozen=True)
class Result:
    """One arm: whether each seed has each image of each set right, S I bool by set, and its record."""

    name: str
    kind: str
    changes: Mapping[str, Any]
    correct: Mapping[str, Array]
    sources: Mapping[str, tuple[str, ...]]
    parameters: int
    holdout: float
    """Cross-entropy on the holdout, mean over seeds: what baselines are chosen by."""

    @property
    def seeds(self) -> int:
        """How many times it was trained."""
        return len(next(iter(self.correct.values())))

    def images(self, sets: Sequence[str]) -> int:
        """How many there are in these sets."""
        return sum(len(self.sources[name]) for name in sets)

    def top1(self, sets: Sequence[str]) -> Array:
        """Unweighted mean over these sets of top-1 in percent, of each seed: S."""
        scores: Array = 100 * np.mean([self.correct[name].mean(axis=1) for name in sets], axis=0)
        return scores


def read_result(name: str, sets: Sequence[str]) -> Result:
    """What is kept of one arm. Raises UserError where it is damaged."""
    record = read_json(ARMS / name / RECORD)
    return _result(name, record["kind"], record["changes"], name, "fusion", sets)


def read_linear(sets: Sequence[str]) -> Result:
    """The linear probe of the main arm."""
    return _result(LINEAR, "baseline", {}, MAIN, "linear", sets)


def _result(name: str, kind: str, changes: Mapping[str, Any], folder: str, model: str, sets: Sequence[str]) -> Result:
    predictions = {one: read_predictions(ARMS / folder / "eval" / one) for one in sets}
    return Result(
        name,
        kind,
        changes,
        {one: kept.correct(model) for one, kept in predictions.items()},
        {one: kept.sources for one, kept in predictions.items()},
        read_json(ARMS / folder / "classification.json")["parameters"][model],
        float(np.mean(read_json(ARMS / folder / "fusion.json")["holdout"][model])),
    )


def paired(one: Result, other: Result, set_name: str) -> PairedResult:
    """One minus other on each image of a set, in percent, seeds averaged first."""
    difference = one.correct[set_name].mean(axis=0) - other.correct[set_name].mean(axis=0)
    return PairedResult(100 * difference, one.sources[set_name])


def cell(per_seed: Array) -> dict[str, Any]:
    """Mean over seeds, its sd, and each seed."""
    return {
        "mean": rounded(per_seed.mean()),
        "sd": rounded(per_seed.std(ddof=1)),
        "per_seed": [rounded(one) for one in per_seed],
    }
