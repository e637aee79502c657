"""Train the brain encoder on tokens and fMRI of the same images, and score it on images it never saw."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.backbone import load_backbone
from neuralood.base import console, paths
from neuralood.base.device import pins_memory, prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import (
    PREDICT_BATCH,
    HostPatches,
    host_patches,
    read_batches,
    token_statistics,
    training_epochs,
)
from neuralood.base.resuming import Checkpoint, checkpoint_of
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import CONTENTS, Array, Store, open_store
from neuralood.base.training import Epoch, Schedule, best_epoch, fit, write_curve
from neuralood.config import Params
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, Measured, read_measured
from neuralood.data.images import read_image
from neuralood.data.manifest import read_manifest
from neuralood.encoder.controls import feature_fmri, shuffled_fmri
from neuralood.encoder.model import RoiEncoder, query_membership
from neuralood.encoder.scoring import score_encoder
from neuralood.encoder.trained import predict, save_encoder

CURVE = "curve.tsv"


def train_encoder(params: Params) -> None:
    """data/tokens/nsd.zarr and data/fmri/measured.zarr -> data/models/encoder/, and metrics/encoder.json and .zarr."""
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    tokens, measured = open_store(paths.tokens("nsd")), read_measured()
    _require_same_images(tokens, measured)
    parts = [measured.rows(part) for part in (TRAIN, VALIDATION, TEST)]

    fmri = np.array(measured.fmri[:], np.float32)
    model, history = _train_control(params, tokens, fmri, measured, parts, device)
    record = score_encoder(params, predict(model, tokens, parts[2]), tokens, measured, fmri, device)

    save_encoder(model, tokens, measured, params.encoder.control, best_epoch(history) if history else 0)
    write_curve(paths.ENCODER / CURVE, history)
    shutil.rmtree(paths.partial(paths.ENCODER), ignore_errors=True)
    _show(record, params.encoder.control, history)


def build_encoder(params: Params, measured: Measured, tokens: Store, seed: int) -> RoiEncoder:
    """An encoder with random weights for this subject and these tokens."""
    _, layers, _, width = tokens["patches"].shape
    membership = query_membership(torch.tensor(measured.roi), torch.tensor(measured.hemi))
    torch.manual_seed(seed)
    settings = params.encoder
    return RoiEncoder(
        membership,
        grid=tokens.attributes["grid"],
        token_width=layers * width,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        dropout=settings.dropout,
        positions=settings.positions,
        start=settings.start,
    )


def _train_control(
    params: Params, tokens: Store, fmri: Array, measured: Measured, parts: list[Array], device: torch.device
) -> tuple[RoiEncoder, list[Epoch]]:
    """The encoder that `encoder.control` asks for, and its training curve."""
    control, seed = params.encoder.control, params.seed
    model = build_encoder(params, measured, tokens, derived_seed(seed, "encoder weights")).to(device)
    model.standardise_by(*token_statistics(tokens, parts[0]))
    if control == "untrained":
        return model.eval(), []
    if control == "features":
        fmri = _feature_targets(params, measured, parts[0])
    if control != "shuffled":
        return model, _fit(params, model, tokens, fmri, parts, _checkpoint(params, tokens, measured, control))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    kept = best_epoch(_fit(params, model, tokens, fmri, parts, _checkpoint(params, tokens, measured, "none")))
    model.load_state_dict(start)
    shuffled = shuffled_fmri(fmri, parts[:2], generator(seed, "shuffled fMRI"))
    checkpoint = _checkpoint(params, tokens, measured, control)
    return model, _fit(params, model, tokens, shuffled, parts, checkpoint, kept)


def _checkpoint(params: Params, tokens: Store, measured: Measured, target: str) -> Checkpoint:
    """Of an interrupted training on the fMRI that is called `target`."""
    decides = {
        "settings": asdict(params.encoder),
        "fmri": [asdict(params.fmri), measured.fingerprint],
        "tokens": tokens.attributes[CONTENTS],
        "seed": params.seed,
        "target": target,
    }
    return checkpoint_of(
        paths.partial(paths.ENCODER) / f"{target}.safetensors", decides, params.runtime.checkpoint_minutes
    )


def _fit(
    params: Params,
    model: RoiEncoder,
    tokens: Store,
    fmri: Array,
    parts: list[Array],
    checkpoint: Checkpoint,
    stop_after: int | None = None,
) -> list[Epoch]:
    """Train by mean squared error; with `stop_after` for that many epochs, else to the best by validation."""
    device = next(model.parameters()).device
    arrays, target = (tokens["patches"],), torch.from_numpy(fmri)

    def load(rows: Array) -> tuple[HostPatches, Tensor]:
        return host_patches(tokens, rows, pin=pins_memory(device)), target[rows]

    def loss_of(batch: tuple[HostPatches, Tensor]) -> Tensor:
        patches, measured = batch
        return F.mse_loss(model(patches.on(device)), measured.to(device))

    def validate() -> float:
        parts_loss = [
            float(loss_of(batch)) * len(rows) for rows, batch in read_batches(arrays, parts[1], PREDICT_BATCH, load)
        ]
        return sum(parts_loss) / len(parts[1])

    settings = params.encoder

    def epochs_after(steps: int) -> Iterator[Iterable[tuple[Array, tuple[HostPatches, Tensor]]]]:
        rng = generator(params.seed, "encoder batches")
        return training_epochs(arrays, parts[0], settings.shuffle_buffer, settings.batch_size, load, rng, steps)

    return fit(
        model,
        len(parts[0]),
        epochs_after,
        loss_of,
        validate,
        Schedule(settings.epochs, settings.batch_size, settings.lr, settings.weight_decay),
        f"brain encoder ({settings.control})",
        checkpoint,
        stop_after,
    )


def _feature_targets(params: Params, measured: Measured, train: Array) -> Array:
    """Projections of another network's (or layer's) features of the same images, at the measured ceilings."""
    manifest = read_manifest("nsd")
    backbone = load_backbone(**asdict(params.encoder.control_features), data_root=paths.data_root())
    transform = backbone.preprocessing.transform()
    features = []
    files = console.track(manifest.image_files(), "features of the control (images)", len(manifest))
    for group in _groups_of(files, PREDICT_BATCH):
        cls, patches = backbone.tokens(torch.stack([transform(read_image(file)) for file in group]))
        features.append(torch.cat([cls, patches.flatten(1)], dim=1).numpy())
    if measured.ceiling is None:
        console.warn("no noise ceiling is known: the features control trains on noiseless projections")
    ceiling = np.ones(len(measured.hemi)) if measured.ceiling is None else measured.ceiling
    return feature_fmri(np.concatenate(features), train, ceiling, generator(params.seed, "feature projections"))


def _groups_of(items: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while group := list(islice(items, size)):
        yield group


def _require_same_images(tokens: Store, measured: Measured) -> None:
    if tokens.attributes["dataset"] != measured.dataset:
        raise UserError(
            f"{tokens.path} and {paths.MEASURED} are of different images: run `dvc repro`, which makes both again"
        )


def _show(record: dict[str, Any], control: str, history: list[Epoch]) -> None:
    simulated = " (simulated fMRI)" if record["data"] == "simulated" else ""
    rows = {
        "median r, encoder": f"{record['pearson']['median']:.3f}",
        **{f"median r, {name}": f"{scores['pearson']['median']:.3f}" for name, scores in record["baselines"].items()},
        "epoch kept": str(best_epoch(history)) if history else "none",
    }
    for group, scores in record["groups"].items():
        over = scores["over_ridge"]
        rows[f"mean r over {record['best_ridge']}, {group}"] = (
            f"{over['r']:+.3f} ({over['low']:+.3f} to {over['high']:+.3f})"
        )
        if "fraction_of_ceiling" in scores:
            rows[f"fraction of ceiling, {group}"] = f"{scores['fraction_of_ceiling']:.3f}"
    console.results(f"Brain encoder, control {control}{simulated}", rows)
    console.wrote(paths.ENCODER, "brain encoder")
    console.wrote(paths.ENCODER_METRICS, "scores on unseen images")
    console.wrote(paths.ENCODER_VERTICES, "the same, a vertex")
