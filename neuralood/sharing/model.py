"""An exported model from Python: any images in, classes and predicted activity of the brain's regions out.

from neuralood import BMFL

bmfl = BMFL.load("shared/model")
result = bmfl("photos")
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neuralood.base import console
from neuralood.base.device import choose_device
from neuralood.base.errors import UserError
from neuralood.base.reading import groups_of, read_ahead
from neuralood.base.store import Array
from neuralood.data.images import read_image
from neuralood.encoder.exported import REMEDY as COPY_AGAIN
from neuralood.encoder.exported import Exported, read_exported
from neuralood.encoder.trained import EncoderModel
from neuralood.fusion.model import FusionClassifier
from neuralood.fusion.probe import Probe
from neuralood.fusion.trained import Inputs, load_seed
from neuralood.given_images import REMEDY, ImageSource, decodable, each_image, listed
from neuralood.predictions import MODELS
from neuralood.sharing.record import ENCODER, MODEL, ModelRecord, read_record
from neuralood.vision import BATCH, Tokens, Vision, load_vision

TOP = 5

MISFIT = (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, ArithmeticError)
"""What weights raise that are not of the sizes that they are said to have."""


@dataclass(frozen=True)
class Prediction:
    """What a model makes of I images: C classes, R ROIs."""

    images: tuple[str, ...]
    """Their paths, I; `image 3` is a PIL image, by its place among the images given, from 0."""
    fusion: Array
    """Probabilities by the fusion classifier, mean over its seeds, I C float32."""
    linear: Array
    """By the linear probe, likewise."""
    roi: Array
    """Predicted fMRI averaged over the vertices of each ROI, I R float32, in the units of the fMRI that the encoder
    learned: z-scored responses, averaged over presentations."""
    class_ids: tuple[str, ...]
    """As training had them, C: names of folders, or wnids."""
    class_names: tuple[str, ...]
    """As people call them, C."""
    roi_names: tuple[str, ...]
    """Such as lh.V1v, R."""

    def __len__(self) -> int:
        return len(self.images)

    def best(self, model: str, count: int = TOP) -> Array:
        """The most probable classes of each image by `fusion` or `linear`, best first: I `count` (or C), indices."""
        probabilities: Array = getattr(self, model)
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


class _Decoded(NamedTuple):
    """Names and pixels B 3 H W of a batch's images, and a line for each that cannot be read."""

    names: list[str]
    pixels: list[Tensor]
    problems: list[str]


class BMFL:
    """A shared model: fusion classifiers and linear probes, a pair a seed, with brain encoder and backbone.

    `images` may be, in all methods, an image file, a folder (the images in it at any depth, sorted by path), a PIL
    image, or any iterable of these, such as a generator.
    """

    record: ModelRecord
    """What the model is and was made of, its metrics among it."""
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    roi_names: tuple[str, ...]
    trained_on: str
    """Source of the encoder's fMRI: `simulated` is no brain's."""
    control: str
    """`none`, or what the encoder is a control for."""

    def __init__(
        self,
        record: ModelRecord,
        encoder: Exported,
        seeds: list[tuple[FusionClassifier, Probe]],
        vision: Vision,
        device: torch.device,
    ) -> None:
        """The parts of a model that were loaded; all go to the device."""
        self.record = record
        self.class_ids, self.class_names = record.classes, record.names
        self.roi_names = tuple(encoder.record["roi_names"])
        self.trained_on, self.control = encoder.record["trained_on"], encoder.record["control"]
        self._encoder = encoder.model.to(device)
        self._seeds = [(model.to(device), probe) for model, probe in seeds]
        self._vision = vision
        self._see = vision.preprocessing.transform()
        members = self._encoder.membership[: len(self.roi_names)].float()
        self._averages = (members / members.sum(dim=1, keepdim=True)).T  # V R

    @classmethod
    def load(cls, path: str | Path, *, weights: str | Path | None = None, device: str = "auto") -> "BMFL":
        """The model in a folder that `neuralood export` wrote.

        `weights` of the backbone, which are not in the folder: `hub`, `package:NAME` or a file; by default where they
        lay when the model was trained, a file below NEURALOOD_DATA. `device`: auto, cpu, cuda, cuda:0, mps.

        Raises UserError where the folder holds no model or is damaged, and for other weights than those with which
        the model was trained.
        """
        folder, chosen = Path(path), choose_device(device, "device")
        record, encoder = read_record(folder), read_exported(folder / ENCODER)
        seeds = _read_seeds(folder, record, encoder.model)
        model = cls(record, encoder, seeds, _load_vision(folder, record, encoder, weights, chosen), chosen)
        if model.trained_on == "simulated" or model.control != "none":
            console.warn(f"{folder} is simulated, or a control: {model!r}")
        return model

    def __repr__(self) -> str:
        fmri = "SIMULATED fMRI" if self.trained_on == "simulated" else f"fMRI of {self.trained_on}"
        return (
            f"<BMFL of {len(self.class_ids):,} classes, {len(self.roi_names)} ROIs, variant {self.record.variant}, "
            f"{self.record.seeds} seed(s), encoder trained on {fmri}, control {self.control}>"
        )

    def __call__(self, images: ImageSource | Iterable[ImageSource]) -> Prediction:
        """Predictions of all images, with a progress bar. Raises UserError that names the first that cannot be read."""
        given, count = listed(images)
        batches = console.track(
            self.stream(given), "predictions (batches)", None if count is None else math.ceil(count / BATCH)
        )
        return self._joined(list(batches))

    def stream(
        self, images: ImageSource | Iterable[ImageSource], on_bad: Callable[[str], None] | None = None
    ) -> Iterator[Prediction]:
        """Predictions batch by batch, in the order of the images: any number of them.

        `on_bad` is told of each file that cannot be read, which is left out; without it, raises UserError for the
        first. Raises UserError for a PIL image that cannot be decoded.
        """
        report = on_bad or _stop
        for _, decoded in read_ahead(self._decoded, groups_of(enumerate(decodable(each_image(images))), BATCH)):
            for problem in decoded.problems:
                report(problem)
            if not decoded.names:
                continue
            tokens = self._vision.tokens(torch.stack(decoded.pixels))
            finite = torch.cat([tokens.cls, tokens.patches.flatten(1)], dim=1).isfinite().all(dim=1)
            for row in (~finite).nonzero().flatten().tolist():
                report(f"{decoded.names[row]}: its tokens are not finite")
            names = [name for name, kept in zip(decoded.names, finite.tolist(), strict=True) if kept]
            if names:
                yield self._predicted(names, Tokens(*(values[finite] for values in tokens)))

    def _decoded(self, images: list[tuple[int, Path | Image.Image]]) -> _Decoded:
        decoded = _Decoded([], [], [])
        for row, image in images:
            try:
                picture = image if isinstance(image, Image.Image) else read_image(image, REMEDY)
            except UserError as error:
                decoded.problems.append(str(error))
                continue
            decoded.names.append(f"image {row}" if image is picture else str(image))
            decoded.pixels.append(self._see(picture))
        return decoded

    @torch.inference_mode()
    def _predicted(self, names: list[str], tokens: Tokens) -> Prediction:
        fmri = self._encoder(tokens.patches).float()
        inputs = Inputs(tokens.cls, tokens.patches, fmri)
        features = inputs.probe_features().cpu().numpy()
        logits = {
            "fusion": [model(*inputs).logits.float().cpu() for model, _ in self._seeds],
            "linear": [torch.from_numpy(probe.logits(features)) for _, probe in self._seeds],
        }
        probabilities = {name: torch.stack(of_seeds).softmax(-1).mean(0).numpy() for name, of_seeds in logits.items()}
        return self._prediction(names, roi=(fmri @ self._averages).cpu().numpy(), **probabilities)

    def _joined(self, batches: list[Prediction]) -> Prediction:
        empty = {"roi": np.empty((0, len(self.roi_names)), np.float32)}
        empty |= {name: np.empty((0, len(self.class_ids)), np.float32) for name in MODELS}
        arrays = {
            name: np.concatenate([none, *(getattr(one, name) for one in batches)]) for name, none in empty.items()
        }
        return self._prediction([image for one in batches for image in one.images], **arrays)

    def _prediction(self, images: Iterable[str], *, fusion: Array, linear: Array, roi: Array) -> Prediction:
        return Prediction(tuple(images), fusion, linear, roi, self.class_ids, self.class_names, self.roi_names)


def _stop(problem: str) -> NoReturn:
    raise UserError(problem)


def _read_seeds(folder: Path, record: ModelRecord, encoder: EncoderModel) -> list[tuple[FusionClassifier, Probe]]:
    """Fusion classifiers and probes. Raises UserError where weights, sizes and encoder are not of one model."""
    about = {"variant": record.variant, "sizes": asdict(record.sizes)}
    try:
        loaded = [load_seed(number, about, encoder, folder) for number in range(record.seeds)]
    except MISFIT:
        loaded = []
    seeds = [(model, probe) for model, probe in loaded if isinstance(model, FusionClassifier)]
    if len(seeds) < record.seeds or not all(_fits(record, encoder, model, probe) for model, probe in seeds):
        raise UserError(f"{folder}: its weights do not fit the sizes in {MODEL}: {COPY_AGAIN}")
    return seeds


def _fits(record: ModelRecord, encoder: EncoderModel, model: FusionClassifier, probe: Probe) -> bool:
    """What loading the weights does not see: vertices that there are, and the probe's shapes."""
    sizes, features = record.sizes, record.sizes.cls_width + record.sizes.patch_width
    there = set(range(encoder.membership.shape[1]))
    vertices = len(model.order) == sizes.vertices and there.issuperset(model.order.tolist())
    shapes = [part.shape for part in (probe.mean, probe.sd, probe.weight, probe.bias)]
    return vertices and shapes == [(features,), (features,), (sizes.classes, features), (sizes.classes,)]


def _load_vision(
    folder: Path, record: ModelRecord, encoder: Exported, weights: str | Path | None, device: torch.device
) -> Vision:
    """The backbone; where its weights were a file, errors say which."""
    try:
        return load_vision(folder, encoder.record, weights, device)
    except UserError as error:
        if record.weights_file is None:
            raise
        file = record.weights_file
        raise UserError(f"{error} (they were {file.name}, SHA-256 {file.sha256}; in the shell: --weights)") from None
