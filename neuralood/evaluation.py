"""Top-1 accuracy of fusion and linear probe on one image set, from the same tokens."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuralood.base import collectives, console, paths, ranks
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import PREDICT_BATCH, batches
from neuralood.base.records import rounded, write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.config import BASELINES, Params
from neuralood.data.imagenet.corrupted import place_of
from neuralood.data.imagenet.corruptions import ALEXNET_ERROR
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.fusion.probe import Probe
from neuralood.fusion.trained import Classifier, ImageData, load_record, load_seed, open_image_data
from neuralood.predictions import MODELS, Predictions, join, read_predictions, score, write_predictions
from neuralood.robustness import RECORD, robustness

TOP = 5

BLOCK = 32 * PREDICT_BATCH
"""Images whose logits are in memory at a time: those of all images of ImageNet-C would take 15 GB."""

MOST_NAMED = 10
"""Unknown classes that one message names."""

Seeds = Sequence[tuple[Classifier, Probe]]


@dataclass(frozen=True)
class Truth:
    """What is right on a set's images: labels I, sources, `answers` I A as in Predictions.

    `columns` are the training classes that make up each class of the set.
    """

    labels: Array
    sources: tuple[str, ...]
    answers: Array | None
    columns: list[list[int]]

    @property
    def right(self) -> Array:
        """All right classes of each image: I A, padded with -1."""
        return self.labels[:, None] if self.answers is None else self.answers

    def of(self, rows: Array) -> "Truth":
        """The same of some consecutive images."""
        answers = None if self.answers is None else self.answers[rows]
        return Truth(self.labels[rows], self.sources[rows[0] : rows[-1] + 1], answers, self.columns)


def evaluate(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET -> data/eval/SET/: predictions.npz, scores.json and robustness.json.

    A set's classes may be a part of the training classes (logits are restricted to them) or unite several of
    them (a class scores by its largest logit). An image may have several right classes.
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    manifest, record, (encoder, encoder_record) = read_manifest(set_name), load_record(), load_encoder()
    truth = _truth(manifest, class_columns(manifest, record["classes"], params.sets[set_name].class_map))
    reads_fmri = record["variant"] not in BASELINES
    data = open_image_data(manifest, encoder.to(device), encoder_record, reads_fmri=reads_fmri)
    loaded = (load_seed(number, record, encoder) for number in range(record["seeds"]))
    seeds = [(model.to(device), probe) for model, probe in loaded]

    blocks = list(batches(np.arange(len(data)), BLOCK))
    own = ranks.share(blocks)
    tracked = console.track(own, f"evaluation on {set_name} (blocks of {BLOCK:,} images)", len(own))
    parts = [_predictions(model_logits(data, rows, seeds, device), truth.of(rows)) for rows in tracked]
    predictions = _of_all_processes(parts, len(blocks), paths.partial(paths.evaluation(set_name)))
    if predictions is not None:
        _save(params, manifest, truth, predictions)


def _of_all_processes(parts: list[Predictions], blocks: int, folder: Path) -> Predictions | None:
    """All blocks of the set, joined, in the first of several processes, which get them by way of files; None in others.

    Block number b is of process b modulo their count.
    """
    if ranks.count() == 1:
        return join(parts)
    for number, part in zip(range(ranks.rank(), blocks, ranks.count()), parts, strict=True):
        write_predictions(folder / str(number), part)
    collectives.barrier()
    if not ranks.is_first():
        return None
    predictions = join([read_predictions(folder / str(number)) for number in range(blocks)])
    shutil.rmtree(folder)
    return predictions


def _save(params: Params, manifest: Manifest, truth: Truth, predictions: Predictions) -> None:
    set_name = manifest.set_name
    rng = generator(params.seed, "bootstrap", set_name)
    folder = paths.evaluation(set_name)
    scores = score(predictions, len(truth.columns), params.evaluation.bootstrap, rng)
    record = robustness(predictions, manifest.classes)
    if manifest.format == "imagenet_c":
        scores["extra"] |= corruption_scores(manifest.paths, predictions)
        record["levels"] = severity_scores(manifest.paths, predictions)
    write_predictions(folder, predictions)
    write_json(folder / "scores.json", scores)
    write_json(folder / RECORD, record)
    console.results(set_name, {name: f"{scores[name]['top1']:5.1f} %" for name in MODELS})
    console.wrote(folder, f"predictions for {len(manifest)} images")


def class_columns(manifest: Manifest, trained: list[str], class_map: Mapping[str, list[int]] | None) -> list[list[int]]:
    """Training classes that make up each class of the set: by `class_map`, else by its `members`, else by its name.

    Raises UserError for a class that training does not know.
    """
    if class_map is not None:
        return _mapped_columns(manifest, len(trained), class_map)
    number = {name: index for index, name in enumerate(trained)}
    members = manifest.members or tuple((name,) for name in manifest.classes)
    unknown = [name for name, group in zip(manifest.classes, members, strict=True) if not number.keys() >= set(group)]
    if unknown:
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        raise UserError(
            f"{manifest.set_name}: training knows no class {', '.join(unknown[:MOST_NAMED])}{more}; rename the folder, "
            f"exclude it, or map it with sets.{manifest.set_name}.class_map"
        )
    return [[number[name] for name in group] for group in members]


def _mapped_columns(manifest: Manifest, trained: int, class_map: Mapping[str, list[int]]) -> list[list[int]]:
    missing = [name for name in manifest.classes if name not in class_map]
    if missing:
        raise UserError(f"sets.{manifest.set_name}.class_map: has no entry for {', '.join(missing)}")
    for name in manifest.classes:
        if max(class_map[name]) >= trained:
            raise UserError(
                f"sets.{manifest.set_name}.class_map.{name}: index {max(class_map[name])} is not among the "
                f"{trained} training classes (0 to {trained - 1})"
            )
    return [class_map[name] for name in manifest.classes]


def restrict(logits: Array, columns: list[list[int]]) -> Array:
    """Logits of a set's own classes: ... C -> ... K, each the largest of the training classes that make it up."""
    if all(len(members) == 1 for members in columns):
        return logits.take([member for (member,) in columns], axis=-1)
    return np.stack([logits[..., members].max(axis=-1) for members in columns], axis=-1)


def unrestricted(logits: Array, truth: Truth) -> Array:
    """Whether the best of all training classes belongs to a right class of the set: logits S I C -> S I bool."""
    member = np.zeros((len(truth.columns), logits.shape[-1]), bool)
    for label, columns in enumerate(truth.columns):
        member[label, columns] = True
    best = logits.argmax(axis=-1)[..., None]
    found: Array = (member[truth.right, best] & (truth.right >= 0)).any(axis=-1)
    return found


def corruption_scores(image_paths: Sequence[str], predictions: Predictions) -> dict[str, Any]:
    """Top-1 in percent under each corruption of ImageNet-C, and over how many severities; the mean corruption error.

    `mce`: over its 15 corruptions, the mean of top-1 error divided by AlexNet's, in percent; left out where one of
    them is missing. The four extra corruptions never count. Published ones are over all five severities.
    """
    at = _top1_at(image_paths, predictions)
    corruptions = sorted({corruption for corruption, _ in at})
    top1 = {
        model: {
            name: float(np.mean([value[model] for (corruption, _), value in at.items() if corruption == name]))
            for name in corruptions
        }
        for model in MODELS
    }
    extra: dict[str, Any] = {
        "corruptions": {
            name: {model: {"top1": rounded(top1[model][name])} for model in MODELS} for name in corruptions
        },
        "severities": len({severity for _, severity in at}),
    }
    if set(ALEXNET_ERROR) <= set(corruptions):
        extra["mce"] = {
            model: rounded(float(np.mean([(100 - top1[model][name]) / error for name, error in ALEXNET_ERROR.items()])))
            for model in MODELS
        }
    return extra


def severity_scores(image_paths: Sequence[str], predictions: Predictions) -> dict[str, Any]:
    """Top-1 in percent under each corruption of ImageNet-C at each severity: `levels` of metrics/robustness.json."""
    scores: dict[str, Any] = {}
    for (corruption, severity), top1 in _top1_at(image_paths, predictions).items():
        models = {model: {"top1": rounded(top1[model])} for model in MODELS}
        scores.setdefault(corruption, {})[str(severity)] = {"level": severity, **models}
    return scores


def _top1_at(image_paths: Sequence[str], predictions: Predictions) -> dict[tuple[str, int], dict[str, float]]:
    """Top-1 in percent of each model in each corruption and severity, seeds averaged."""
    rows: dict[tuple[str, int], list[int]] = {}
    for row, path in enumerate(image_paths):
        rows.setdefault(place_of(path), []).append(row)
    correct = {model: predictions.correct(model).mean(axis=0) for model in MODELS}  # I
    return {
        place: {model: float(100 * correct[model][chosen].mean()) for model in MODELS} for place, chosen in rows.items()
    }


def _truth(manifest: Manifest, columns: list[list[int]]) -> Truth:
    answers = None
    if manifest.answers is not None:
        answers = np.full((len(manifest), max(map(len, manifest.answers), default=1)), -1, np.int32)
        for row, right in enumerate(manifest.answers):
            answers[row, : len(right)] = right
    return Truth(np.asarray(manifest.labels, np.int32), manifest.sources, answers, columns)


def model_logits(data: ImageData, rows: Array, seeds: Seeds, device: torch.device) -> dict[str, Array]:
    """Of each model, logits of all training classes, S I C: the tokens are read once for all."""
    fusion: list[list[Array]] = [[] for _ in seeds]
    linear: list[list[Array]] = [[] for _ in seeds]
    with torch.inference_mode():
        for _, inputs in data.batches(rows, device):
            features = inputs.probe_features().cpu().numpy()
            for number, (model, probe) in enumerate(seeds):
                fusion[number].append(model(*inputs).logits.float().cpu().numpy())
                linear[number].append(probe.logits(features))
    parts = {"fusion": fusion, "linear": linear}
    return {name: np.stack([np.concatenate(of_seed) for of_seed in one]) for name, one in parts.items()}


def _predictions(logits: dict[str, Array], truth: Truth) -> Predictions:
    """What is kept of the logits S I C of some images."""
    ranked, confidence, log_likelihood, sum_of_squares = {}, {}, {}, {}
    for name, values in logits.items():
        own = torch.from_numpy(restrict(values, truth.columns))  # S I K
        probability = own.softmax(-1)
        ranked[name] = own.topk(min(TOP, own.shape[-1]), dim=-1).indices.numpy().astype(np.int32)
        confidence[name] = probability.amax(-1).numpy().astype(np.float32)
        log_likelihood[name] = _of_right(own.log_softmax(-1).numpy(), truth.right).astype(np.float32)
        sum_of_squares[name] = probability.square().sum(-1).numpy().astype(np.float32)
    classes = next(iter(logits.values())).shape[-1]
    all_alike = sorted(truth.columns) == [[column] for column in range(classes)]
    return Predictions(
        labels=truth.labels,
        ranked=ranked,
        confidence=confidence,
        log_likelihood=log_likelihood,
        sum_of_squares=sum_of_squares,
        sources=truth.sources,
        answers=truth.answers,
        unrestricted=None if all_alike else {name: unrestricted(values, truth) for name, values in logits.items()},
    )


def _of_right(values: Array, right: Array) -> Array:
    """The largest of the values S I K at the right classes I A of each image, -1 for none: S I."""
    at_right = values[:, np.arange(len(right))[:, None], right]
    largest: Array = np.where(right >= 0, at_right, -np.inf).max(axis=-1)
    return largest
