"""What the baselines predict for validation and test images, kept: it is the same for every control."""

from collections.abc import Mapping

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.store import Array, open_store
from neuralood.base.writing import write_store
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, Measured

RIDGES = ("ridge", "ridge_gap", "banded_ridge")
"""Those that an encoder has to beat: the best of them on validation is the one it is compared with."""

KIND = "predictions of an encoder's baselines"
ROWS = "validation images in the order of data/fmri/measured.zarr, then its test images"
ROWS_IN_A_CHUNK = 250


def keep_baselines(predicted: Mapping[str, Array], measured: Measured) -> None:
    """Write data/encoder_baselines.zarr: of each baseline predicted fMRI W V, validation images first, then test."""
    attributes = {"kind": KIND, "rows": ROWS, "simulated": measured.simulated, **_belongs_to(measured)}
    write_store(paths.ENCODER_BASELINES, predicted, attributes, chunk=ROWS_IN_A_CHUNK)
    console.wrote(paths.ENCODER_BASELINES, f"{', '.join(predicted)} on images they never saw")


def read_baselines(measured: Measured) -> dict[str, Array]:
    """The same of each baseline. Raises UserError where the store is missing or damaged, or of other fMRI or splits."""
    store = open_store(paths.ENCODER_BASELINES)
    expected = {"kind": KIND, **_belongs_to(measured)}
    if {key: store.attributes.get(key) for key in expected} != expected:
        raise UserError(f"{store.path} is not of {paths.MEASURED} as it is now: run `dvc repro`, which makes it again")
    return {name: array[:] for name, array in store.arrays.items()}


def _belongs_to(measured: Measured) -> dict[str, str | int]:
    images = {name: len(measured.rows(part)) for name, part in (("train", TRAIN), ("validation", VALIDATION))}
    return {"fmri": measured.fingerprint, "dataset": measured.dataset, "test": len(measured.rows(TEST)), **images}
