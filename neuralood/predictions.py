"""Per-image predictions of both models on one set, and what they score."""

from collections.abc import Sequence
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
PROBABILITIES = ("confidence", "log_likelihood", "sum_of_squares")
"""Fields of Predictions that hold one number S I of each model."""


@dataclass(frozen=True)
class Predictions:
    """Labels I; for each model the best classes S I 5 (best first) and figures S I of its probabilities, S seeds.

    Classes are indices into the set's own list of classes, and probabilities the softmax over that list: `confidence`
    is the best class's, `log_likelihood` the logarithm (in nats) of the right class's, `sum_of_squares` over all
    classes. `answers` I A are all right classes of each image, padded with -1; None where the label is the only one.
    Of several right classes `log_likelihood` has the most probable. `unrestricted` S I says of each model whether the
    best of all training classes belongs to a right class; None where the set's classes are the training classes.
    """

    labels: Array
    ranked: dict[str, Array]
    confidence: dict[str, Array]
    log_likelihood: dict[str, Array]
    sum_of_squares: dict[str, Array]
    sources: tuple[str, ...]
    answers: Array | None = None
    unrestricted: dict[str, Array] | None = None

    @property
    def right(self) -> Array:
        """All right classes of each image: I A, padded with -1."""
        return self.labels[:, None] if self.answers is None else self.answers

    def hits(self, model: str, top: int) -> Array:
        """Whether a right class is among the best `top`: S I bool."""
        best = self.ranked[model][..., :top]
        found: Array = (best[..., None] == self.right[:, None, :]).any(axis=(-2, -1))
        return found

    def correct(self, model: str) -> Array:
        """Whether the best class is right: S I bool."""
        return self.hits(model, 1)

    def gain(self) -> PairedResult:
        """Fusion minus linear on each image, in percent, seeds averaged first."""
        difference = self.correct("fusion").mean(axis=0) - self.correct("linear").mean(axis=0)
        return PairedResult(100 * difference, self.sources)


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of consecutive images, made part by part."""
    first = parts[0]

    def models(name: str) -> dict[str, Array]:
        return {model: np.concatenate([getattr(part, name)[model] for part in parts], axis=1) for model in MODELS}

    return Predictions(
        labels=np.concatenate([part.labels for part in parts]),
        ranked=models("ranked"),
        **{name: models(name) for name in PROBABILITIES},
        sources=tuple(source for part in parts for source in part.sources),
        answers=None if first.answers is None else np.concatenate([part.right for part in parts]),
        unrestricted=None if first.unrestricted is None else models("unrestricted"),
    )


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write them to FOLDER/predictions.npz: classes and sources as small integers, each source's name once."""
    names, source = np.unique(np.asarray(predictions.sources, object), return_inverse=True)
    arrays = {"labels": predictions.labels, "source_names": encode_ids(names.tolist()), "source": _small(source)}
    for model in MODELS:
        arrays[f"{model}_ranked"] = _small(predictions.ranked[model])
        arrays |= {f"{model}_{name}": getattr(predictions, name)[model] for name in PROBABILITIES}
    if predictions.answers is not None:
        arrays["answers"] = predictions.answers
    if predictions.unrestricted is not None:
        arrays |= {f"{model}_unrestricted": predictions.unrestricted[model] for model in MODELS}
    write_arrays(folder / FILE, arrays)


def _small(numbers: Array) -> Array:
    """The same non-negative integers in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def read_predictions(folder: Path) -> Predictions:
    """Read FOLDER/predictions.npz. Raises UserError where it is missing, damaged or of a version that kept less."""
    try:
        with (folder / FILE).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            restricted = any(name.endswith("_unrestricted") for name in arrays.files)
            names = decode_ids(arrays["source_names"])
            return Predictions(
                labels=arrays["labels"],
                ranked={model: arrays[f"{model}_ranked"].astype(np.int32) for model in MODELS},
                **{name: {model: arrays[f"{model}_{name}"] for model in MODELS} for name in PROBABILITIES},
                sources=tuple(names[number] for number in arrays["source"]),
                answers=arrays["answers"] if "answers" in arrays.files else None,
                unrestricted={model: arrays[f"{model}_unrestricted"] for model in MODELS} if restricted else None,
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{folder / FILE} is missing or damaged ({error}): run `dvc repro`") from None


def score(predictions: Predictions, n_classes: int, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """One CELL of metrics/classification.json: accuracies in percent, the gain with its bootstrap interval.

    top5 is left out for five classes or fewer, top1_sd (over seeds) for one seed. Where a set's classes are a part
    of the training classes, or unite some, `extra.unrestricted` has the accuracy of the best of all training classes:
    of ObjectNet, for one, its authors' protocol, while top1 is the usual one of its 113 classes alone.
    """
    cell: dict[str, Any] = {"n": len(predictions.labels), "n_classes": n_classes, "extra": {}}
    for model in MODELS:
        top1 = 100 * predictions.correct(model).mean(axis=1)  # S
        cell[model] = {"top1": rounded(top1.mean())}
        if model == "fusion" and len(top1) > 1:
            cell[model]["top1_sd"] = rounded(top1.std(ddof=1))
        if n_classes > 5:
            cell[model]["top5"] = rounded(100 * predictions.hits(model, 5).mean())
    if predictions.unrestricted is not None:
        cell["extra"]["unrestricted"] = {
            model: {"top1": rounded(100 * predictions.unrestricted[model].mean())} for model in MODELS
        }
    gain = predictions.gain()
    low, high = bootstrap_interval({"set": gain}, resamples, rng)
    cell["gain"] = {"top1": rounded(gain.difference.mean()), "low": rounded(low), "high": rounded(high)}
    return cell
