"""How long each stage will take: what a moment of it took here, times how often it is done."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralood.backbone import FrozenBackbone
from neuralood.base.device import choose_device
from neuralood.config import PREDICTED_ROLES
from neuralood.plan.probe import hash_rate, matrix_rate
from neuralood.plan.words import UNKNOWN, bytes_text, images_text, rate_text
from neuralood.plan.work import DISK_BYTES_S, UNKNOWN_CLASSES, Work, images_left

MEASURED, ESTIMATE = "measured", "estimate"

DRAW_S, TRANSFORM_S, INDEX_S = 0.003, 0.06, 0.0002
"""Seconds an image: drawn by the demo, made from a photo by one process, listed."""

LAST_S = 20.0
"""Seconds of summarize and report together."""

PROBE_STEPS = 100
"""Steps that the linear probe's solver is taken to need for one penalty: strong ones need fewer, weak ones more."""

RIDGE_FITS = 65
"""Folds times penalties of the ridge baseline."""

FACTORISED_PRODUCTS = 3
"""Products of all tokens with all vertices in a step of the factorised baseline, one of them done twice."""

LINEAR_PROBE = "  its linear probe"
"""Name of a line: a part of train_fusion."""

FITS = {"none": 1, "shuffled": 2, "untrained": 0, "features": 1}
"""Trainings of the encoder that `encoder.control` asks for; those of `shuffled` may be shorter."""


@dataclass(frozen=True)
class StageTime:
    """One line of the table of times; `seconds` None where nothing of them is known yet, `least` where not all is."""

    stage: str
    work: str
    rate: str
    seconds: float | None
    basis: str
    least: bool = False


@dataclass(frozen=True)
class Sum:
    """What is known of a sum, and whether that is all of it."""

    known: float
    whole: bool


def stage_times(work: Work, backbone: FrozenBackbone) -> Iterator[StageTime]:
    """A line for each stage that has work to do, in the order of the pipeline."""
    yield from _image_stages(work)
    yield _cache_tokens(work)
    flops = matrix_rate(torch.device("cpu"))
    device = choose_device(work.params.runtime.device, "runtime.device")
    if work.params.fmri.source != "imported":
        yield _prepare_fmri(work)
        yield from _train_encoder(work, backbone, flops)
        yield from _score_encoder(work)
    yield _synthesize(work)
    yield from _train_fusion(work, backbone, flops if device.type == "cpu" else matrix_rate(device))
    yield _evaluate(work)
    yield StageTime("summarize, report", "", "", LAST_S, ESTIMATE)
    yield _hashing(work)


def _image_stages(work: Work) -> Iterator[StageTime]:
    params, transforming = work.params, TRANSFORM_S / max(1, work.params.runtime.workers)
    sources: Sequence[tuple[str, Mapping[str, Any], float]] = (
        ("render", params.rendered, DRAW_S),
        ("index", params.files, INDEX_S),
        ("transform", params.made, transforming),
    )
    for stage, entries, each in sources:
        new = [work.sets[name].images for name in entries if work.sets[name].images.fingerprint is None]
        if new:
            images = _sum(one.count for one in new)
            yield _of_images(stage, images, images.known * each, each, ESTIMATE)


def _cache_tokens(work: Work) -> StageTime:
    sets = [one for one in work.sets.values() if images_left(one) != 0]
    if not sets:
        return StageTime("cache_tokens", images_text(0), "", 0.0, MEASURED)
    images, seconds = _sum(map(images_left, sets)), _sum(map(work.caching_seconds, sets)).known
    basis = MEASURED if all(one.images.sample for one in sets) else f"{MEASURED}, random pictures where none are here"
    each = seconds / images.known if images.known else work.caching[sets[0].name]
    return _of_images("cache_tokens", images, seconds, each, basis)


def _prepare_fmri(work: Work) -> StageTime:
    images = work.sets["nsd"].images.count
    if images is None or work.vertices is None:
        return _unknown("prepare_fmri", None)
    nbytes = 4 * images * work.vertices
    seconds = 3 * nbytes / DISK_BYTES_S  # looked through, read, written
    return StageTime("prepare_fmri", bytes_text(nbytes), f"{bytes_text(DISK_BYTES_S)}/s", seconds, ESTIMATE)


def _train_encoder(work: Work, backbone: FrozenBackbone, flops: float) -> Iterator[StageTime]:
    settings, fmri, nsd = work.params.encoder, work.params.fmri, work.sets["nsd"]
    images, speed = nsd.images.count, work.encoder
    if images is None or speed is None or work.vertices is None:
        yield _unknown("train_encoder", speed.step if speed else None)
        return
    test, validation = round(fmri.test * images), round(fmri.validation * images)
    train, epochs = min(images - test - validation, settings.images or images), FITS[settings.control] * settings.epochs
    seen = [nsd, *work.chosen("fmri_more")]  # a step is a batch of each subject
    computing = epochs * (len(seen) * train * speed.step + validation * speed.predict) + test * speed.predict
    seconds, basis = _with_disk(computing, sum(one.tokens.nbytes or 0 for one in seen), passes=epochs + 2)
    basis += ", without the features it learns" if settings.control == "features" else ""
    subjects = f" x {len(seen)} subjects" if len(seen) > 1 else ""
    yield StageTime(
        "train_encoder", f"{train:,} images x {epochs} epochs{subjects}", rate_text(speed.step), seconds, basis
    )

    features = backbone.shape.layers * backbone.shape.patches // work.params.cache.pool**2 * backbone.shape.width
    components = min(settings.ridge_components, train, features)
    kernel = 2 * images * train * features
    fits = 2 * RIDGE_FITS / 5 * train * components * work.vertices
    yield _computed("fit_baselines: ridge", f"{train:,} x {features:,} tokens", kernel + fits, flops)
    if backbone.shape.layers > 1:
        scales = settings.banded_samples
        yield _computed("fit_baselines: banded", f"{scales} ways to scale layers", scales * fits, flops)
    steps = 2 * FACTORISED_PRODUCTS * settings.factorised.epochs * train * features * work.vertices
    yield _computed("fit_baselines: factorised", f"{settings.factorised.epochs} epochs, on the CPU", steps, flops)


def _score_encoder(work: Work) -> Iterator[StageTime]:
    """Of images that the encoder is scored on out of distribution, and of as many photos beside them."""
    sets = work.chosen("fmri_ood")
    if sets and work.encoder is not None:
        images, each = _sum(one.images.count for one in sets), 2 * work.encoder.predict
        yield _of_images("score_encoder", images, images.known * each, each, MEASURED)


def _synthesize(work: Work) -> StageTime:
    sets = work.chosen(*PREDICTED_ROLES)
    left = [
        None if one.images.count is None or one.fmri is None else round(one.images.count * one.fmri.share_left)
        for one in sets
    ]
    images, speed = _sum(left), work.encoder
    if speed is None:
        return _unknown("synthesize", None)
    read = sum((one.tokens.nbytes or 0) * one.fmri.share_left for one in sets if one.fmri)
    written = sum((one.fmri.left or 0) for one in sets if one.fmri)
    seconds, basis = _with_disk(images.known * speed.predict, read + written, passes=1)
    return _of_images("synthesize", images, seconds, speed.predict, basis)


def _train_fusion(work: Work, backbone: FrozenBackbone, flops: float) -> Iterator[StageTime]:
    settings, train = work.params.fusion, work.sets["train"]
    images, speed = train.images.count, work.fusion
    if images is None or speed is None:
        yield _unknown("train_fusion", speed.step if speed else None)
        return
    held = round(settings.holdout * images)
    epochs = settings.epochs * settings.seeds
    computing = epochs * ((images - held) * speed.step + held * speed.predict)
    nbytes = (train.tokens.nbytes or 0) + ((train.fmri.nbytes if train.fmri else 0) or 0)
    seconds, basis = _with_disk(computing, nbytes, passes=settings.epochs + 1)  # once for all seeds
    text = f"{images - held:,} images x {settings.epochs} epochs"
    text += f" x {settings.seeds} seeds" if settings.seeds > 1 else ""
    yield StageTime("train_fusion", text, rate_text(speed.step), seconds, basis)

    shape, classes = backbone.shape, train.images.classes or UNKNOWN_CLASSES
    features = shape.cls_width + shape.layers * shape.width
    steps = PROBE_STEPS * len(settings.probe_c) * settings.seeds
    operations = 4 * steps * (images - held) * features * classes
    yield _computed(LINEAR_PROBE, f"{len(settings.probe_c)} penalties x {PROBE_STEPS} steps", operations, flops)


def _evaluate(work: Work) -> StageTime:
    sets = work.chosen("val", "ood")
    images, speed = _sum(one.images.count for one in sets), work.fusion
    if speed is None:
        return _unknown("evaluate", None)
    read = sum((one.tokens.nbytes or 0) + ((one.fmri.nbytes if one.fmri else 0) or 0) for one in sets)
    seeds = work.params.fusion.seeds
    seconds, basis = _with_disk(images.known * seeds * speed.predict, read, passes=1)
    return _of_images("evaluate", images, seconds, speed.predict, basis)


def _hashing(work: Work) -> StageTime:
    """DVC reads each new store once, to know it again."""
    left = _sum(store.left for one in work.sets.values() for store in one.stores)
    rate = min(hash_rate(), DISK_BYTES_S)
    seconds, text = left.known / rate, f"{bytes_text(rate)}/s"
    return StageTime("DVC hashes new stores", bytes_text(left.known), text, seconds, ESTIMATE, least=not left.whole)


def _of_images(stage: str, images: Sum, seconds: float, each: float | None, basis: str) -> StageTime:
    """A stage that goes over images, some of which may not be listed yet."""
    if not images.known and not images.whole:
        return StageTime(stage, images_text(None), rate_text(each), None, basis)
    return StageTime(stage, images_text(int(images.known)), rate_text(each), seconds, basis, least=not images.whole)


def _unknown(stage: str, each: float | None) -> StageTime:
    return StageTime(stage, images_text(None), rate_text(each), None, MEASURED if each else f"{UNKNOWN} sizes")


def _computed(part: str, work: str, operations: float, flops: float) -> StageTime:
    """What is computed, from the rate of a product of matrices."""
    return StageTime(part, work, f"{flops / 1e9:,.0f} GFLOP/s", operations / flops, ESTIMATE)


def _with_disk(computing: float, nbytes: float, passes: int) -> tuple[float, str]:
    """The longer of computing and reading, which go on side by side, and what that rests on.

    Stores that fit into memory are read from the disk once, others in every pass.
    """
    reading = nbytes * (passes if nbytes > _memory_bytes() else 1) / DISK_BYTES_S
    if computing >= reading:
        return computing, MEASURED
    return reading, f"{ESTIMATE}: disk at {bytes_text(DISK_BYTES_S)}/s"


def _memory_bytes() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 0.0


def _sum(values: Iterable[float | None]) -> Sum:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return Sum(sum(known), len(known) == len(listed))
