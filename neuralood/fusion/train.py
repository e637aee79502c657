"""Train the fusion classifier and its linear probe on the train set, choices made on a holdout of it."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.base import collectives, console, paths, ranks
from neuralood.base.device import autocast, prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import groups_of, training_epochs
from neuralood.base.records import write_json
from neuralood.base.resuming import Checkpoint, Trained, checkpoint_of, kept_tensors
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import CONTENTS, Array
from neuralood.base.training import Loss, Schedule, fit_together, write_curve
from neuralood.config import BASELINES, Fusion, Params
from neuralood.data.fmri import vertices_of
from neuralood.data.manifest import UNLABELLED, Manifest, read_manifest
from neuralood.data.splits import stratified_holdout
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import roi_encoder
from neuralood.encoder.trained import EncoderModel, load_encoder, trained_numbers
from neuralood.fusion import dinov2_probe
from neuralood.fusion.baselines import TRAINED, Baseline, LinearHead
from neuralood.fusion.loss import fusion_loss
from neuralood.fusion.mixup import mixed
from neuralood.fusion.model import FusionClassifier, FusionSizes, vertex_order
from neuralood.fusion.neighbours import NearestNeighbours
from neuralood.fusion.probe import Probe, Split, fit_probes
from neuralood.fusion.solved import Features, Kept, neighbours, probe_ensembles, weight_averages
from neuralood.fusion.survey import features_path, open_features, pack_scales, survey, unpack_scales
from neuralood.fusion.trained import (
    NEIGHBOURS,
    RECORD,
    Classifier,
    HostBatch,
    ImageData,
    Inputs,
    PooledData,
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
    A baseline (`fusion.variant`) is kept in place of the fusion classifier, and reads no fMRI.
    """
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    manifest, (encoder, record) = read_manifest("train"), load_encoder()
    _require_encoder(params.fusion.variant, encoder)
    reads_fmri = params.fusion.variant not in BASELINES
    data = open_image_data(manifest, encoder.to(device), record, reads_fmri=reads_fmri)
    labels = np.asarray(manifest.labels)
    _require_classes(manifest, labels)
    seeds = [_draw_seed(params, labels, number) for number in range(params.fusion.seeds)]
    order = _order(params.fusion, encoder, record)
    models = [candidates(params.fusion, data, len(manifest.classes), order, encoder, one.seed) for one in seeds]
    models = [[model.to(device) for model in of_seed] for of_seed in models]

    member = training_rows(seeds, len(labels))
    splits = _standardise(params, models, data, seeds, member)
    features = Features(open_features(features_path()), labels, splits, device)
    probes = _solve_probes(params, data, features)
    kept = _keep(params, models, data, features, probes)
    if ranks.is_first():
        linear = [features.holdout_loss(number, probe) for number, probe in enumerate(probes)]
        _save(params, manifest, encoder, kept, probes, linear)
    collectives.barrier()


def _save(
    params: Params,
    manifest: Manifest,
    encoder: EncoderModel,
    kept: Sequence[Kept],
    probes: Sequence[Probe],
    linear: Sequence[float],
) -> None:
    """linear: cross-entropy of the probes on the holdouts."""
    for number, (one, probe) in enumerate(zip(kept, probes, strict=True)):
        save_seed(number, one.model, one.trained.last if one.trained else {}, probe)
        if one.trained:
            write_curve(seed_folder(number) / CURVE, one.trained.history)
        _show(number, probe, one, params.fusion)
    model = kept[0].model
    summary = {
        "sizes": asdict(model.sizes),
        "variant": params.fusion.variant,
        "pcc_weight": params.fusion.pcc_weight,
        "seeds": params.fusion.seeds,
        "classes": list(manifest.classes),
        "parameters": parameter_counts(model, probes[0], encoder),
        "chosen": [one.choice for one in kept],
        "holdout": {"linear": list(linear), "fusion": [one.holdout for one in kept]},
    }
    write_json(paths.FUSION / RECORD, summary)
    shutil.rmtree(paths.partial(paths.FUSION), ignore_errors=True)
    console.wrote(paths.FUSION, f"{params.fusion.variant} and linear probe, {params.fusion.seeds} seed(s)")


def candidates(
    settings: Fusion, data: ImageData, classes: int, order: Tensor, encoder: EncoderModel, seed: int
) -> list[Classifier]:
    """What one seed trains, side by side where it is more than one model, or what it solves: with random weights."""
    if settings.variant not in BASELINES:
        return [build_fusion(settings, data, classes, order, encoder, seed)]
    sizes = _sizes(settings, data, classes, len(order))
    torch.manual_seed(derived_seed(seed, "weights"))
    if settings.variant == "dinov2_probe":
        return [*dinov2_probe.heads(sizes, data.layers)]
    if settings.variant == "knn":
        return [NearestNeighbours(sizes, len(data), paths.FUSION / NEIGHBOURS)]
    return [TRAINED[settings.variant](sizes) if settings.variant in TRAINED else LinearHead(sizes, sizes.patch_width)]


def build_fusion(
    settings: Fusion, data: ImageData, classes: int, order: Tensor, encoder: EncoderModel, seed: int
) -> FusionClassifier:
    """A fusion classifier with random weights; `image_only` gets an encoder of its own, random too."""
    torch.manual_seed(derived_seed(seed, "weights"))
    own = None
    if settings.variant == "image_only" and not isinstance(encoder, ImageEncoder):
        own = roi_encoder(encoder.membership.cpu(), **encoder.sizes)
        own.standardise_by(encoder.token_mean.cpu(), encoder.token_sd.cpu())
    return FusionClassifier(_sizes(settings, data, classes, len(order)), order, own)


def _sizes(settings: Fusion, data: ImageData, classes: int, vertices: int) -> FusionSizes:
    return FusionSizes(
        variant=settings.variant,
        cls_width=data.tokens["cls"].shape[1],
        patch_width=data.layers * data.tokens["patches"].shape[3],
        vertices=vertices,
        classes=classes,
        patch=settings.patch,
        depth=settings.depth,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
        token_dropout=settings.token_dropout,
    )


def parameter_counts(model: Classifier, probe: Probe, encoder: EncoderModel) -> dict[str, int]:
    """Trained numbers of each part; `image_only` trains fusion and encoder together, the same count in all.

    A baseline has no encoder.
    """
    own = sum(value.numel() for value in model.encoder.parameters()) if model.encoder is not None else 0
    return {
        "linear": probe.weight.size + probe.bias.size,
        "fusion": sum(value.numel() for value in model.parameters()) - own,
        "encoder": 0 if isinstance(model, Baseline) else trained_numbers(encoder),
    }


def _draw_seed(params: Params, labels: Array, number: int) -> Seed:
    seed = derived_seed(params.seed, "fusion", number)
    return Seed(number, seed, *stratified_holdout(labels, params.fusion.holdout, generator(seed, "holdout")))


def _order(settings: Fusion, encoder: EncoderModel, record: dict[str, Any]) -> Tensor:
    """The vertices that fusion reads, lined up."""
    roi = encoder.membership[: len(record["roi_names"])].cpu()  # the rest queries follow
    chosen = vertices_of(settings.rois, record["roi_names"], roi.numpy())
    return vertex_order(roi, torch.tensor(record["hemi"]), torch.from_numpy(chosen), settings.vertex_order)


def _standardise(
    params: Params, models: Sequence[Sequence[Classifier]], data: ImageData, seeds: Sequence[Seed], member: Array
) -> list[Split]:
    """Scale the inputs of all models of each seed; one pass over the tokens writes what the probe reads of them.

    member: see `training_rows`. Returns each seed's split, with the scales of what the probe reads.
    """

    def surveyed() -> dict[str, Tensor]:
        return pack_scales(survey(data, [of_seed[0] for of_seed in models], member, features_path()))

    scales = unpack_scales(kept_tensors(_checkpoint(params, data, "survey"), surveyed, features_path()))
    for of_seed, own in zip(models, scales, strict=True):
        for model in of_seed:
            own.set_on(model)
    return [Split(one.rows, one.holdout, *own.features) for one, own in zip(seeds, scales, strict=True)]


def _solve_probes(
    params: Params, data: ImageData, features: Features, name: str = "probes", columns: slice = slice(None)
) -> list[Probe]:
    """The linear probe of each seed, on all features or on some columns of them; kept by that name."""
    splits = [replace(one, mean=one.mean[columns], sd=one.sd[columns]) for one in features.splits]

    def solved() -> dict[str, Tensor]:
        strengths = params.fusion.probe_c
        return pack_probes(fit_probes(features.rows, features.labels, splits, strengths, features.device, columns))

    return unpack_probes(kept_tensors(_checkpoint(params, data, name), solved))


def _keep(
    params: Params,
    models: Sequence[Sequence[Classifier]],
    data: ImageData,
    features: Features,
    probes: Sequence[Probe],
) -> list[Kept]:
    """Solve or train the models of all seeds."""
    first: list[Any] = [of_seed[0] for of_seed in models]
    match params.fusion.variant:
        case "knn":
            return neighbours(first, features)
        case "wise":
            return weight_averages(first, features, probes)
        case "probe_ensemble":
            return probe_ensembles(first, features, partial(_solve_probes, params, data, features))
        case "mlp" | "dinov2_probe":
            data = PooledData(data.tokens, data.fmri, None, data.encoder, features.rows)
    return _trained(params, models, data, features)


def _trained(params: Params, models: Sequence[Sequence[Classifier]], data: ImageData, features: Features) -> list[Kept]:
    """Train all candidates of all seeds; of each seed keep the one of lowest cross-entropy on the holdout, or first."""
    member = training_rows(features.splits, len(data)).repeat(len(models[0]), axis=0)
    flat = [model for of_seed in models for model in of_seed]
    trained = zip(flat, _fit(params, flat, data, features.labels, member), strict=True)
    grid = [head._asdict() for head in dinov2_probe.grid(data.layers)] if len(models[0]) > 1 else [{}]
    kept = []
    for of_seed in groups_of(trained, len(grid)):
        ends = [min(how.history, key=lambda one: one.validation_loss) for _, how in of_seed]
        best = min(range(len(grid)), key=lambda number: ends[number].validation_loss)
        model, how = of_seed[best]
        kept.append(Kept(model, {"epoch": ends[best].epoch, **grid[best]}, ends[best].validation_loss, how))
    return kept


def training_rows(seeds: Sequence[Seed | Split], images: int) -> Array:
    """Which images each seed learns from: S I bool."""
    member = np.zeros((len(seeds), images), bool)
    for row, one in zip(member, seeds, strict=True):
        row[one.rows] = True
    return member


def _fit(params: Params, models: Sequence[Classifier], data: ImageData, labels: Array, member: Array) -> list[Trained]:
    settings, device = params.fusion, next(models[0].parameters()).device
    targets, held = torch.from_numpy(labels).long(), ~member
    rows = np.flatnonzero(member.any(axis=0))
    weight = 0.0 if settings.variant in ("brain_only", *BASELINES) else settings.pcc_weight

    def load(chosen: Array) -> tuple[Array, HostBatch]:
        """A batch, or a process's own part of it."""
        return chosen, data.load(chosen, device)

    def losses_of(batch: tuple[Array, HostBatch]) -> list[Loss | None]:
        chosen, host = batch
        inputs, truth = data.inputs(host, device), targets[chosen].to(device)
        places = (torch.from_numpy(np.flatnonzero(own)).to(device) for own in member[:, chosen])
        return [loss_of(model, inputs, truth, own) for model, own in zip(models, places, strict=True)]

    def loss_of(model: Classifier, inputs: Inputs, truth: Tensor, own: Tensor) -> Loss | None:
        """Of the images at the places `own`; all are computed, as tensors of one shape in all steps are faster."""
        if not len(own):
            return None
        if settings.mixup:
            inputs, truth = mixed(inputs, truth, own, model.sizes.classes, settings.mixup)
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

    return fit_together(
        models,
        len(rows),
        epochs_after,
        losses_of,
        validate,
        _schedule(settings, data, len(models)),
        f"fusion ({settings.variant})",
        _checkpoint(params, data, "training"),
    )


def _schedule(settings: Fusion, data: ImageData, models: int) -> Schedule:
    if settings.variant == "dinov2_probe":
        return dinov2_probe.schedule(settings, data.layers, models)
    return Schedule(
        settings.epochs, settings.batch_size, settings.lr, settings.warmup, settings.weight_decay, settings.ema
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


def _show(number: int, probe: Probe, kept: Kept, settings: Fusion) -> None:
    rows = {"probe: inverse penalty chosen": f"{probe.c:g}"}
    for name, value in kept.choice.items():
        rows[f"{settings.variant}: {name} kept"] = f"{value}"
    rows[f"{settings.variant}: cross-entropy on the holdout"] = f"{kept.holdout:.4f}"
    console.results(f"Fusion, {settings.variant}, seed {number}", rows)
