"""Top-1 accuracy of fusion and linear probe on one image set, from the same tokens."""

from collections.abc import Mapping

import numpy as np
import torch

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.fusion.trained import load_record, load_seed, open_image_data, predict
from neuralood.predictions import MODELS, Predictions, score, write_predictions

TOP = 5


def evaluate(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET -> data/eval/SET/: predictions.npz and scores.json.

    A set's classes may be a part of the training classes (logits are restricted to them) or unite several of
    them by `class_map` (a class scores by its largest logit).
    """
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    manifest, record, (encoder, encoder_record) = read_manifest(set_name), load_record(), load_encoder()
    columns = class_columns(manifest, record["classes"], params.sets[set_name].class_map)
    data = open_image_data(manifest, encoder_record)
    rows, features = np.arange(len(data)), data.probe_features(np.arange(len(data)))

    logits: dict[str, list[Array]] = {model: [] for model in MODELS}
    for number in console.track(range(record["seeds"]), f"evaluation on {set_name} (seeds)", record["seeds"]):
        model, probe = load_seed(number, record, encoder)
        logits["fusion"].append(restrict(predict(model.to(device), data, rows).numpy(), columns))
        logits["linear"].append(restrict(probe.logits(features), columns))
    predictions = _predictions(manifest, logits)
    rng = generator(params.seed, "bootstrap", set_name)
    folder = paths.evaluation(set_name)
    scores = score(predictions, len(columns), params.evaluation.bootstrap, rng)
    write_predictions(folder, predictions)
    write_json(folder / "scores.json", scores)
    console.results(set_name, {name: f"{scores[name]['top1']:.1f} %" for name in MODELS})
    console.wrote(folder, f"predictions for {len(data)} images")


def class_columns(manifest: Manifest, trained: list[str], class_map: Mapping[str, list[int]] | None) -> list[list[int]]:
    """Training classes that make up each class of the set. Raises UserError for a class training does not know."""
    if class_map is None:
        unknown = [name for name in manifest.classes if name not in trained]
        if unknown:
            raise UserError(
                f"{manifest.set_name}: training knows no class {', '.join(unknown)}; rename the folder, exclude it, "
                f"or map it with sets.{manifest.set_name}.class_map"
            )
        return [[trained.index(name)] for name in manifest.classes]
    missing = [name for name in manifest.classes if name not in class_map]
    if missing:
        raise UserError(f"sets.{manifest.set_name}.class_map: has no entry for {', '.join(missing)}")
    for name in manifest.classes:
        if max(class_map[name]) >= len(trained):
            raise UserError(
                f"sets.{manifest.set_name}.class_map.{name}: index {max(class_map[name])} is not among the "
                f"{len(trained)} training classes (0 to {len(trained) - 1})"
            )
    return [class_map[name] for name in manifest.classes]


def restrict(logits: Array, columns: list[list[int]]) -> Array:
    """Logits of a set's own classes: I C -> I K, each the largest of the training classes that make it up."""
    return np.stack([logits[:, members].max(axis=1) for members in columns], axis=1)


def _predictions(manifest: Manifest, logits: dict[str, list[Array]]) -> Predictions:
    labels = np.asarray(manifest.labels, np.int32)
    ranked, confidence = {}, {}
    for name, seeds in logits.items():
        stacked = torch.from_numpy(np.stack(seeds))  # S I K
        top = stacked.topk(min(TOP, stacked.shape[-1]), dim=-1).indices
        ranked[name] = top.numpy().astype(np.int32)
        confidence[name] = stacked.softmax(-1).amax(-1).numpy().astype(np.float32)
    return Predictions(labels, ranked, confidence, manifest.sources)
