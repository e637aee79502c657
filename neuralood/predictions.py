"""Per-image predictions of both models on one set, and what they score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from neuralood.base.errors import UserError
from neuralood.base.records import rounded, write_arrays
from neuralood.base.store import Array, decode_ids, encode_ids
from neuralood.statistics import PairedResult, bootstrap_interval

MODELS = ("linear", "fusion")
FILE = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """Labels I; for each model the best classes S I 5 (best first) and the best one's probability S I, S seeds.

    Classes are indices into the set's own list of classes.
    """

    labels: Array
    ranked: dict[str, Array]
    confidence: dict[str, Array]
    sources: tuple[str, ...]

    def correct(self, model: str) -> Array:
        """Whether the best class is right: S I bool."""
        right: Array = self.ranked[model][..., 0] == self.labels
        return right

    def gain(self) -> PairedResult:
        """Fusion minus linear on each image, in percent, seeds averaged first."""
        difference = self.correct("fusion").mean(axis=0) - self.correct("linear").mean(axis=0)
        return PairedResult(100 * difference, self.sources)


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write them to FOLDER/predictions.npz."""
    arrays = {"labels": predictions.labels, "sources": encode_ids(list(predictions.sources))}
    for model in MODELS:
        arrays |= {
            f"{model}_ranked": predictions.ranked[model],
            f"{model}_confidence": predictions.confidence[model],
        }
    write_arrays(folder / FILE, arrays)


def read_predictions(folder: Path) -> Predictions:
    """Read FOLDER/predictions.npz. Raises UserError where it is missing or damaged."""
    try:
        with (folder / FILE).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return Predictions(
                labels=arrays["labels"],
                ranked={model: arrays[f"{model}_ranked"] for model in MODELS},
                confidence={model: arrays[f"{model}_confidence"] for model in MODELS},
                sources=tuple(decode_ids(arrays["sources"])),
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{folder / FILE} is missing or damaged ({error}): run `dvc repro`") from None


def score(predictions: Predictions, n_classes: int, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """One CELL of metrics/classification.json: accuracies in percent, the gain with its bootstrap interval.

    top5 is left out for five classes or fewer, top1_sd (over seeds) for one seed.
    """
    cell: dict[str, Any] = {"n": len(predictions.labels), "n_classes": n_classes, "extra": {}}
    for model in MODELS:
        top1 = 100 * predictions.correct(model).mean(axis=1)  # S
        cell[model] = {"top1": rounded(top1.mean())}
        if model == "fusion" and len(top1) > 1:
            cell[model]["top1_sd"] = rounded(top1.std(ddof=1))
        if n_classes > 5:
            hits = (predictions.ranked[model] == predictions.labels[:, None]).any(axis=-1)
            cell[model]["top5"] = rounded(100 * hits.mean())
    gain = predictions.gain()
    low, high = bootstrap_interval({"set": gain}, resamples, rng)
    cell["gain"] = {"top1": rounded(gain.difference.mean()), "low": rounded(low), "high": rounded(high)}
    return cell
