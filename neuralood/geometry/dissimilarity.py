"""How different every two images are, to a model and to people.

Pairs of I images are I(I-1)/2 numbers, row by row above the diagonal, as scipy and rsatoolbox have them.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from neuralood.base.errors import UserError
from neuralood.base.store import Array

ASYMMETRY = 1e-4
"""Largest difference of a matrix to its mirror image that is taken for rounding."""


def dissimilarities(features: Array) -> Array:
    """features I F -> 1 - Pearson r of every two images over their features, pairs, float64.

    An image whose features are all equal is correlated with none (r = 0).
    """
    centred = features - features.mean(axis=1, keepdims=True, dtype=np.float64)
    centred[np.ptp(features, axis=1) == 0] = 0
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.where(norm > 0, norm, 1)
    unlike: Array = 1 - (centred @ centred.T)[np.triu_indices(len(features), 1)]
    return unlike


def read_people(file: Path, array: str, images: int, key: str) -> Array:
    """People's dissimilarities: `array` P I I, or P sessions I I to be averaged, of an .npz file -> P x pairs, float64.

    `key` is that of the entry in params.yaml. Raises UserError where the file is missing or damaged, lacks the
    array, or has matrices of another shape, that are not symmetric, or hold numbers that are not finite.
    """
    matrices = _read(file, array, key)
    shown = f"{file}: {array}"
    if matrices.ndim not in (3, 4) or matrices.shape[-2:] != (images, images) or not matrices.size:
        raise UserError(
            f"{shown} is {' x '.join(map(str, matrices.shape))}, expected people x {images} x {images}, or people x "
            f"sessions x {images} x {images}, as the set has {images} images: choose another {key}.array"
        )
    if not np.isfinite(matrices).all():
        raise UserError(f"{shown} holds numbers that are not finite: leave out the images that were not measured")
    if np.abs(matrices - matrices.swapaxes(-1, -2)).max() > ASYMMETRY:
        raise UserError(f"{shown} is not symmetric, so it has no dissimilarities: choose another {key}.array")
    people = matrices if matrices.ndim == 3 else matrices.mean(axis=1)
    pairs: Array = people[(slice(None), *np.triu_indices(images, 1))]
    return pairs


def _read(file: Path, array: str, key: str) -> Array:
    """One array of an .npz file, float64."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if array not in arrays.files:
                raise UserError(f"{file} has no array {array}, only {', '.join(arrays.files)}: mend {key}.array")
            matrices: Array = np.asarray(arrays[array], np.float64)
            return matrices
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise UserError(f"{file} is missing or no .npz of numbers ({error}): mend {key}.dissimilarities") from None
