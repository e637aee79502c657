"""The frozen backbone that a brain encoder's record names, put to use on any images."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuralood.backbone import FrozenBackbone, load_backbone
from neuralood.base import console, paths
from neuralood.base.device import autocast
from neuralood.base.errors import UserError
from neuralood.base.reading import HostPatches
from neuralood.config import Cache
from neuralood.encoder.trained import RECIPE, RECORD
from neuralood.tokens.cache import provenance
from neuralood.tokens.extract import stored_form

BATCH = 32
"""Images in a forward pass."""


class Tokens(NamedTuple):
    """On a device, float32: [CLS] B D', patches B N (L D)."""

    cls: Tensor
    patches: Tensor


class Vision:
    """A backbone and how its tokens are made: pooled and rounded as the stores that the encoder learned from."""

    def __init__(self, backbone: FrozenBackbone, settings: Cache, device: torch.device) -> None:
        self.preprocessing = backbone.preprocessing
        self._backbone, self._settings, self._device = backbone.to(device), settings, device

    @torch.inference_mode()
    def tokens(self, pixels: Tensor) -> Tokens:
        """pixels B 3 H W -> their tokens."""
        with autocast(self._device, self._settings.autocast):
            cls, patches = self._backbone.tokens(pixels.to(self._device))
        stored = stored_form(cls, patches, self._backbone.shape.grid, self._settings)
        read = HostPatches(stored["patches"], stored.get("patches_scale"))
        return Tokens(stored["cls"].float(), read.on(self._device))


def load_vision(folder: Path, record: dict[str, Any], weights: str | Path | None, device: torch.device) -> Vision:
    """The backbone that made the tokens of the encoder in `folder`, whose encoder.json is `record`.

    `weights`: `hub`, `package:NAME` or a file; None: where they lay when the encoder was trained, a file below
    NEURALOOD_DATA. Raises UserError where they are not there, or make other tokens.
    """
    if "extraction" not in record:
        raise UserError(f"{folder / RECORD} does not say how tokens were rounded: train, or export, the encoder again")
    recipe, source = record["tokens"], str(weights or record["extraction"]["weights_source"])
    try:
        backbone = load_backbone(
            recipe["backbone"],
            source,
            image_size=recipe["preprocessing"]["image_size"],
            crop_pct=recipe["preprocessing"]["crop_pct"],
            layers=tuple(recipe["layers"]),
            features=recipe["features"],
            data_root=Path() if weights else paths.data_root(),
        )
    except UserError as error:
        raise UserError(f"{error}; or name the weights of {recipe['backbone']}: load(..., weights=...)") from None
    settings = _settings(record)
    found = provenance(recipe["backbone"], backbone, settings, dataset="")
    differing = [key for key in RECIPE if found[key] != recipe[key]]
    if differing == ["versions"]:
        console.warn(f"{folder}: tokens were made by {recipe['versions']}, here are {found['versions']}")
    elif differing:
        raise UserError(
            f"{source} does not make the tokens that the encoder in {folder} was trained on ({', '.join(differing)} "
            f"differ): name the weights of {recipe['backbone']} that it was trained with, load(..., weights=...)"
        )
    return Vision(backbone, settings, device)


def _settings(record: dict[str, Any]) -> Cache:
    """How tokens are made and rounded."""
    extraction = record["extraction"]
    return Cache(
        dtype=extraction["dtype"],
        pool=record["tokens"]["pool"],
        autocast=extraction["autocast"],
        compile=False,
        batch_size=BATCH,
        chunk=BATCH,
    )
