"""Trained fusion classifiers and probes: what they read, where they are kept, and put to use."""

from collections.abc import Iterator, Sequence
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
from neuralood.base.reading import PREDICT_BATCH, HostPatches, host_patches, host_rows, read_batches
from neuralood.base.records import read_json
from neuralood.base.store import Array, Rows, Store, open_store
from neuralood.config import BASELINES
from neuralood.data.manifest import Manifest
from neuralood.encoder.form import Form, form_of, kept_as
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import roi_encoder
from neuralood.encoder.trained import EncoderModel, require_recipe
from neuralood.fusion.baselines import TRAINED, Baseline, LinearHead
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.neighbours import NearestNeighbours
from neuralood.fusion.probe import Probe

RECORD = "fusion.json"
NEIGHBOURS = "neighbours.zarr"
"""What variant `knn` compares images with: one store for all seeds."""
FUSION, LAST, PROBE = "fusion.safetensors", "last.safetensors", "probe.safetensors"
"""Files of a seed: the fusion classifier of the best epoch, that of the last one, the linear probe."""

Classifier = FusionClassifier | Baseline


class HostBatch(NamedTuple):
    """[CLS] B D', patches, and what is kept of predicted fMRI, B K or None, as they are stored, on the CPU."""

    cls: Tensor
    patches: HostPatches
    kept: Tensor | None


class Inputs(NamedTuple):
    """What fusion reads, on a device, float32: [CLS] B D', patches B N (L D), raw predicted fMRI B V."""

    cls: Tensor
    patches: Tensor
    fmri: Tensor

    def at(self, places: Array) -> "Inputs":
        """Of some of the images, by their places in the batch; of all without a copy."""
        if len(places) == len(self.cls):
            return self
        chosen = torch.from_numpy(places).to(self.cls.device)
        return Inputs(*(values[chosen] for values in self))

    def probe_features(self) -> Tensor:
        """concat([CLS], GAP of patches), B D'+LD: what the linear probe reads."""
        return torch.cat([self.cls, self.patches.mean(dim=1)], dim=1)


@dataclass(frozen=True)
class ImageData:
    """Stores of one image set, row by row the same images; `encoder` restores fMRI from what is kept of it.

    Without a `form` no fMRI is read.
    """

    tokens: Store
    fmri: Store
    form: Form | None
    encoder: EncoderModel

    def __len__(self) -> int:
        return len(self.tokens["cls"])

    @property
    def layers(self) -> int:
        """Layers L of the backbone whose patch tokens lie side by side."""
        return self.tokens["patches"].shape[1]

    @property
    def arrays(self) -> tuple[Rows, ...]:
        """What every batch is read from."""
        kept = () if self.form is None else self.fmri.arrays.values()
        return self.tokens["patches"], self.tokens["cls"], *kept

    def load(self, rows: Array, device: torch.device) -> HostBatch:
        """The given rows as they are stored, on the CPU, ready for a device."""
        pin = pins_memory(device)
        cls, *kept = (host_rows(array, rows, pin=pin) for array in self.arrays[1:])
        return HostBatch(cls, host_patches(self.tokens, rows, pin=pin), kept[0] if kept else None)

    def inputs(self, batch: HostBatch, device: torch.device) -> Inputs:
        """A batch on a device; the encoder must be there already."""
        return inputs_of(batch, self.form, self.encoder, device)

    def batches(self, rows: Array, device: torch.device) -> Iterator[tuple[Array, Inputs]]:
        """The given rows in sequence, on a device: their numbers and inputs of each batch."""
        read = read_batches(self.arrays, rows, PREDICT_BATCH, lambda chosen: self.load(chosen, device))
        yield from ((chosen, self.inputs(batch, device)) for chosen, batch in read)


def inputs_of(batch: HostBatch, form: Form | None, encoder: EncoderModel | None, device: torch.device) -> Inputs:
    """A batch on a device, the encoder being there already; where vertices are kept none is needed.

    Without a form the fMRI is empty, B 0.
    """
    patches = batch.patches.on(device)
    kept = None if batch.kept is None else batch.kept.to(device, non_blocking=True).float()
    with torch.no_grad():
        fmri = patches.new_zeros(len(patches), 0) if form is None else form.restore(encoder, kept, patches)
    return Inputs(batch.cls.to(device, non_blocking=True).float(), patches, fmri)


def open_image_data(
    manifest: Manifest, encoder: EncoderModel, encoder_record: dict[str, Any], *, reads_fmri: bool = True
) -> ImageData:
    """The token and fMRI stores of a set. Raises UserError where they are of other images or another encoder."""
    name = manifest.set_name
    tokens, fmri = open_store(paths.tokens(name)), open_store(paths.predicted_fmri(name))
    form = form_of(kept_as(fmri), encoder, encoder_record) if reads_fmri else None
    data = ImageData(tokens, fmri, form, encoder)
    require_recipe(data.tokens, encoder_record)
    for store in (data.tokens, data.fmri):
        if store.attributes["dataset"] != manifest.fingerprint:
            raise UserError(f"{store.path} is of other images than {paths.manifest(name)}: run `dvc repro`")
    if data.fmri.attributes["encoder"] != encoder_record["fingerprint"]:
        raise UserError(f"{data.fmri.path} was predicted by another encoder: run `dvc repro`")
    return data


@dataclass(frozen=True)
class PooledData(ImageData):
    """The same images as what the linear probe reads of them: [CLS] and, as the one patch, the mean of all patches.

    Models that only read that mean give the same logits; an epoch reads a sixtieth of the bytes of a ViT-B's tokens.
    """

    features: Rows

    @property
    def arrays(self) -> tuple[Rows, ...]:
        """What every batch is read from."""
        return (self.features,)

    def load(self, rows: Array, device: torch.device) -> HostBatch:
        """The given rows, on the CPU, ready for a device."""
        values, width = host_rows(self.features, rows, pin=pins_memory(device)), self.tokens["cls"].shape[1]
        return HostBatch(values[:, :width], HostPatches(values[:, None, None, width:], None), None)


def save_seed(number: int, model: Classifier, last: dict[str, Tensor], probe: Probe) -> None:
    """Write the models of one seed: the best classifier, its weights after the last epoch (if any), and the probe."""
    folder = seed_folder(number)
    save_tensors(folder / FUSION, model.state_dict())
    if last:
        save_tensors(folder / LAST, last)
    save_tensors(folder / PROBE, pack_probes([probe]))


def pack_probes(probes: Sequence[Probe]) -> dict[str, Tensor]:
    """As named tensors, to be kept."""
    return {
        f"{number}.{name}": torch.from_numpy(np.asarray(value))
        for number, probe in enumerate(probes)
        for name, value in vars(probe).items()
    }


def unpack_probes(tensors: dict[str, Tensor]) -> list[Probe]:
    """The inverse of `pack_probes`."""
    parts: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, part = name.split(".")
        parts.setdefault(int(number), {})[part] = float(value) if part == "c" else value.numpy()
    return [Probe(**parts[number]) for number in sorted(parts)]


def load_seed(
    number: int, record: dict[str, Any], encoder: EncoderModel, models: Path = paths.FUSION
) -> tuple[Classifier, Probe]:
    """The classifier (eval mode), fusion or a baseline, and the probe of one seed.

    From data/models/fusion/, or a folder laid out alike.
    """
    folder = seed_folder(number, models)
    tensors = load_tensors(folder / FUSION)
    model = _empty(FusionSizes(**record["sizes"]), tensors, encoder)
    model.load_state_dict(tensors)
    (probe,) = unpack_probes(load_tensors(folder / PROBE))
    return model.eval().requires_grad_(False), probe


def _empty(sizes: FusionSizes, tensors: dict[str, Tensor], encoder: EncoderModel) -> Classifier:
    """A classifier that these tensors fit."""
    if sizes.variant == "knn":
        return NearestNeighbours(sizes, len(tensors["labels"]), paths.FUSION / NEIGHBOURS)
    if sizes.variant in TRAINED:
        return TRAINED[sizes.variant](sizes)
    if sizes.variant in BASELINES:
        return LinearHead(sizes, tensors["classify.weight"].shape[1] - sizes.cls_width)
    own = None
    if sizes.variant == "image_only" and not isinstance(encoder, ImageEncoder):
        own = roi_encoder(encoder.membership.cpu(), **encoder.sizes)
    return FusionClassifier(sizes, tensors["order"], own)


def load_record() -> dict[str, Any]:
    """What all seeds share: sizes, variant, classes, parameter counts; and what each chose on its holdout."""
    return read_json(paths.FUSION / RECORD)


def seed_folder(number: int, models: Path = paths.FUSION) -> Path:
    """Where the models of one seed lie."""
    return models / f"seed{number}"
