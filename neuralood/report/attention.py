"""Where the brain encoder's ROI queries look on a few images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuralood.base import paths
from neuralood.base.device import prepare_torch
from neuralood.base.reading import patch_batch
from neuralood.base.store import Array, open_store
from neuralood.data.rois import ROI_FAMILIES, ROI_NAMES
from neuralood.encoder.model import RoiEncoder
from neuralood.encoder.trained import load_encoder, require_recipe

BOTH_SIDES = ("V1v", "V2v", "hV4")
"""Early ROIs of which both hemispheres are shown."""

STREAMS = ROI_FAMILIES["streams"]
MOST_ROIS = 20


@dataclass(frozen=True)
class Attention:
    """Weights over the patch grid, times the number of patches (1 = as much as if spread evenly): I Q rows columns."""

    names: tuple[str, ...]
    relative: Array
    crop_pct: float


def read_attention(set_name: str, rows: Array, threads: int) -> Attention:
    """Attention of the chosen ROIs' queries on images `rows` of a set."""
    device = prepare_torch("cpu", threads)
    tokens, (model, record) = open_store(paths.tokens(set_name)), load_encoder()
    require_recipe(tokens, record)
    assert isinstance(model, RoiEncoder)  # an encoder of images has no attention: the page says so before
    names = chosen_rois(record["roi_names"])
    queries = [record["roi_names"].index(name) for name in names]
    with torch.inference_mode():
        weights = model.attention(patch_batch(tokens, rows, device))[:, queries].numpy()
    grid = tokens.attributes["grid"]
    relative = weights.reshape(*weights.shape[:2], *grid) * weights.shape[-1]
    return Attention(tuple(names), relative, tokens.attributes["preprocessing"]["crop_pct"])


def chosen_rois(names: Sequence[str]) -> list[str]:
    """Early ROIs of both hemispheres, then one of every other name (no streams: they unite the others)."""
    present = {full.split(".", 1)[1] for full in names}
    regions = [name for name in ROI_NAMES if name in present and name not in STREAMS] or sorted(present)
    chosen = []
    for region in regions:
        sides = [f"{side}.{region}" for side in ("lh", "rh") if f"{side}.{region}" in names]
        chosen += sides if region in BOTH_SIDES else sides[:1]
    return [chosen[row] for row in spread(len(chosen), MOST_ROIS)]


def spread(count: int, wanted: int) -> Array:
    """At most `wanted` of `count` indices, evenly spread, ascending."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(int)
