"""Image files to batches of pixels, in processes of their own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neuralood.backbone import Preprocessing
from neuralood.base.device import pins_memory
from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data.images import from_linear, read_image
from neuralood.data.manifest import Manifest
from neuralood.tokens.unfinished import stamp_of


class Preprocessed(Protocol):
    """A network that says how images become its pixels."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Resize, crop, normalise."""


def decoded_batches(
    manifest: Manifest, backbone: Preprocessed, batches: list[list[int]], device: torch.device, workers: int
) -> Iterator["Batch"]:
    """Decoded batches, in order, from `workers` processes (0: this one)."""
    loader: DataLoader[Any] = DataLoader(
        _Images(manifest, backbone),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pins_memory(device),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise UserError(
            "a process that decodes images was killed (out of memory?): lower runtime.workers and run again; "
            "finished chunks are kept"
        ) from None


@dataclass(frozen=True)
class Batch:
    """Decoded images of one batch: their rows, pixels B 3 H W, file stamps, and a line for each that failed."""

    first_row: int
    rows: Array
    pixels: Tensor
    stamps: Array
    problems: list[str]

    def pin_memory(self) -> "Batch":
        """Called by the loader where batches go to CUDA."""
        return replace(self, pixels=self.pixels.pin_memory())


class _Images(Dataset[tuple[int, Tensor | str, Array]]):
    """Row -> row, pixels (or why there are none), file stamp."""

    def __init__(self, manifest: Manifest, backbone: Preprocessed) -> None:
        self.manifest = manifest
        self.transform = backbone.preprocessing.transform(cropped=manifest.cropped, margin_px=manifest.margin_px)

    def __getitem__(self, row: int) -> tuple[int, Tensor | str, Array]:
        file = self.manifest.image_file(row)
        try:
            image = from_linear(read_image(file)) if self.manifest.linear else read_image(file)
            return row, self.transform(image), stamp_of(file)
        except UserError as error:
            return row, str(error), np.zeros(2, np.int64)


def _collate(items: list[tuple[int, Tensor | str, Array]]) -> Batch:
    good = [item for item in items if isinstance(item[1], Tensor)]
    return Batch(
        first_row=items[0][0],
        rows=np.array([row for row, _, _ in good], np.int64),
        pixels=torch.stack([pixels for _, pixels, _ in good]) if good else torch.empty(0),  # type: ignore[misc]
        stamps=np.array([stamp for _, _, stamp in good], np.int64),
        problems=[pixels for _, pixels, _ in items if isinstance(pixels, str)],
    )
