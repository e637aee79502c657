"""Trained fusion classifiers and probes: what they read, where they are kept, and put to use."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralood.base import paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.device import pins_memory
from neuralood.base.errors import UserError
from neuralood.base.reading import (
    PREDICT_BATCH,
    HostPatches,
    batches,
    host_patches,
    host_rows,
    patch_batch,
    read_batches,
)
from neuralood.base.records import read_json
from neuralood.base.store import Array, Rows, Store, open_store
from neuralood.data.manifest import Manifest
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import roi_encoder
from neuralood.encoder.trained import EncoderModel, require_recipe
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.probe import Probe

RECORD = "fusion.json"


class HostBatch(NamedTuple):
    """[CLS] B D', patches and raw predicted fMRI B V as they are stored, on the CPU."""

    cls: Tensor
    patches: HostPatches
    fmri: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """On a device, float32: [CLS] B D', patches B N (L D), fMRI B V."""
        cls, fmri = (values.to(device, non_blocking=True).float() for values in (self.cls, self.fmri))
        return cls, self.patches.on(device), fmri


@dataclass(frozen=True)
class ImageData:
    """Stores of one image set, row by row the same images."""

    tokens: Store
    fmri: Store

    def __len__(self) -> int:
        return len(self.tokens["cls"])

    @property
    def arrays(self) -> tuple[Rows, ...]:
        """What every batch is read from."""
        return self.tokens["patches"], self.tokens["cls"], self.fmri["fmri"]

    def load(self, rows: Array, device: torch.device) -> HostBatch:
        """The given rows as they are stored, on the CPU, ready for a device."""
        pin = pins_memory(device)
        cls, fmri = (host_rows(array, rows, pin=pin) for array in self.arrays[1:])
        return HostBatch(cls, host_patches(self.tokens, rows, pin=pin), fmri)

    def batches(self, rows: Array, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The given rows in sequence, on a device, as `HostBatch.on` gives them."""
        read = read_batches(self.arrays, rows, PREDICT_BATCH, lambda chosen: self.load(chosen, device))
        yield from (batch.on(device) for _, batch in read)

    def probe_features(self, rows: Array) -> Array:
        """concat([CLS], GAP of patches), I x (D' + L D) float32: what the linear probe reads."""
        parts = []
        for chosen in batches(rows, PREDICT_BATCH):
            patches = patch_batch(self.tokens, chosen, torch.device("cpu")).mean(dim=1).numpy()
            parts.append(np.concatenate([np.asarray(self.tokens["cls"][chosen], np.float32), patches], axis=1))
        return np.concatenate(parts)


def open_image_data(manifest: Manifest, encoder_record: dict[str, Any]) -> ImageData:
    """The token and fMRI stores of a set. Raises UserError where they are of other images or another encoder."""
    name = manifest.set_name
    data = ImageData(open_store(paths.tokens(name)), open_store(paths.predicted_fmri(name)))
    require_recipe(data.tokens, encoder_record)
    for store in (data.tokens, data.fmri):
        if store.attributes["dataset"] != manifest.fingerprint:
            raise UserError(f"{store.path} is of other images than {paths.manifest(name)}: run `dvc repro`")
    if data.fmri.attributes["encoder"] != encoder_record["fingerprint"]:
        raise UserError(f"{data.fmri.path} was predicted by another encoder: run `dvc repro`")
    return data


def save_seed(number: int, model: FusionClassifier, probe: Probe) -> None:
    """Write the models of one seed."""
    folder = seed_folder(number)
    save_tensors(folder / "fusion.safetensors", model.state_dict())
    arrays = {name: torch.from_numpy(np.asarray(value)) for name, value in vars(probe).items()}
    save_tensors(folder / "probe.safetensors", arrays)


def load_seed(number: int, record: dict[str, Any], encoder: EncoderModel) -> tuple[FusionClassifier, Probe]:
    """The fusion classifier (eval mode) and probe of one seed."""
    folder = seed_folder(number)
    tensors = load_tensors(folder / "fusion.safetensors")
    own = None
    if record["variant"] == "image_only" and not isinstance(encoder, ImageEncoder):
        own = roi_encoder(encoder.membership, **encoder.sizes)
    model = FusionClassifier(FusionSizes(**record["sizes"]), tensors["order"], own)
    model.load_state_dict(tensors)
    probe = load_tensors(folder / "probe.safetensors")
    arrays: dict[str, Any] = {name: value.numpy() for name, value in probe.items()}
    arrays["c"] = float(arrays["c"])
    return model.eval().requires_grad_(False), Probe(**arrays)


def load_record() -> dict[str, Any]:
    """What all seeds share: sizes, variant, classes, parameter counts."""
    return read_json(paths.FUSION / RECORD)


def seed_folder(number: int) -> Path:
    """Where the models of one seed lie."""
    return paths.FUSION / f"seed{number}"


def predict(model: FusionClassifier, data: ImageData, rows: Array) -> Tensor:
    """Logits I C of the given rows, on the CPU."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat([model(*batch).logits.float().cpu() for batch in data.batches(rows, device)])
