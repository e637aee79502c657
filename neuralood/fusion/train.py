"""Train the fusion classifier and its linear probe on the train set, choices made on a holdout of it."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.base import collectives, console, paths, ranks
from neuralood.base.device import autocast, prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import training_epochs
from neuralood.base.records import write_json
from neuralood.base.resuming import Checkpoint, Trained, checkpoint_of, kept_tensors
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import CONTENTS, Array
from neuralood.base.training import Epoch, Loss, Schedule, best_epoch, fit_together, write_curve
from neuralood.config import Fusion, Params
from neuralood.data.fmri import vertices_of
from neuralood.data.manifest import UNLABELLED, Manifest, read_manifest
from neuralood.data.splits import stratified_holdout
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import roi_encoder
from neuralood.encoder.trained import EncoderModel, load_encoder, trained_numbers
from neuralood.fusion.loss import fusion_loss
from neuralood.fusion.model import FusionClassifier, FusionSizes, vertex_order
from neuralood.fusion.probe import Probe, Split, fit_probes
from neuralood.fusion.survey import features_path, open_features, pack_scales, survey, unpack_scales
from neuralood.fusion.trained import (
    RECORD,
    HostBatch,
    ImageData,
    Inputs,
    open_image_data,
    pack_probes,
    save_seed,
    seed_folder,
    unpack_probes,
)

CURVE = "curve.tsv"


@dataclass(frozen=True)
class Seed:
    """One repetition of probe and fusion: what its random draws come from, and its share of the images."""

    number: int
    seed: int
    rows: Array
    holdout: Array


def train_fusion(params: Params) -> None:
    """Tokens and predicted fMRI of train -> data/models/fusion/, one model and one probe a seed.

    All seeds are trained on the same batches, each without its own holdout, so that the tokens are read once for all.
    """
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    manifest, (encoder, record) = read_manifest("train"), load_encoder()
    _require_encoder(params.fusion.variant, encoder)
    data, labels = open_image_data(manifest, encoder.to(device), record), np.asarray(manifest.labels)
    _require_classes(manifest, labels)
    seeds = [_draw_seed(params, labels, number) for number in range(params.fusion.seeds)]
    order = _order(params.fusion, encoder, record)
    models = [build_fusion(params.fusion, data, len(manifest.classes), order, encoder, one.seed) for one in seeds]
    models = [model.to(device) for model in models]

    member = training_rows(seeds, len(labels))
    probes = _standardise_and_probe(params, models, data, labels, seeds, member)
    trained = _fit(params, models, data, labels, member)
    if ranks.is_first():
        _save(params, manifest, encoder, seeds, models, trained, probes)
    collectives.barrier()


def _save(
    params: Params,
    manifest: Manifest,
    encoder: EncoderModel,
    seeds: Sequence[Seed],
    models: Sequence[FusionClassifier],
    trained: Sequence[Trained],
    probes: Sequence[Probe],
) -> None:
    for one, model, how, probe in zip(seeds, models, trained, probes, strict=True):
        save_seed(one.number, model, how.last, probe)
        write_curve(seed_folder(one.number) / CURVE, how.history)
        _show(one.number, probe, how.history, params.fusion)
    summary = {
        "sizes": asdict(models[0].sizes),
        "variant": params.fusion.variant,
        "pcc_weight": params.fusion.pcc_weight,
        "seeds": params.fusion.seeds,
        "classes": list(manifest.classes),
        "parameters": parameter_counts(models[0], probes[0], encoder),
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
        token_dropout=settings.token_dropout,
    )
    torch.manual_seed(derived_seed(seed, "weights"))
    own = None
    if settings.variant == "image_only" and not isinstance(encoder, ImageEncoder):
        own = roi_encoder(encoder.membership.cpu(), **encoder.sizes)
        own.standardise_by(encoder.token_mean.cpu(), encoder.token_sd.cpu())
    return FusionClassifier(sizes, order, own)


def parameter_counts(model: FusionClassifier, probe: Probe, encoder: EncoderModel) -> dict[str, int]:
    """Trained numbers of each part; `image_only` trains fusion and encoder together, the same count in all."""
    own = sum(value.numel() for value in model.encoder.parameters()) if model.encoder is not None else 0
    return {
        "linear": probe.weight.size + probe.bias.size,
        "fusion": sum(value.numel() for value in model.parameters()) - own,
        "encoder": trained_numbers(encoder),
    }


def _draw_seed(params: Params, labels: Array, number: int) -> Seed:
    seed = derived_seed(params.seed, "fusion", number)
    return Seed(number, seed, *stratified_holdout(labels, params.fusion.holdout, generator(seed, "holdout")))


def _order(settings: Fusion, encoder: EncoderModel, record: dict[str, Any]) -> Tensor:
    """The vertices that fusion reads, lined up."""
    roi = encoder.membership[: len(record["roi_names"])].cpu()  # the rest queries follow
    chosen = vertices_of(settings.rois, record["roi_names"], roi.numpy())
    return vertex_order(roi, torch.tensor(record["hemi"]), torch.from_numpy(chosen), settings.vertex_order)


def _standardise_and_probe(
    params: Params,
    models: Sequence[FusionClassifier],
    data: ImageData,
    labels: Array,
    seeds: Sequence[Seed],
    member: Array,
) -> list[Probe]:
    """Scale the models' inputs, and solve the probes: from one pass over the tokens. member: see `training_rows`."""
    device = next(models[0].parameters()).device

    def surveyed() -> dict[str, Tensor]:
        return pack_scales(survey(data, models, member, features_path()))

    scales = unpack_scales(kept_tensors(_checkpoint(params, data, "survey"), surveyed, features_path()))
    for model, own in zip(models, scales, strict=True):
        own.set_on(model)

    def solved() -> dict[str, Tensor]:
        splits = [Split(one.rows, one.holdout, *own.features) for one, own in zip(seeds, scales, strict=True)]
        return pack_probes(fit_probes(open_features(features_path()), labels, splits, params.fusion.probe_c, device))

    return unpack_probes(kept_tensors(_checkpoint(params, data, "probes"), solved))


def training_rows(seeds: Sequence[Seed], images: int) -> Array:
    """Which images each seed learns from: S I bool."""
    member = np.zeros((len(seeds), images), bool)
    for row, one in zip(member, seeds, strict=True):
        row[one.rows] = True
    return member


def _fit(
    params: Params, models: Sequence[FusionClassifier], data: ImageData, labels: Array, member: Array
) -> list[Trained]:
    settings, device = params.fusion, next(models[0].parameters()).device
    targets, held = torch.from_numpy(labels).long(), ~member
    rows = np.flatnonzero(member.any(axis=0))
    weight = 0.0 if settings.variant == "brain_only" else settings.pcc_weight

    def load(chosen: Array) -> tuple[Array, HostBatch]:
        """A batch, or a process's own part of it."""
        return chosen, data.load(chosen, device)

    def losses_of(batch: tuple[Array, HostBatch]) -> list[Loss | None]:
        chosen, host = batch
        inputs, truth = data.inputs(host, device), targets[chosen].to(device)
        places = (torch.from_numpy(np.flatnonzero(own)).to(device) for own in member[:, chosen])
        return [loss_of(model, inputs, truth, own) for model, own in zip(models, places, strict=True)]

    def loss_of(model: FusionClassifier, inputs: Inputs, truth: Tensor, own: Tensor) -> Loss | None:
        """Of the images at the places `own`; all are computed, as tensors of one shape in all steps are faster."""
        if not len(own):
            return None
        with autocast(device, settings.autocast):
            logits, image, brain = (values.float()[own] for values in model(*inputs))
        return Loss(fusion_loss(logits, truth[own], image, brain, weight, settings.label_smoothing), len(own))

    def validate() -> list[float]:
        total = [0.0] * len(models)
        for chosen, inputs in data.batches(ranks.share(np.flatnonzero(held.any(axis=0))), device):
            truth = targets[chosen].to(device)
            for number, model in enumerate(models):
                own = np.flatnonzero(held[number, chosen])
                logits = model(*inputs.at(own)).logits
                total[number] += float(F.cross_entropy(logits, truth[own], reduction="sum"))
        return [loss / int(count) for loss, count in zip(collectives.sums(total), held.sum(axis=1), strict=True)]

    def epochs_after(steps: int) -> Iterator[Iterable[tuple[Array, tuple[Array, HostBatch]]]]:
        rng = generator(derived_seed(params.seed, "fusion", 0), "batches")
        return training_epochs(data.arrays, rows, settings.shuffle_buffer, settings.batch_size, load, rng, steps)

    schedule = Schedule(
        settings.epochs, settings.batch_size, settings.lr, settings.warmup, settings.weight_decay, settings.ema
    )
    return fit_together(
        models,
        len(rows),
        epochs_after,
        losses_of,
        validate,
        schedule,
        f"fusion ({settings.variant})",
        _checkpoint(params, data, "training"),
    )


def _checkpoint(params: Params, data: ImageData, part: str) -> Checkpoint:
    """Of an interrupted run: what one part of it left."""
    decides = {
        "settings": asdict(params.fusion),
        "seed": params.seed,
        "tokens": data.tokens.attributes[CONTENTS],
        "fmri": [data.fmri.attributes[CONTENTS], data.fmri.attributes["encoder"]],
    }
    return checkpoint_of(
        paths.partial(paths.FUSION) / f"{part}.safetensors", decides, params.runtime.checkpoint_minutes
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
