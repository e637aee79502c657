"""A trained brain encoder: kept on disk, and put to use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralood.base import console, paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.device import pins_memory
from neuralood.base.reading import PREDICT_BATCH, HostPatches, host_patches, read_batches
from neuralood.base.records import read_json, write_json
from neuralood.base.store import Array, Store, require_same
from neuralood.base.weights import fingerprint
from neuralood.data.fmri import Measured
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import RoiEncoders, roi_encoder

WEIGHTS = "encoder.safetensors"
RECORD = "encoder.json"

TOKENS, IMAGES = "tokens", "images"
"""What an encoder reads (`reads` of its record): RoiEncoders tokens, an ImageEncoder images."""

RECIPE = ("backbone", "weights", "preprocessing", "features", "layers", "grid", "pool", "versions")
"""What two token stores must share for one encoder to read both."""

EXTRACTION = ("weights_source", "dtype", "autocast")
"""What else it takes to make such tokens of other images."""

EncoderModel = RoiEncoders | ImageEncoder


def require_recipe(tokens: Store, record: dict[str, Any]) -> None:
    """Refuse tokens that differ from those the encoder was trained on; other library versions only warn.

    An encoder that reads images takes any. Raises UserError naming what differs.
    """
    for key in require_same(tokens, record.get("tokens", {})):
        console.warn(f"{tokens.path}: {key} are {tokens.attributes[key]}, the encoder's {record['tokens'][key]}")


def save_encoder(model: RoiEncoders, tokens: Store, measured: Measured, control: str, epochs: int) -> None:
    """Write weights, and what is needed to build the model, to name its vertices and to refuse other tokens."""
    save_tensors(paths.ENCODER / WEIGHTS, model.state_dict())
    places = measured.fsaverage_vertex
    record = {
        "reads": TOKENS,
        "sizes": model.sizes,
        "control": control,
        "source": measured.source,
        "trained_on": measured.source,
        "subject": measured.subject,
        "space": measured.space,
        "fingerprint": fingerprint(model),
        "epochs": epochs,
        "roi_names": list(measured.roi_names),
        "hemi": measured.hemi.tolist(),
        "fsaverage_vertex": None if places is None else places.tolist(),
        "tokens": {key: tokens.attributes[key] for key in RECIPE},
        "extraction": {key: tokens.attributes[key] for key in EXTRACTION},
    }
    write_json(paths.ENCODER / RECORD, record, compact=True)


def load_encoder(folder: Path = paths.ENCODER) -> tuple[EncoderModel, dict[str, Any]]:
    """The trained encoder in eval mode, and its record (control, and what its tokens were made of)."""
    record = read_json(folder / RECORD)
    weights = load_tensors(folder / WEIGHTS)
    if record["reads"] == IMAGES:
        model = empty_encoder(record, weights).to_empty(device="cpu")
    else:
        model = roi_encoder(weights["membership"], **record["sizes"])
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), record


def encoder_rois() -> tuple[list[str], Array]:
    """The trained encoder's ROIs: names, such as lh.V1v, and membership, R V."""
    names = read_json(paths.ENCODER / RECORD)["roi_names"]
    return names, load_tensors(paths.ENCODER / WEIGHTS)["membership"][: len(names)].numpy()  # the rest queries follow


def empty_encoder(record: dict[str, Any], weights: dict[str, Tensor]) -> EncoderModel:
    """The encoder that a record describes, for these weights to be loaded into: takes no memory of its own."""
    with torch.device("meta"):
        if record["reads"] == IMAGES:
            components, features = weights["project.weight"].shape
            return ImageEncoder(record["network"], weights["membership"], features=features, components=components)
        return roi_encoder(weights["membership"], **record["sizes"])


def trained_numbers(model: EncoderModel) -> int:
    """How many numbers were fitted to fMRI: of an ImageEncoder its linear readout."""
    part = model.readout if isinstance(model, ImageEncoder) else model
    return sum(value.numel() for value in part.parameters())


def predicted_fmri(model: EncoderModel, inputs: Tensor) -> Tensor:
    """What `predict` keeps where nothing else is asked for: all vertices, B V."""
    fmri: Tensor = model(inputs)
    return fmri


def predict(
    model: RoiEncoders,
    tokens: Store,
    rows: Array,
    keep: Callable[[EncoderModel, Tensor], Tensor] = predicted_fmri,
) -> Array:
    """Predicted fMRI, I V float32 (or what `keep` makes of model and patches), of the given rows of a token store."""
    device = next(model.parameters()).device

    def load(chosen: Array) -> HostPatches:
        return host_patches(tokens, chosen, pin=pins_memory(device))

    with torch.inference_mode():
        read = read_batches((tokens["patches"],), rows, PREDICT_BATCH, load)
        return torch.cat([keep(model, patches.on(device)).float().cpu() for _, patches in read]).numpy()
