"""The forms in which predicted fMRI is kept, side by side: bytes, time to read it, and what fusion makes of it."""

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.fusion_training import Training, training_of
from benchmarks.fusion_world import edit_params, predicted
from benchmarks.timing import alternate
from neuralood.base import paths
from neuralood.base.reading import host_rows, patch_batch
from neuralood.base.store import Rows, open_store
from neuralood.fusion.model import FusionClassifier
from neuralood.fusion.trained import ImageData

ROIS = "early"
FULL, WHOLE, LOW_RANK, SOME, NONE = "vertices", "vertices, float32", "roi_tokens", f"vertices of {ROIS}", "none"
FORMS: dict[str, dict[str, Any]] = {
    FULL: {"store": "vertices", "rois": "all"},
    WHOLE: {"store": "vertices", "rois": "all"},
    LOW_RANK: {"store": "roi_tokens", "rois": "all"},
    SOME: {"store": "vertices", "rois": ROIS},
    NONE: {"store": "none", "rois": "all"},
}
BATCH = 32
CPU = torch.device("cpu")

Record = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """One form of the same predictions: its store, and how to read a batch of it."""

    data: ImageData

    @property
    def array(self) -> Rows | None:
        """What is kept; None of the form that keeps nothing."""
        return next(iter(self.data.fmri.arrays.values()), None)

    def bytes_an_image(self) -> float:
        """On the disk, by the array's shape."""
        return 0.0 if self.array is None else self.array.dtype.itemsize * self.array.shape[1]

    def fmri(self, rows: Any, patches: Tensor) -> Tensor:
        """Read and restored, B V."""
        kept = None if self.array is None else host_rows(self.array, rows, pin=False).float()
        assert self.data.form is not None
        return self.data.form.restore(self.data.encoder, kept, patches)


def measure_forms(folder: Path, training: Training, images: int, repeats: int) -> Record:
    """Of each form; logits are those of the model that was trained, and of one that reads the ROIs alone."""
    with chdir(folder):
        forms = {name: _write(name) for name in FORMS}
        predicted(**FORMS[FULL])  # as it was
        some = training_of(images, batch=BATCH, epochs=1, rois=ROIS)
        return _compare(forms, training.models[0].eval(), some.models[0].eval(), images, repeats)


def _write(name: str) -> Kept:
    """By the stage, moved to a place of its own."""
    edit_params(Path(), cache={"dtype": "float32" if name == WHOLE else "float16"})
    data = predicted(**FORMS[name])
    edit_params(Path(), cache={"dtype": "float16"})
    place = paths.DATA / "forms" / name
    place.parent.mkdir(exist_ok=True)
    data.fmri.path.rename(place)
    return Kept(ImageData(data.tokens, open_store(place), data.form, data.encoder))


@torch.inference_mode()
def _compare(
    forms: dict[str, Kept], model: FusionClassifier, some: FusionClassifier, images: int, repeats: int
) -> Record:
    rows = np.arange(images)
    seconds = _seconds(forms, repeats)
    logits = {name: _logits(kept, model, rows) for name, kept in forms.items() if name != SOME}
    of_some = {name: _logits(forms[name], some, rows) for name in (FULL, WHOLE, SOME)}
    found: Record = {"logits sd": float(logits[FULL].std())}
    for name, kept in forms.items():
        own = of_some if name == SOME else logits
        found[name] = {
            "bytes": kept.bytes_an_image(),
            "milliseconds": 1000 * seconds[name],
            "from float16": float((own[name] - own[FULL]).abs().max()),
            "from float32": float((own[name] - own[WHOLE]).abs().max()),
        }
    return found


def _logits(kept: Kept, model: FusionClassifier, rows: Any) -> Tensor:
    """Of some images, I C."""
    return torch.cat([model(*inputs).logits for _, inputs in kept.data.batches(rows, CPU)])


def _seconds(forms: dict[str, Kept], repeats: int) -> dict[str, float]:
    """To read and restore fMRI of a batch, whose tokens are there: median."""
    rows = np.arange(BATCH)
    patches = patch_batch(next(iter(forms.values())).data.tokens, rows, CPU)
    cases: dict[str, Callable[[], object]] = {
        name: lambda kept=kept: kept.fmri(rows, patches)  # type: ignore[misc]
        for name, kept in forms.items()
    }
    return {name: float(np.median(values)) for name, values in alternate(cases, repeats).items()}
