"""A trained brain encoder from Python: any images in, predicted fMRI out.

from neuralood import BrainEncoder

encoder = BrainEncoder.load("data/models/encoder")
fmri = encoder.predict("photos")
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neuralood.backbone import Preprocessing
from neuralood.base import console
from neuralood.base.device import choose_device
from neuralood.base.errors import UserError
from neuralood.base.reading import groups_of, read_ahead
from neuralood.base.records import read_json
from neuralood.base.store import Array
from neuralood.data.images import read_image
from neuralood.encoder.exported import read_exported
from neuralood.encoder.trained import IMAGES, RECORD, EncoderModel, load_encoder
from neuralood.given_images import REMEDY, ImageSource, decodable, each_image, listed
from neuralood.vision import BATCH, Vision, load_vision


class BrainEncoder:
    """A trained, frozen brain encoder: images -> predicted fMRI of V vertices (lh, then rh) in R ROIs.

    Predictions are in the units of the fMRI that it was trained on. `images` may be, in all methods, an image file, a
    folder (the images in it at any depth, sorted by path), a PIL image, or any iterable of these, such as a generator.
    """

    model: EncoderModel
    """The network itself, in eval mode."""
    hemi: Array
    """0 left, 1 right, V."""
    roi_names: tuple[str, ...]
    """Such as lh.V1v, R."""
    membership: Array
    """Which vertices lie in which ROI, R V bool: a vertex may lie in several, or in none."""
    fsaverage_vertex: Array | None
    """Index of each vertex on fsaverage's own hemisphere, V; None where it has no such place."""
    subject: str
    trained_on: str
    """Source of the fMRI: `simulated` is no brain's."""
    control: str
    """`none`, or what the encoder is a control for."""

    def __init__(
        self, model: EncoderModel, record: dict[str, Any], device: torch.device, vision: Vision | None
    ) -> None:
        """`record` is its encoder.json; `vision` makes the tokens of an encoder that reads tokens."""
        self.model = model.to(device)
        self.hemi = np.array(record["hemi"], np.int8)
        self.roi_names = tuple(record["roi_names"])
        self.membership = model.membership[: len(self.roi_names)].cpu().numpy()
        places = record.get("fsaverage_vertex")
        self.fsaverage_vertex = None if places is None else np.array(places, np.int32)
        self.subject, self.trained_on, self.control = record["subject"], record["trained_on"], record["control"]
        self._device = device
        self._vision = vision
        preprocessing = Preprocessing(**record["preprocessing"]) if vision is None else vision.preprocessing
        self._see = preprocessing.transform()

    @classmethod
    def load(cls, path: str | Path, *, weights: str | Path | None = None, device: str = "auto") -> "BrainEncoder":
        """The encoder in a folder: data/models/encoder of a run, or one that `neuralood export-encoder` wrote.

        `weights` of the backbone that makes its tokens: `hub`, `package:NAME` or a file; by default where they lay
        when the encoder was trained, a file below NEURALOOD_DATA. `device`: auto, cpu, cuda, cuda:0, mps.

        Raises UserError where the folder holds no encoder or is damaged, and for other weights than those with which
        the encoder was trained.
        """
        folder, chosen = Path(path), choose_device(device, "device")
        model, record = _read(folder)
        vision = None if record["reads"] == IMAGES else load_vision(folder, record, weights, chosen)
        encoder = cls(model, record, chosen, vision)
        if encoder.trained_on == "simulated" or encoder.control != "none":
            console.warn(f"{folder} is simulated, or a control: {encoder!r}")
        return encoder

    def __repr__(self) -> str:
        fmri = "SIMULATED fMRI" if self.trained_on == "simulated" else f"fMRI of {self.trained_on}"
        return (
            f"<BrainEncoder of {self.subject}, {len(self.hemi):,} vertices, {len(self.roi_names)} ROIs, "
            f"trained on {fmri}, control {self.control}>"
        )

    def predict(self, images: ImageSource | Iterable[ImageSource]) -> Array:
        """Predicted fMRI, I V float32, with a progress bar.

        Raises UserError that names the first image which cannot be read.
        """
        return self._gathered(images, lambda fmri: fmri, len(self.hemi))

    def roi_means(self, images: ImageSource | Iterable[ImageSource]) -> dict[str, Array]:
        """Predicted fMRI averaged over the vertices of each ROI, I float32 by its name, such as lh.V1v.

        Only the averages are kept in memory. Raises UserError as `predict` does.
        """
        weights = (self.membership / self.membership.sum(axis=1, keepdims=True)).T.astype(np.float32)  # V R
        means = self._gathered(images, lambda fmri: fmri @ weights, len(self.roi_names))
        return dict(zip(self.roi_names, means.T, strict=True))

    def stream(self, images: ImageSource | Iterable[ImageSource]) -> Iterator[Array]:
        """Predicted fMRI batch by batch, B V float32, in the order of the images: any number of them.

        Few images are in memory at a time. Raises UserError as `predict` does.
        """
        for _, pixels in read_ahead(self._pixels, groups_of(decodable(each_image(images)), BATCH)):
            yield self._fmri(pixels)

    def _gathered(
        self, images: ImageSource | Iterable[ImageSource], keep: Callable[[Array], Array], width: int
    ) -> Array:
        """What `keep` keeps of each batch of predicted fMRI, I `width`."""
        given, count = listed(images)
        total = None if count is None else math.ceil(count / BATCH)
        batches = console.track(self.stream(given), "predicted fMRI (batches)", total)
        return np.concatenate([np.empty((0, width), np.float32), *map(keep, batches)])

    def _pixels(self, images: list[Path | Image.Image]) -> Tensor:
        """B 3 H W."""
        decoded = [image if isinstance(image, Image.Image) else read_image(image, REMEDY) for image in images]
        return torch.stack([self._see(image) for image in decoded])

    @torch.inference_mode()
    def _fmri(self, pixels: Tensor) -> Array:
        """pixels B 3 H W -> predicted fMRI B V."""
        seen = pixels.to(self._device) if self._vision is None else self._vision.tokens(pixels).patches
        fmri: Array = self.model(seen).float().cpu().numpy()
        return fmri


def _read(folder: Path) -> tuple[EncoderModel, dict[str, Any]]:
    """The model and its record."""
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder} holds no brain encoder ({RECORD}): name data/models/encoder of a run, or a folder that "
            "`neuralood export-encoder` wrote"
        )
    if "format" in read_json(folder / RECORD):
        return read_exported(folder)[:2]
    return load_encoder(folder)
