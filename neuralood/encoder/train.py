"""Train the brain encoder on tokens and fMRI of the same images, and score it on images it never saw."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.backbone import load_backbone
from neuralood.base import collectives, console, paths, ranks
from neuralood.base.device import pins_memory, prepare_torch
from neuralood.base.reading import (
    PREDICT_BATCH,
    HostPatches,
    groups_of,
    host_patches,
    read_batches,
    token_statistics,
    training_epochs,
)
from neuralood.base.resuming import Checkpoint, checkpoint_of
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import CONTENTS, Array, Store
from neuralood.base.training import Epoch, Schedule, best_epoch, fit, write_curve
from neuralood.config import Params
from neuralood.data.fmri import TEST, Measured
from neuralood.data.images import read_image
from neuralood.data.manifest import read_manifest
from neuralood.encoder.controls import feature_fmri, kept_epoch, shuffled_fmri
from neuralood.encoder.model import (
    EncoderEnsemble,
    RoiEncoder,
    RoiEncoders,
    SharedTrunk,
    encoder_sizes,
    query_membership,
)
from neuralood.encoder.scoring import score_encoder
from neuralood.encoder.trained import predict, save_encoder
from neuralood.encoder.viewers import Viewer, first_viewer, further_readout, further_viewers

T = TypeVar("T")

Batch = tuple[HostPatches, Tensor]
"""Patch tokens of some images, and their fMRI, B V."""


def train_encoder(params: Params) -> None:
    """Tokens of nsd and data/fmri/measured.zarr -> data/models/encoder/, and metrics/encoder.json and .zarr.

    Those of `encoder.more_subjects` help to train the trunk; the first subject's encoder is chosen, scored and kept.
    """
    device = prepare_torch(params.runtime.device, params.runtime.training_threads)
    first = first_viewer(params)
    viewers = [first, *further_viewers(params, first)]
    model, histories = _train_members(params, viewers, device)
    if ranks.is_first():
        with ranks.alone():
            _score_and_save(params, model, histories, first)
    collectives.barrier()


def _score_and_save(params: Params, model: RoiEncoders, histories: list[list[Epoch]], first: Viewer) -> None:
    tokens, measured = first.tokens, first.measured
    predicted = predict(model, tokens, measured.rows(TEST))
    record = score_encoder(params, predicted, measured, first.fmri)
    save_encoder(model, tokens, measured, params.encoder.control, kept_epoch(histories[0], params.encoder.control))
    for number, history in enumerate(histories):
        write_curve(paths.encoder_curve(number), history)
    shutil.rmtree(paths.partial(paths.ENCODER), ignore_errors=True)
    _show(record, params.encoder.control, histories)


def build_encoder(params: Params, measured: Measured, tokens: Store, seed: int) -> RoiEncoder:
    """An encoder, one member of an ensemble, with random weights for this subject and these tokens."""
    _, layers, _, width = tokens["patches"].shape
    membership = query_membership(torch.tensor(measured.roi), torch.tensor(measured.hemi))
    torch.manual_seed(seed)
    return RoiEncoder(membership, **encoder_sizes(params.encoder, tokens.attributes["grid"], layers * width))


def _train_members(
    params: Params, viewers: list[Viewer], device: torch.device
) -> tuple[RoiEncoders, list[list[Epoch]]]:
    """The encoder that `encoder.control` asks for, of the first of `viewers`, and the training curve of each member."""
    control, statistics = params.encoder.control, token_statistics(viewers[0].tokens, viewers[0].train)
    targets = viewers
    if control == "features":
        targets = [replace(viewer, fmri=_feature_targets(params, viewer)) for viewer in viewers]
    if control == "shuffled":
        targets = [replace(viewer, fmri=_shuffled(params, viewer)) for viewer in viewers]
    members, histories = [], []
    for number in range(params.encoder.ensemble):
        trunk = _random_trunk(params, viewers, number)
        trunk.encoder.standardise_by(*statistics)
        members.append(trunk.encoder)
        histories.append(_train_control(params, trunk.to(device), viewers, targets, number))
    model = members[0] if len(members) == 1 else EncoderEnsemble(members)
    return model.eval(), histories


def _random_trunk(params: Params, viewers: list[Viewer], number: int) -> SharedTrunk:
    """Member `number` of an ensemble before training, with readouts of further subjects."""
    first, *further = viewers
    names = _member_names(number)
    encoder = build_encoder(params, first.measured, first.tokens, derived_seed(params.seed, "encoder weights", *names))
    readouts = [further_readout(first, viewer, params.encoder.width, params.seed, names) for viewer in further]
    return SharedTrunk(encoder, readouts)


def _member_names(number: int) -> tuple[str, ...]:
    """What tells random draws for a member of an ensemble from those for the first, which are a single encoder's."""
    return (f"member {number}",) if number else ()


def _train_control(
    params: Params, trunk: SharedTrunk, viewers: list[Viewer], targets: list[Viewer], number: int
) -> list[Epoch]:
    """Train member `number` on `targets`, the viewers with what `encoder.control` puts in place of their fMRI."""
    control = params.encoder.control
    if control == "untrained":
        return []
    if control != "shuffled":
        return _fit(params, trunk, targets, number, _checkpoint(params, viewers, control, number))
    start = {name: value.clone() for name, value in trunk.state_dict().items()}
    kept = best_epoch(_fit(params, trunk, viewers, number, _checkpoint(params, viewers, "none", number)))
    trunk.load_state_dict(start)
    return _fit(params, trunk, targets, number, _checkpoint(params, viewers, control, number), kept)


def _shuffled(params: Params, viewer: Viewer) -> Array:
    rng = generator(params.seed, "shuffled fMRI", *viewer.names)
    return shuffled_fmri(viewer.fmri, [viewer.train, viewer.validation], rng)


def _checkpoint(params: Params, viewers: list[Viewer], target: str, number: int) -> Checkpoint:
    """Of an interrupted training of member `number` on the fMRI that is called `target`."""
    decides = {
        "settings": asdict(params.encoder),
        "fmri": [asdict(params.fmri), *(viewer.measured.fingerprint for viewer in viewers)],
        "tokens": [viewer.tokens.attributes[CONTENTS] for viewer in viewers],
        "seed": params.seed,
        "target": target,
    }
    return checkpoint_of(
        paths.partial(paths.ENCODER) / f"{target}{number}.safetensors", decides, params.runtime.checkpoint_minutes
    )


def _fit(
    params: Params,
    trunk: SharedTrunk,
    viewers: list[Viewer],
    number: int,
    checkpoint: Checkpoint,
    stop_after: int | None = None,
) -> list[Epoch]:
    """Train by mean squared error; with `stop_after` for that many epochs, else to the best by validation.

    A step is a batch of each subject, and their losses are summed. Epochs and validation are those of the first.
    """
    device, settings, first = next(trunk.parameters()).device, params.encoder, viewers[0]
    of_ensemble = f", {number + 1} of {settings.ensemble}" if settings.ensemble > 1 else ""

    def load(viewer: Viewer, rows: Array) -> Batch:
        return host_patches(viewer.tokens, rows, pin=pins_memory(device)), torch.from_numpy(viewer.fmri)[rows]

    def loss_of(batches: Sequence[Batch]) -> Tensor:
        predicted = trunk([patches.on(device) for patches, _ in batches])
        losses = [F.mse_loss(one, fmri.to(device)) for one, (_, fmri) in zip(predicted, batches, strict=True)]
        return torch.stack(losses).sum()

    def validate() -> float:
        own = ranks.share(first.validation)
        read = read_batches((first.tokens["patches"],), own, PREDICT_BATCH, partial(load, first))
        (total,) = collectives.sums([sum(float(loss_of([batch])) * len(rows) for rows, batch in read)])
        return total / len(first.validation)

    def epochs_of(viewer: Viewer, steps: int) -> Iterator[Iterator[tuple[Array, Batch]]]:
        arrays, size, buffer = (viewer.tokens["patches"],), settings.batch_size, settings.shuffle_buffer
        rng = generator(params.seed, "encoder batches", *viewer.names, *_member_names(number))
        return training_epochs(arrays, viewer.train, buffer, size, partial(load, viewer), rng, steps)

    def epochs_after(steps: int) -> Iterator[Iterable[tuple[Array, list[Batch]]]]:
        epochs, *others = [epochs_of(viewer, steps) for viewer in viewers]
        return side_by_side(epochs, [chain.from_iterable(other) for other in others])

    return fit(
        trunk,
        len(first.train),
        epochs_after,
        loss_of,
        validate,
        Schedule(settings.epochs, settings.batch_size, settings.lr, settings.warmup, settings.weight_decay),
        f"brain encoder ({settings.control}{of_ensemble})",
        checkpoint,
        stop_after,
    )


def side_by_side(
    epochs: Iterator[Iterator[tuple[Array, T]]], others: Sequence[Iterator[tuple[Array, T]]]
) -> Iterator[Iterator[tuple[Array, list[T]]]]:
    """Each batch of every epoch with the next one of each of the others, which do not end; rows are the epoch's."""

    def joined(epoch: Iterator[tuple[Array, T]]) -> Iterator[tuple[Array, list[T]]]:
        for (rows, batch), *more in zip(epoch, *others, strict=False):
            yield rows, [batch, *(other for _, other in more)]

    return map(joined, epochs)


def _feature_targets(params: Params, viewer: Viewer) -> Array:
    """Projections of another network's (or layer's) features of the same images, at the measured ceilings."""
    manifest, measured = read_manifest(viewer.set_name), viewer.measured
    backbone = load_backbone(**asdict(params.encoder.control_features), data_root=paths.data_root())
    transform = backbone.preprocessing.transform()
    features = []
    files = console.track(manifest.image_files(), "features of the control (images)", len(manifest))
    for group in groups_of(files, PREDICT_BATCH):
        cls, patches = backbone.tokens(torch.stack([transform(read_image(file)) for file in group]))
        features.append(torch.cat([cls, patches.flatten(1)], dim=1).numpy())
    if measured.ceiling is None:
        console.warn("no noise ceiling is known: the features control trains on noiseless projections")
    ceiling = np.ones(len(measured.hemi)) if measured.ceiling is None else measured.ceiling
    rng = generator(params.seed, "feature projections", *viewer.names)
    return feature_fmri(np.concatenate(features), viewer.train, ceiling, rng)


def _show(record: dict[str, Any], control: str, histories: list[list[Epoch]]) -> None:
    simulated = " (simulated fMRI)" if record["data"] == "simulated" else ""
    rows = {
        "median r, encoder": f"{record['pearson']['median']:.3f}",
        **{f"median r, {name}": f"{scores['pearson']['median']:.3f}" for name, scores in record["baselines"].items()},
        "epoch kept": ", ".join(str(kept_epoch(history, control) or "none") for history in histories),
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
