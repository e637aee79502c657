"""What of the models is compared with people: their features of a set's images before, at and after fusion."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from neuralood.base import console
from neuralood.base.reading import PREDICT_BATCH
from neuralood.base.store import Array
from neuralood.data.fmri import present_groups, vertices_of
from neuralood.fusion.model import FusionClassifier
from neuralood.fusion.trained import ImageData, Inputs
from neuralood.geometry.dissimilarity import dissimilarities

BEFORE = ("cls", "gap", "patches")
"""The backbone's [CLS], mean patch, and patches one after the other."""
AFTER = ("fused", "classifier_input")
"""Both fused features, LN f_i and LN f_b; and all that the classifier reads: these and the mean patch."""
FMRI = "fmri"
"""Predicted fMRI of all vertices; `fmri_GROUP`: of a group of ROIs."""


def model_dissimilarities(
    data: ImageData, roi_names: Sequence[str], seeds: Sequence[FusionClassifier], device: torch.device
) -> dict[str, list[Array]]:
    """Of each representation its pairs of images: one version, or where it is learned from the labels one a seed.

    The features of all images are in memory at a time.
    """
    groups, rows = vertex_groups(data, roi_names), np.arange(len(data))
    parts: dict[tuple[str, int], list[Array]] = {}
    with torch.inference_mode():
        read = data.batches(rows, device)
        for _, inputs in console.track(read, "features", -(-len(rows) // PREDICT_BATCH)):
            for name, version, features in _features(inputs, groups, seeds):
                parts.setdefault((name, version), []).append(features.float().cpu().numpy())
    found: dict[str, list[Array]] = {}
    for name, version in list(parts):
        found.setdefault(name, []).append(dissimilarities(np.concatenate(parts.pop((name, version)))))
    return found


def vertex_groups(data: ImageData, roi_names: Sequence[str]) -> dict[str, Array]:
    """Vertices of each representation of predicted fMRI: all that are kept, and those of each group of ROIs, if any."""
    assert data.form is not None  # predicted fMRI is read
    roi = data.encoder.membership[: len(roi_names)].cpu().numpy()
    kept = np.arange(roi.shape[1]) if data.form.chosen is None else data.form.chosen.cpu().numpy()
    members = {group: np.intersect1d(vertices_of(group, roi_names, roi), kept) for group in present_groups(roi_names)}
    return {FMRI: kept, **{f"{FMRI}_{group}": vertices for group, vertices in members.items() if len(vertices)}}


def _features(
    inputs: Inputs, groups: Mapping[str, Array], seeds: Sequence[FusionClassifier]
) -> Iterator[tuple[str, int, Tensor]]:
    """Name, version and features B F of every representation of a batch."""
    yield "cls", 0, inputs.cls
    yield "gap", 0, inputs.patches.mean(dim=1)
    yield "patches", 0, inputs.patches.flatten(1)
    for name, vertices in groups.items():
        yield name, 0, inputs.fmri[:, torch.from_numpy(vertices).to(inputs.fmri.device)]
    for seed, model in enumerate(seeds):
        pair, read = fused_features(model, inputs)
        yield "fused", seed, pair
        yield "classifier_input", seed, read


def fused_features(model: FusionClassifier, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Both fused features side by side, B 2W, and what the classifier reads, B F."""
    seen: list[Tensor] = []
    handle = model.classify.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        output = model(*inputs)
    finally:
        handle.remove()
    return torch.cat([output.image, output.brain], dim=1), seen[0]
