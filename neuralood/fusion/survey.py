"""One pass over the tokens of train before any training: what the linear probe reads, and how to scale every input."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralood.base import collectives, console, paths, ranks
from neuralood.base.descent import wide
from neuralood.base.moments import Moments, Scale
from neuralood.base.reading import PREDICT_BATCH
from neuralood.base.store import Array, Rows, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, require_space, write_rows
from neuralood.fusion.trained import Classifier, ImageData, Inputs

FEATURES = "features"
"""Array of what the linear probe reads: a sixtieth of a ViT-B's tokens, read once for each step of its solver."""
FEATURE_ROWS = 8 * PREDICT_BATCH
"""Images in a chunk file of it."""


class SeedScales(NamedTuple):
    """Over one seed's training rows: of what the probe reads, of patch tokens, and of the fMRI that fusion reads."""

    features: Scale
    patches: Scale
    fmri: Scale

    def set_on(self, model: Classifier) -> None:
        """Standardise a model's inputs by these."""
        model.standardise(*self)


def survey(data: ImageData, models: Sequence[Classifier], member: Array, features: Path) -> list[SeedScales]:
    """Write what the probe reads of every image to the store `features`, and return the scales of each model's seed.

    member S I bool: the training rows of each seed; holdouts are in no scale. Those of fMRI are, for `image_only`, of
    its own encoder's first output: no statistic of measured fMRI enters; for baselines, which read none, empty. Raises
    UserError where the disk is too small.
    """
    device, sizes = next(models[0].buffers()).device, models[0].sizes
    width, vertices = sizes.cls_width + sizes.patch_width, 0 if data.form is None else sizes.vertices
    moments = [[Moments(one, device) for one in (width, sizes.patch_width, vertices)] for _ in models]
    for model in models:
        model.eval()
    spec = features_spec(len(data), width)
    own = ranks.share(np.arange(spec.chunks))
    rows = np.concatenate([_rows_of(spec, number) for number in own.tolist()] or [np.arange(0)])

    def surveyed() -> Iterator[tuple[Array, Array]]:
        total = -(-len(rows) // PREDICT_BATCH)
        for chosen, inputs in console.track(data.batches(rows, device), "survey of train (batches)", total):
            read = inputs.probe_features()
            for taught, sums in zip(member[:, chosen], _sums(inputs, read, models), strict=True):
                places = torch.from_numpy(np.flatnonzero(taught)).to(device)
                for one, (values, total_of, squares) in zip(moments[sums.seed], sums.parts, strict=True):
                    one.add(values * len(places), total_of[places].sum(0), squares[places].sum(0))
            yield chosen, read.cpu().numpy()

    with torch.inference_mode():
        _write(features, spec, surveyed())
    return [SeedScales(*(one.scale() for one in of_seed)) for of_seed in moments]


def features_spec(images: int, width: int) -> ArraySpec:
    """The array of what the probe reads, D' + L D numbers an image."""
    return ArraySpec((images, width), "float32", FEATURE_ROWS)


def open_features(path: Path) -> Rows:
    """What `survey` wrote: I x (D' + L D)."""
    return open_store(path)[FEATURES]


class _Sums(NamedTuple):
    """Of each image of a batch: values a feature, and the sums of them and of their squares B F, for each scale."""

    seed: int
    parts: tuple[tuple[int, Tensor, Tensor], ...]


def _sums(inputs: Inputs, features: Tensor, models: Sequence[Classifier]) -> Iterator[_Sums]:
    """For each model; what does not depend on it is computed once."""
    dtype = wide(features.device)
    values = features.to(dtype)
    of_features = (1, values, values.square())
    norms = torch.linalg.vector_norm(inputs.patches, dim=1, dtype=dtype)  # root of the sum of squares
    of_patches = (inputs.patches.shape[1], inputs.patches.sum(1, dtype=dtype), norms.square())
    shared: Tensor | None = None
    for seed, model in enumerate(models):
        if shared is None or model.encoder is not None:
            shared = model.vertices_of(inputs.patches, inputs.fmri).to(dtype)
        yield _Sums(seed, (of_features, of_patches, (1, shared, shared.square())))


def _write(path: Path, spec: ArraySpec, batches: Iterator[tuple[Array, Array]]) -> None:
    """Rows in sequence, whole chunks of them, as a store of one array; several processes write chunks of their own."""
    partial = path.with_suffix(".unfinished")
    collectives.broadcast(lambda: _create(partial, spec))
    waiting: list[Array] = []
    for rows, values in batches:
        waiting.append(values)
        end = int(rows[-1]) + 1
        if end % spec.chunk_rows == 0 or end == spec.shape[0]:
            chunk = np.concatenate(waiting)
            write_rows(partial, FEATURES, spec, end - len(chunk), chunk)
            waiting = []
    collectives.broadcast(lambda: complete_store(partial, path))


def _create(partial: Path, spec: ArraySpec) -> None:
    require_space(partial, spec.nbytes)
    create_store(partial, {FEATURES: spec}, {"kind": "probe features"})


def _rows_of(spec: ArraySpec, number: int) -> Array:
    return np.arange(number * spec.chunk_rows, min((number + 1) * spec.chunk_rows, spec.shape[0]))


def features_path() -> Path:
    """Where the probe's features lie while train_fusion runs."""
    return paths.partial(paths.FUSION) / "features.zarr"


def pack_scales(scales: Sequence[SeedScales]) -> dict[str, Tensor]:
    """As named tensors, to be kept."""
    return {
        f"{number}.{part}.{name}": value
        for number, one in enumerate(scales)
        for part, scale in one._asdict().items()
        for name, value in scale._asdict().items()
    }


def unpack_scales(tensors: dict[str, Tensor]) -> list[SeedScales]:
    """The inverse of `pack_scales`."""
    seeds = 1 + max(int(name.split(".")[0]) for name in tensors)
    parts = SeedScales._fields

    def scale(number: int, part: str) -> Scale:
        return Scale(*(tensors[f"{number}.{part}.{name}"] for name in Scale._fields))

    return [SeedScales(*(scale(number, part) for part in parts)) for number in range(seeds)]
