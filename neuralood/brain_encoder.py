"""A trained brain encoder from Python: any images in, predicted fMRI out.

from neuralood import BrainEncoder

encoder = BrainEncoder.load("data/models/encoder")
fmri = encoder.predict("photos")
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neuralood.backbone import FrozenBackbone, Preprocessing, load_backbone
from neuralood.base import console, paths
from neuralood.base.device import autocast, choose_device
from neuralood.base.errors import UserError
from neuralood.base.reading import HostPatches, groups_of, read_ahead
from neuralood.base.records import read_json
from neuralood.base.store import Array
from neuralood.config import Cache
from neuralood.data.images import EXTENSIONS, read_image, rgb_image
from neuralood.encoder.exported import read_exported
from neuralood.encoder.trained import IMAGES, RECIPE, RECORD, EncoderModel, load_encoder
from neuralood.tokens.cache import provenance
from neuralood.tokens.extract import stored_form

ImageSource = str | Path | Image.Image
"""An image file, a folder of them, or a PIL image."""

BATCH = 32
"""Images in a forward pass."""

REMEDY = "replace it, or leave it out"


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
        self, model: EncoderModel, record: dict[str, Any], device: torch.device, backbone: FrozenBackbone | None
    ) -> None:
        """`record` is its encoder.json; `backbone` makes the tokens of an encoder that reads tokens."""
        self.model = model.to(device)
        self.hemi = np.array(record["hemi"], np.int8)
        self.roi_names = tuple(record["roi_names"])
        self.membership = model.membership[: len(self.roi_names)].cpu().numpy()
        places = record.get("fsaverage_vertex")
        self.fsaverage_vertex = None if places is None else np.array(places, np.int32)
        self.subject, self.trained_on, self.control = record["subject"], record["trained_on"], record["control"]
        self._device = device
        self._backbone = None if backbone is None else backbone.to(device)
        self._settings = None if backbone is None else _settings(record)
        preprocessing = Preprocessing(**record["preprocessing"]) if backbone is None else backbone.preprocessing
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
        backbone = None if record["reads"] == IMAGES else _load_backbone(folder, record, weights)
        encoder = cls(model, record, chosen, backbone)
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
        for _, pixels in read_ahead(self._pixels, groups_of(_decodable(_each(images)), BATCH)):
            yield self._fmri(pixels)

    def _gathered(
        self, images: ImageSource | Iterable[ImageSource], keep: Callable[[Array], Array], width: int
    ) -> Array:
        """What `keep` keeps of each batch of predicted fMRI, I `width`."""
        listed = list(_each(images)) if isinstance(images, (Sized, Path, Image.Image)) else images
        total = math.ceil(len(listed) / BATCH) if isinstance(listed, list) else None
        batches = console.track(self.stream(listed), "predicted fMRI (batches)", total)
        return np.concatenate([np.empty((0, width), np.float32), *map(keep, batches)])

    def _pixels(self, images: list[Path | Image.Image]) -> Tensor:
        """B 3 H W."""
        decoded = [image if isinstance(image, Image.Image) else read_image(image, REMEDY) for image in images]
        return torch.stack([self._see(image) for image in decoded])

    @torch.inference_mode()
    def _fmri(self, pixels: Tensor) -> Array:
        """pixels B 3 H W -> predicted fMRI B V."""
        fmri: Array = self.model(self._seen(pixels.to(self._device))).float().cpu().numpy()
        return fmri

    def _seen(self, pixels: Tensor) -> Tensor:
        """pixels B 3 H W as the model wants them: as they are, or as tokens B N (L D), rounded as a store has them."""
        if self._backbone is None or self._settings is None:
            return pixels
        with autocast(self._device, self._settings.autocast):
            cls, patches = self._backbone.tokens(pixels)
        stored = stored_form(cls, patches, self._backbone.shape.grid, self._settings)
        return HostPatches(stored["patches"], stored.get("patches_scale")).on(self._device)


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


def _load_backbone(folder: Path, record: dict[str, Any], weights: str | Path | None) -> FrozenBackbone:
    """The backbone that made the encoder's tokens. Raises UserError where the one found makes others."""
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
    found = provenance(recipe["backbone"], backbone, _settings(record), dataset="")
    differing = [key for key in RECIPE if found[key] != recipe[key]]
    if differing == ["versions"]:
        console.warn(f"{folder}: tokens were made by {recipe['versions']}, here are {found['versions']}")
    elif differing:
        raise UserError(
            f"{source} does not make the tokens that the encoder in {folder} was trained on ({', '.join(differing)} "
            f"differ): name the weights of {recipe['backbone']} that it was trained with, load(..., weights=...)"
        )
    return backbone


def _each(images: ImageSource | Iterable[ImageSource]) -> Iterator[Any]:
    """One by one, folders replaced by the images in them."""
    for image in [images] if isinstance(images, (str, Path, Image.Image)) else images:
        if isinstance(image, (str, Path)) and Path(image).is_dir():
            yield from _images_in(Path(image))
        else:
            yield image


def _images_in(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    if not files:
        raise UserError(f"{folder} holds no image: name a folder with some ({', '.join(sorted(EXTENSIONS))})")
    return sorted(files, key=str)


def _decodable(images: Iterable[Any]) -> Iterator[Path | Image.Image]:
    """Paths, whose files are read later, and PIL images, decoded at once: whoever lent them may close or change them.

    Raises UserError that names the row of what is no image.
    """
    for row, image in enumerate(images):
        if isinstance(image, Image.Image):
            yield rgb_image(image, f"image {row}", REMEDY)
        elif isinstance(image, (str, Path)):
            yield Path(image)
        else:
            raise UserError(f"image {row} is a {type(image).__name__}: wants a path, a folder or a PIL image")
