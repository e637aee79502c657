"""Train the fusion classifier and its linear probe on the train set, choices made on a holdout of it."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import (
    PREDICT_BATCH,
    batches,
    mean_and_sd,
    read_batches,
    token_statistics,
    training_epochs,
)
from neuralood.base.records import write_json
from neuralood.base.resuming import Checkpoint, checkpoint_of
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import CONTENTS, Array
from neuralood.base.training import Epoch, Schedule, best_epoch, fit, write_curve
from neuralood.config import Fusion, Params
from neuralood.data.fmri import vertices_of
from neuralood.data.manifest import UNLABELLED, Manifest, read_manifest
from neuralood.data.splits import stratified_holdout
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import roi_encoder
from neuralood.encoder.trained import EncoderModel, load_encoder, trained_numbers
from neuralood.fusion.loss import fusion_loss
from neuralood.fusion.model import FusionClassifier, FusionOutput, FusionSizes, vertex_order
from neuralood.fusion.probe import Probe, fit_probe
from neuralood.fusion.trained import RECORD, HostBatch, ImageData, open_image_data, save_seed, seed_folder

CURVE = "curve.tsv"
FMRI_SD_FLOOR = 1e-3
"""Smallest sd, in units of the measured fMRI, by which a predicted vertex is standardised."""


def train_fusion(params: Params) -> None:
    """Tokens and predicted fMRI of train -> data/models/fusion/, one model and one probe a seed."""
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    manifest, (encoder, record) = read_manifest("train"), load_encoder()
    _require_encoder(params.fusion.variant, encoder)
    data, labels = open_image_data(manifest, record), np.asarray(manifest.labels)
    _require_classes(manifest, labels)
    roi = encoder.membership[: len(record["roi_names"])]  # the rest queries follow
    chosen = vertices_of(params.fusion.rois, record["roi_names"], roi.numpy())
    order = vertex_order(roi, torch.tensor(record["hemi"]), torch.from_numpy(chosen), params.fusion.vertex_order)

    features = data.probe_features(np.arange(len(data)))
    for number in range(params.fusion.seeds):
        seed = derived_seed(params.seed, "fusion", number)
        rows, holdout = stratified_holdout(labels, params.fusion.holdout, generator(seed, "holdout"))
        probe = fit_probe(features, labels, rows, holdout, params.fusion.probe_c)
        model = build_fusion(params.fusion, data, len(manifest.classes), order, encoder, seed).to(device)
        standardise(model, data, rows)
        history = _fit(params, model, data, labels, rows, holdout, number)
        save_seed(number, model, probe)
        write_curve(seed_folder(number) / CURVE, history)
        _show(number, probe, history, params.fusion)
    summary = {
        "sizes": asdict(model.sizes),
        "variant": params.fusion.variant,
        "pcc_weight": params.fusion.pcc_weight,
        "seeds": params.fusion.seeds,
        "classes": list(manifest.classes),
        "parameters": parameter_counts(model, probe, encoder),
    }
    write_json(paths.FUSION / RECORD, summary)
    shutil.rmtree(paths.partial(paths.FUSION), ignore_errors=True)
    console.wrote(paths.FUSION, f"fusion and linear probe, {params.fusion.seeds} seed(s)")


def build_fusion(
    settings: Fusion, data: ImageData, classes: int, order: Tensor, encoder: EncoderModel, seed: int
) -> FusionClassifier:
    """A fusion classifier with random weights; `image_only` gets an encoder of its own, random too."""
    _, layers, _, width = data.tokens["patches"].shape
    sizes = FusionSizes(
        variant=settings.variant,
        cls_width=data.tokens["cls"].shape[1],
        patch_width=layers * width,
        vertices=len(order),
        classes=classes,
        patch=settings.patch,
        depth=settings.depth,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
    )
    torch.manual_seed(derived_seed(seed, "weights"))
    own = None
    if settings.variant == "image_only" and not isinstance(encoder, ImageEncoder):
        own = roi_encoder(encoder.membership, **encoder.sizes)
        own.standardise_by(encoder.token_mean, encoder.token_sd)
    return FusionClassifier(sizes, order, own)


def standardise(model: FusionClassifier, data: ImageData, rows: Array) -> None:
    """Set the model's input statistics from the training rows, holdout left out.

    For `image_only` those of its own encoder's first output: no statistic of measured fMRI enters.
    """
    device = next(model.parameters()).device
    cls = (torch.from_numpy(data.tokens["cls"][chosen]) for chosen in batches(rows, PREDICT_BATCH))
    model.scale_cls.set(*mean_and_sd(cls))
    model.scale_patches.set(*token_statistics(data.tokens, rows))
    model.eval()
    with torch.inference_mode():
        read = data.batches(rows, device)
        mean, sd = mean_and_sd(model.vertices_of(patches, fmri) for _, patches, fmri in read)
    model.scale_fmri.set(mean, sd, FMRI_SD_FLOOR)


def parameter_counts(model: FusionClassifier, probe: Probe, encoder: EncoderModel) -> dict[str, int]:
    """Trained numbers of each part; `image_only` trains fusion and encoder together, the same count in all."""
    own = sum(value.numel() for value in model.encoder.parameters()) if model.encoder is not None else 0
    return {
        "linear": probe.weight.size + probe.bias.size,
        "fusion": sum(value.numel() for value in model.parameters()) - own,
        "encoder": trained_numbers(encoder),
    }


def _fit(
    params: Params,
    model: FusionClassifier,
    data: ImageData,
    labels: Array,
    rows: Array,
    holdout: Array,
    number: int,
) -> list[Epoch]:
    settings, device = params.fusion, next(model.parameters()).device
    targets = torch.from_numpy(labels).long()
    weight = 0.0 if settings.variant == "brain_only" else settings.pcc_weight

    def load(chosen: Array) -> tuple[HostBatch, Tensor]:
        return data.load(chosen, device), targets[chosen]

    def outputs(batch: tuple[HostBatch, Tensor]) -> tuple[FusionOutput, Tensor]:
        inputs, truth = batch
        return model(*inputs.on(device)), truth.to(device)

    def loss_of(batch: tuple[HostBatch, Tensor]) -> Tensor:
        output, truth = outputs(batch)
        return fusion_loss(output.logits, truth, output.image, output.brain, weight)

    def validate() -> float:
        total = 0.0
        for _, batch in read_batches(data.arrays, holdout, PREDICT_BATCH, load):
            output, truth = outputs(batch)
            total += float(F.cross_entropy(output.logits, truth, reduction="sum"))
        return total / len(holdout)

    def epochs_after(steps: int) -> Iterator[Iterable[tuple[Array, tuple[HostBatch, Tensor]]]]:
        rng = generator(derived_seed(params.seed, "fusion", number), "batches")
        return training_epochs(data.arrays, rows, settings.shuffle_buffer, settings.batch_size, load, rng, steps)

    return fit(
        model,
        len(rows),
        epochs_after,
        loss_of,
        validate,
        Schedule(settings.epochs, settings.batch_size, settings.lr, settings.warmup, settings.weight_decay),
        f"fusion ({settings.variant})",
        _checkpoint(params, data, number),
    )


def _checkpoint(params: Params, data: ImageData, number: int) -> Checkpoint:
    """Of an interrupted training of the seed `number`."""
    decides = {
        "settings": asdict(params.fusion),
        "seed": [params.seed, number],
        "tokens": data.tokens.attributes[CONTENTS],
        "fmri": data.fmri.attributes[CONTENTS],
    }
    return checkpoint_of(
        paths.partial(paths.FUSION) / f"seed{number}.safetensors", decides, params.runtime.checkpoint_minutes
    )


def _require_encoder(variant: str, encoder: EncoderModel) -> None:
    if variant == "image_only" and isinstance(encoder, ImageEncoder):
        raise UserError(
            "fusion.variant: image_only trains an encoder of tokens from random weights, and the imported one reads "
            "images: choose bmfl, concat or brain_only"
        )


def _require_classes(manifest: Manifest, labels: Array) -> None:
    if len(manifest.classes) < 2 or (labels == UNLABELLED).any():
        raise UserError(f"{paths.manifest('train')}: train needs labelled images of at least two classes")
    counts = np.bincount(labels, minlength=len(manifest.classes))
    if counts.min() < 2:
        name = manifest.classes[int(counts.argmin())]
        raise UserError(f"train: class {name} has {counts.min()} image(s), wants 2 or more (one is held out)")


def _show(number: int, probe: Probe, history: list[Epoch], settings: Fusion) -> None:
    kept = best_epoch(history)
    rows = {
        "probe: inverse penalty chosen": f"{probe.c:g}",
        "fusion: epoch kept": f"{kept} of {settings.epochs}",
        "fusion: cross-entropy on the holdout": f"{history[kept - 1].validation_loss:.4f}",
    }
    console.results(f"Fusion, {settings.variant}, seed {number}", rows)
