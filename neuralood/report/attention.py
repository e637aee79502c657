"""Where the brain encoder's ROI queries look on a few images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuralood.base import paths
from neuralood.base.device import prepare_torch
from neuralood.base.reading import patch_batch
from neuralood.base.store import Array, open_store
from neuralood.data.subject import HEMISPHERES
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.trained import load_encoder, require_recipe

REST = "rest"
"""What the query of vertices in no ROI is called."""


@dataclass(frozen=True)
class Attention:
    """Weights over the patch grid, times the number of patches (1 = as much as if spread evenly): I Q rows columns."""

    names: tuple[str, ...]
    relative: Array
    crop_pct: float


def read_attention(set_name: str, rows: Array, threads: int) -> Attention:
    """Attention of every query on images `rows` of a set."""
    device = prepare_torch("cpu", threads)
    tokens, (model, record) = open_store(paths.tokens(set_name)), load_encoder()
    require_recipe(tokens, record)
    assert not isinstance(model, ImageEncoder)  # an encoder of images has no attention: the page says so before
    names = query_names(record["roi_names"], model.membership.numpy(), np.array(record["hemi"]))
    with torch.inference_mode():
        weights = model.attention(patch_batch(tokens, rows, device)).numpy()
    grid = tokens.attributes["grid"]
    relative = weights.reshape(*weights.shape[:2], *grid) * weights.shape[-1]
    return Attention(names, relative, tokens.attributes["preprocessing"]["crop_pct"])


def query_names(roi_names: Sequence[str], membership: Array, hemi: Array) -> tuple[str, ...]:
    """Name of each query: the ROIs', then lh.rest or rh.rest of those of vertices in no ROI (membership: Q V)."""
    rest = (f"{HEMISPHERES[hemi[row.argmax()]]}.{REST}" for row in membership[len(roi_names) :])
    return (*roi_names, *rest)


def spread(count: int, wanted: int) -> Array:
    """At most `wanted` of `count` indices, evenly spread, ascending."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(int)
