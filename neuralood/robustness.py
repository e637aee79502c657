"""Robustness beyond top-1: calibration, proper scores, the worst class, accuracy by level, effective robustness."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, rounded
from neuralood.base.store import Array
from neuralood.config import MadeSet, Params
from neuralood.predictions import MODELS, Predictions

RECORD = "robustness.json"
BINS = 15


def ece(confidence: Array, correct: Array) -> float:
    """Expected calibration error of one model, in percent: confidence I, correct I bool.

    The gap between accuracy and mean confidence in each of 15 bins of equal width, (b - 1) / 15 < confidence <= b / 15,
    averaged over images (Guo et al. 2017, arXiv 1706.04599). Where images are few it is above 0 by chance alone.
    """
    edges = np.arange(1, BINS) / BINS
    gaps = np.bincount(np.digitize(confidence, edges, right=True), weights=correct - confidence.astype(float))
    return float(100 * np.abs(gaps).sum() / len(confidence))


def nll(log_likelihood: Array) -> float:
    """Negative log-likelihood in nats, the mean over seeds and images S I."""
    return -float(log_likelihood.mean(dtype=float))


def brier(log_likelihood: Array, sum_of_squares: Array) -> float:
    """Brier score, 0 to 2, the mean over seeds and images S I (Brier 1950).

    That is the sum over classes of (probability - truth)^2, truth 1 for the right class and 0 for all others; with p
    of the right class, 1 - 2 p + sum of squares.
    """
    return float((1 - 2 * np.exp(log_likelihood.astype(float)) + sum_of_squares).mean())


def worst_class(correct: Array, labels: Array, classes: Sequence[str]) -> dict[str, Any]:
    """The class of lowest top-1 in percent, seeds averaged, the first of equals: correct S I bool, labels I.

    `n` are its images. A class without images does not count.
    """
    images = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels, weights=correct.sum(axis=0), minlength=len(classes))
    top1 = np.divide(100 * right, len(correct) * images, out=np.full(len(classes), np.inf), where=images > 0)
    worst = int(top1.argmin())
    return {"class": classes[worst], "n": int(images[worst]), "top1": rounded(top1[worst])}


def robustness(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """ece, nll, brier and worst_class of each model on one set, each seed's averaged; `classes` are the set's names.

    Of an image with several right classes: an answer is correct where it is any of them, nll and brier are against
    the most probable of them, and for worst_class it is of its label's class.
    """
    record = {}
    for model in MODELS:
        correct, confidence = predictions.correct(model), predictions.confidence[model]
        log_likelihood = predictions.log_likelihood[model]
        record[model] = {
            "ece": rounded(float(np.mean([ece(*of_seed) for of_seed in zip(confidence, correct, strict=True)]))),
            "nll": rounded(nll(log_likelihood)),
            "brier": rounded(brier(log_likelihood, predictions.sum_of_squares[model])),
            "worst_class": worst_class(correct, predictions.labels, classes),
        }
    return record


def robustness_metrics(params: Params, cells: Mapping[str, Any]) -> dict[str, Any]:
    """metrics/robustness.json, from data/eval/SET/robustness.json of the sets whose scores are `cells`.

    `id` and `ood` as in classification.json; `levels`: NAME -> transform -> one entry a level, with its number, top-1
    of both models and the gain. NAME is the set that made sets were made from, and entries are named after these; or
    it is a set of ImageNet-C, its transforms are the corruptions, and entries are named after severities, without gain.
    """
    records = {name: read_json(paths.evaluation(name) / RECORD) for name in cells}
    models = {name: {model: record[model] for model in MODELS} for name, record in records.items()}
    return {
        "id": {name: record for name, record in models.items() if params.sets[name].role == "val"},
        "ood": {name: record for name, record in models.items() if params.sets[name].role == "ood"},
        "levels": _levels(params.made, cells, records),
    }


def _levels(made: Mapping[str, MadeSet], cells: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    levels: dict[str, Any] = {name: record["levels"] for name, record in records.items() if "levels" in record}
    for name, entry in made.items():
        if name in cells:
            top1 = {model: {"top1": cells[name][model]["top1"]} for model in MODELS}
            point = {"level": entry.level, **top1, "gain": cells[name]["gain"]}
            levels.setdefault(entry.source, {}).setdefault(entry.transform, {})[name] = point
    return levels


class Line(NamedTuple):
    """What ordinary models reach out of distribution: logit(OOD accuracy) = slope x logit(ID accuracy) + intercept."""

    slope: float
    intercept: float

    def at(self, id_top1: Any) -> Any:
        """OOD top-1 in percent of ordinary models whose ID top-1 is `id_top1`, between 0 and 100: a number or array."""
        return 100 * expit(self.slope * logit(np.asarray(id_top1) / 100) + self.intercept)


def smoothed(top1: Any, n: int) -> Any:
    """Top-1 in percent of n images with half a hit and half a miss added, (k + 1/2) / (n + 1): never 0 or 100."""
    return (n * np.asarray(top1) + 50) / (n + 1)


def baseline_line(baseline_id: Sequence[float], baseline_ood: Sequence[float], *, n_id: int, n_ood: int) -> Line:
    """The least-squares line through the smoothed top-1 of baselines in logit space; in percent, of n_id, n_ood images.

    Raises UserError where there are not two different ID accuracies.
    """
    if len(set(baseline_id)) < 2:
        raise UserError(
            "effective robustness wants baselines of at least two different ID accuracies, got "
            f"{', '.join(f'{value:.2f} %' for value in baseline_id) or 'none'}; add probes of smaller budgets"
        )
    x, y = logit(smoothed(baseline_id, n_id) / 100), logit(smoothed(baseline_ood, n_ood) / 100)
    slope, intercept = np.polyfit(x, y, 1)
    return Line(float(slope), float(intercept))


def effective_robustness(
    id_top1: float,
    ood_top1: float,
    baseline_id: Sequence[float],
    baseline_ood: Sequence[float],
    *,
    n_id: int,
    n_ood: int,
) -> tuple[float, Line]:
    """Percentage points of OOD top-1 above the line through the baselines in logit space, and that line.

    Taori et al. 2020, arXiv 2007.00644. All accuracies are in percent, of n_id and n_ood images, and are smoothed
    first, for the logits of 0 and 100 % are infinite: a plot has the line and the `smoothed` points.
    Raises UserError where the baselines have not two different ID accuracies.
    """
    line = baseline_line(baseline_id, baseline_ood, n_id=n_id, n_ood=n_ood)
    return float(smoothed(ood_top1, n_ood) - line.at(smoothed(id_top1, n_id))), line
