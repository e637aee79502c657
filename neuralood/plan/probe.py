"""How fast this machine is: a second or so of each kind of work, at its real shapes, with random weights."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from neuralood.backbone import FrozenBackbone, TokenShape
from neuralood.base.device import autocast
from neuralood.base.errors import UserError
from neuralood.base.reading import PREDICT_BATCH, HostPatches
from neuralood.base.store import Array
from neuralood.base.training import Schedule, fit
from neuralood.config import BASELINES, Cache, Params
from neuralood.data.fmri import read_measured, vertices_of
from neuralood.data.manifest import UNLABELLED, Manifest
from neuralood.data.rois import ROI_NAMES
from neuralood.encoder.form import Form, form_of
from neuralood.encoder.model import RoiEncoders, RoiReadout, encoder_sizes, query_membership, roi_encoder
from neuralood.fusion.baselines import TRAINED, LinearHead
from neuralood.fusion.loss import fusion_loss
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.trained import Classifier, HostBatch, inputs_of
from neuralood.tokens.decode import decoded_batches
from neuralood.tokens.extract import AUTO_BATCH_CPU, TokenEncoder

T = TypeVar("T")

PROBE_S = 0.7
"""About so long is each kind of work repeated."""

PROBE_BYTES, PROBE_BYTES_CPU = 2**28, 2**25
"""Tokens of a batch that is probed take no more than this as float32; larger batches are no faster an image."""

PICTURES, PICTURE_PX = 8, (500, 375)
"""Where a set's images are not at hand, so many random JPEG files of about ImageNet's size are decoded."""

EXPANDED = 32
"""Images whose vertices are read out at a time."""

HASHED_BYTES, MATRIX, LARGE_MATRIX = 2**25, 1024, 4096
"""Bytes that are hashed, and rows of the square matrices that are multiplied: on the CPU, and on an accelerator."""


@dataclass(frozen=True)
class Brain:
    """Vertices of each query, Q V, and those that fusion reads, in order."""

    membership: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class Speed:
    """Seconds an image of a training step, and of prediction."""

    step: float
    predict: float


def brain_of(rois: str | tuple[str, ...], vertices: int) -> Brain:
    """The subject's own ROIs where they are at hand; else one ROI of all vertices, and small ones that share them."""
    try:
        measured = read_measured()
    except UserError:
        measured = None
    if measured is None or len(measured.hemi) != vertices:
        queries = 2 * len(ROI_NAMES)
        membership = torch.arange(vertices) % queries == torch.arange(queries).unsqueeze(1)
        membership[0] = True
        return Brain(membership, torch.arange(vertices))
    membership = query_membership(torch.tensor(measured.roi), torch.tensor(measured.hemi))
    return Brain(membership, torch.from_numpy(vertices_of(rois, measured.roi_names, measured.roi)))


def decode_seconds(images: Manifest | None, backbone: FrozenBackbone, device: torch.device) -> float:
    """Seconds in which one process decodes an image; stops after PROBE_S. Random pictures stand in for no images."""
    if not images:
        with TemporaryDirectory() as folder:
            return decode_seconds(_pictures(Path(folder)), backbone, device)
    started, done = time.perf_counter(), 0
    for _ in decoded_batches(images, backbone, [[row] for row in range(len(images))], device, workers=0):
        done += 1
        if time.perf_counter() - started > PROBE_S:
            break
    return (time.perf_counter() - started) / done


def forward_seconds(backbone: FrozenBackbone, settings: Cache, device: torch.device) -> float:
    """Seconds an image from pixels to tokens as they are stored; not compiled, as that alone takes a minute."""
    size = backbone.preprocessing.image_size

    def seconds_of(encode: TokenEncoder, images: int) -> float:
        pixels = torch.randn(images, 3, size, size)
        return _seconds(lambda: [tokens.cpu() for tokens in encode(pixels).values()]) / images

    settings = replace(settings, compile=False)
    if device.type == "cpu":  # which larger batches do not make faster
        alone = seconds_of(TokenEncoder(backbone, replace(settings, batch_size=1), device), 1)
        limit = AUTO_BATCH_CPU if settings.batch_size == "auto" else settings.batch_size
        settings = replace(settings, batch_size=max(1, min(limit, int(PROBE_S / alone))))
    encode = TokenEncoder(backbone, settings, device)
    return seconds_of(encode, encode.batch_size)


def encoder_speed(params: Params, shape: TokenShape, brain: Brain, device: torch.device) -> Speed:
    """Of the brain encoder, all members of an ensemble, which are trained one after the other."""
    model = _random_encoder(params, shape, brain, ensemble=1).to(device)

    def sample(images: int) -> tuple[HostPatches, Tensor]:
        return _random_patches(images, shape, params.cache), torch.randn(images, brain.membership.shape[1])

    def predict(batch: tuple[HostPatches, Tensor]) -> Tensor:
        predicted: Tensor = model(batch[0].on(device))
        return predicted

    def loss_of(batch: tuple[HostPatches, Tensor]) -> Tensor:
        return F.mse_loss(predict(batch), batch[1].to(device))

    one = _speed(model, params, shape, params.encoder.batch_size, sample, predict, loss_of)
    return Speed(params.encoder.ensemble * one.step, params.encoder.ensemble * one.predict)


def fusion_speed(params: Params, shape: TokenShape, brain: Brain, classes: int, device: torch.device) -> Speed:
    """Of the fusion classifier."""
    settings = params.fusion
    weight = 0.0 if settings.variant in ("brain_only", *BASELINES) else settings.pcc_weight
    vertices = brain.membership.shape[1]
    encoder, form = None, Form("vertices", vertices, vertices)
    if params.synthesis.store != "vertices":
        encoder = _random_encoder(params, shape, brain, params.encoder.ensemble).to(device).requires_grad_(False)
        form = form_of(params.synthesis, encoder, {})
    own = None
    if settings.variant == "image_only":
        own = _random_encoder(params, shape, brain, params.encoder.ensemble)
    sizes = FusionSizes(
        variant=settings.variant,
        cls_width=shape.cls_width,
        patch_width=shape.layers * shape.width,
        vertices=len(brain.chosen),
        classes=classes,
        patch=settings.patch,
        depth=settings.depth,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
        token_dropout=settings.token_dropout,
    )
    model = _classifier(sizes, brain, own).to(device)

    def sample(images: int) -> tuple[HostBatch, Tensor]:
        cls, kept = torch.randn(images, shape.cls_width), torch.randn(images, form.width) if form.width else None
        return HostBatch(cls, _random_patches(images, shape, params.cache), kept), torch.randint(classes, (images,))

    def predict(batch: tuple[HostBatch, Tensor]) -> Tensor:
        logits: Tensor = model(*inputs_of(batch[0], form, encoder, device)).logits
        return logits

    def loss_of(batch: tuple[HostBatch, Tensor]) -> Tensor:
        with autocast(device, settings.autocast):
            output = model(*inputs_of(batch[0], form, encoder, device))
        return fusion_loss(output.logits, batch[1].to(device), output.image, output.brain, weight)

    return _speed(model, params, shape, settings.batch_size, sample, predict, loss_of)


def _classifier(sizes: FusionSizes, brain: Brain, own: RoiEncoders | None) -> Classifier:
    """A classifier of the variant; of baselines that are linear or compare images, a linear head."""
    if sizes.variant not in BASELINES:
        return FusionClassifier(sizes, brain.chosen, own)
    return TRAINED[sizes.variant](sizes) if sizes.variant in TRAINED else LinearHead(sizes, sizes.patch_width)


def expand_seconds(params: Params, vertices: int, device: torch.device) -> float:
    """Seconds an image from ROI tokens to all vertices."""
    membership = brain_of("all", vertices).membership
    readout = RoiReadout(membership, params.encoder.width).to(device)
    tokens = torch.randn(EXPANDED, len(membership), params.encoder.width, device=device)
    with torch.inference_mode():
        return params.encoder.ensemble * _seconds(lambda: readout(tokens).sum().item()) / EXPANDED


@cache
def hash_rate() -> float:
    """Bytes that MD5, by which DVC knows its outputs, takes in a second."""
    content = bytes(HASHED_BYTES)
    return HASHED_BYTES / _seconds(lambda: hashlib.md5(content, usedforsecurity=False))


@cache
def matrix_rate(device: torch.device) -> float:
    """Floating-point operations in float32 that products of matrices do in a second."""
    if device.type == "cpu":  # NumPy's, on which scikit-learn stands: as fast as PyTorch's
        matrix = np.ones((MATRIX, MATRIX), np.float32)
        return 2 * MATRIX**3 / _seconds(lambda: matrix @ matrix)
    on_device = torch.ones(LARGE_MATRIX, LARGE_MATRIX, device=device)
    return 2 * LARGE_MATRIX**3 / _seconds(lambda: (on_device @ on_device)[0, 0].item())


def _seconds(work: Callable[[], object]) -> float:
    """Median seconds of some work, after once to warm up."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < PROBE_S:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def _speed(
    model: nn.Module,
    params: Params,
    shape: TokenShape,
    batch_size: int,
    sample: Callable[[int], T],
    predict: Callable[[T], Tensor],
    loss_of: Callable[[T], Tensor],
) -> Speed:
    """On as many threads as the stages take."""
    nbytes = PROBE_BYTES_CPU if next(model.parameters()).device.type == "cpu" else PROBE_BYTES
    most = max(1, nbytes // (4 * shape.layers * shape.patches * shape.width))
    torch.set_num_threads(params.runtime.training_threads)
    images = min(batch_size, most)
    step = _step_seconds(model, images, sample(images), loss_of) / images
    torch.set_num_threads(params.runtime.threads)
    images = min(PREDICT_BATCH, most)
    batch = sample(images)
    with torch.inference_mode():
        return Speed(step, _seconds(lambda: predict(batch).cpu()) / images)


def _step_seconds(model: nn.Module, images: int, batch: T, loss_of: Callable[[T], Tensor]) -> float:
    """Median seconds of a step of the training loop itself, on one batch again and again."""
    starts: list[float] = []

    def again() -> Iterator[tuple[Array, T]]:
        while len(starts) < 3 or starts[-1] - starts[0] < PROBE_S:
            starts.append(time.perf_counter())
            yield np.arange(images), batch
        starts.append(time.perf_counter())

    schedule = Schedule(epochs=1, batch_size=images, lr=1e-6, warmup=0.0, weight_decay=0.0)
    fit(model, images, lambda _: iter([again()]), loss_of, lambda: 0.0, schedule, "probing a training step")
    return float(np.median(np.diff(starts)[1:]))


def _random_encoder(params: Params, shape: TokenShape, brain: Brain, ensemble: int) -> RoiEncoders:
    grid = [side // params.cache.pool for side in shape.grid]
    sizes = encoder_sizes(params.encoder, grid, shape.layers * shape.width)
    return roi_encoder(brain.membership, ensemble=ensemble, **sizes)


def _random_patches(images: int, shape: TokenShape, settings: Cache) -> HostPatches:
    """Patch tokens as they are stored, B L N D."""
    by_token = (images, shape.layers, shape.patches // settings.pool**2)
    if settings.dtype == "int8":
        values = torch.randint(-127, 128, (*by_token, shape.width), dtype=torch.int8)
        return HostPatches(values, torch.rand(by_token) / 127)
    return HostPatches(torch.randn(*by_token, shape.width).to(getattr(torch, settings.dtype)), None)


def _pictures(folder: Path) -> Manifest:
    """Random clouds as JPEG files: plain noise would take longer to decode than any photo."""
    rng = np.random.default_rng(0)
    names = tuple(f"{number}.jpg" for number in range(PICTURES))
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8))
        coarse.resize(PICTURE_PX, Image.Resampling.BICUBIC).save(folder / name, quality=90)
    labels = (UNLABELLED,) * PICTURES
    return Manifest("pictures", "project", folder.as_posix(), True, (), names, labels, names, "random")
