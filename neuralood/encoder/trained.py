"""A trained brain encoder: kept on disk, and put to use."""

from typing import Any

import torch

from neuralood.base import console, paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.device import pins_memory
from neuralood.base.reading import PREDICT_BATCH, HostPatches, host_patches, read_batches
from neuralood.base.records import read_json, write_json
from neuralood.base.store import Array, Store, require_same
from neuralood.base.weights import fingerprint
from neuralood.data.fmri import Measured
from neuralood.encoder.model import RoiEncoder

WEIGHTS = "encoder.safetensors"
RECORD = "encoder.json"

RECIPE = ("backbone", "weights", "preprocessing", "features", "layers", "grid", "pool", "versions")
"""What two token stores must share for one encoder to read both."""


def require_recipe(tokens: Store, record: dict[str, Any]) -> None:
    """Refuse tokens that differ from those the encoder was trained on; other library versions only warn.

    Raises UserError naming what differs.
    """
    for key in require_same(tokens, record["tokens"]):
        console.warn(f"{tokens.path}: {key} are {tokens.attributes[key]}, the encoder's {record['tokens'][key]}")


def save_encoder(model: RoiEncoder, tokens: Store, measured: Measured, control: str, epochs: int) -> None:
    """Write weights, and what is needed to build the model, to name its vertices and to refuse other tokens."""
    save_tensors(paths.ENCODER / WEIGHTS, model.state_dict())
    record = {
        "sizes": model.sizes,
        "control": control,
        "source": measured.source,
        "fingerprint": fingerprint(model),
        "epochs": epochs,
        "roi_names": list(measured.roi_names),
        "hemi": measured.hemi.tolist(),
        "tokens": {key: tokens.attributes[key] for key in RECIPE},
    }
    write_json(paths.ENCODER / RECORD, record, compact=True)


def load_encoder() -> tuple[RoiEncoder, dict[str, Any]]:
    """The trained encoder in eval mode, and its record (control, and what its tokens were made of)."""
    record = read_json(paths.ENCODER / RECORD)
    weights = load_tensors(paths.ENCODER / WEIGHTS)
    model = RoiEncoder(weights["membership"], **record["sizes"])
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), record


def predict(model: RoiEncoder, tokens: Store, rows: Array) -> Array:
    """Predicted fMRI, I V float32, of the given rows of a token store."""
    device = next(model.parameters()).device

    def load(chosen: Array) -> HostPatches:
        return host_patches(tokens, chosen, pin=pins_memory(device))

    with torch.inference_mode():
        read = read_batches((tokens["patches"],), rows, PREDICT_BATCH, load)
        return torch.cat([model(patches.on(device)).float().cpu() for _, patches in read]).numpy()
