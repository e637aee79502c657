"""Predicted fMRI from image files, by an encoder that reads images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralood.backbone import Preprocessing
from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data.manifest import Manifest
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.trained import EncoderModel, predicted_fmri
from neuralood.tokens.decode import decoded_batches

BATCH = 50
"""Images in a forward pass."""


@dataclass(frozen=True)
class Eyes:
    """How an encoder wants its images."""

    preprocessing: Preprocessing


def predict_images(
    model: ImageEncoder,
    preprocessing: dict[str, Any],
    manifest: Manifest,
    chunks: list[Array],
    workers: int,
    keep: Callable[[EncoderModel, Tensor], Tensor] = predicted_fmri,
) -> Iterator[Array]:
    """Predicted fMRI, I V float32 (or what `keep` makes), of each chunk of rows, from the set's image files.

    Raises UserError for an image that cannot be read any more.
    """
    eyes = Eyes(Preprocessing(**preprocessing))
    device = next(model.parameters()).device
    batches = [part.tolist() for rows in chunks for part in np.split(rows, range(BATCH, len(rows), BATCH))]
    decoded = decoded_batches(manifest, eyes, batches, device, workers)
    for rows in chunks:
        parts: list[Tensor] = []
        while sum(map(len, parts)) < len(rows):
            batch = next(decoded)
            if batch.problems:
                raise UserError(batch.problems[0])
            with torch.inference_mode():
                parts.append(keep(model, batch.pixels.to(device)).float().cpu())
        yield torch.cat(parts).numpy()
