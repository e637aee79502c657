"""The people whose fMRI an encoder is trained on: the first, whom it predicts, and further ones who share its trunk."""

from dataclasses import dataclass

import numpy as np
import torch

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import Array, Store, open_store, require_same
from neuralood.config import Params
from neuralood.data.fmri import SMALLEST_SPLIT, TEST, TRAIN, VALIDATION, Measured, read_measured
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.data.stimuli import stimuli
from neuralood.encoder.controls import fewer_images
from neuralood.encoder.model import RoiReadout
from neuralood.encoder.trained import RECIPE


@dataclass(frozen=True)
class Viewer:
    """One subject: tokens of the I images seen, the fMRI to train on, and the rows for that."""

    set_name: str
    tokens: Store
    measured: Measured
    fmri: Array
    """I V: the measured one, or what a control puts in its place."""
    train: Array
    validation: Array
    """Empty for further subjects."""
    names: tuple[str, ...] = ()
    """What tells random draws for a further subject from those for the first."""


def first_viewer(params: Params) -> Viewer:
    """The subject whom the encoder predicts, with all fMRI in memory, and of it `encoder.images` to train on.

    Raises UserError where tokens and fMRI are of different images.
    """
    tokens, measured = open_store(paths.tokens("nsd")), read_measured()
    if tokens.attributes["dataset"] != measured.dataset:
        raise UserError(
            f"{tokens.path} and {paths.MEASURED} are of different images: run `dvc repro`, which makes both again"
        )
    if params.encoder.images is not None:
        measured = fewer_images(measured, params.encoder.images, generator(params.seed, "fMRI images"))
    fmri = np.array(measured.fmri[:], np.float32)
    return Viewer("nsd", tokens, measured, fmri, measured.rows(TRAIN), measured.rows(VALIDATION))


def further_viewers(params: Params, first: Viewer) -> list[Viewer]:
    """Those of `encoder.more_subjects`, each with all fMRI in memory.

    Raises UserError where tokens are of other images than the fMRI, or made otherwise than the first subject's, or
    where too few images are left to train on.
    """
    return [_further_viewer(name, entry.images, first) for name, entry in params.encoder.more_subjects.items()]


def _further_viewer(name: str, set_name: str, first: Viewer) -> Viewer:
    store = paths.more_measured(name)
    images, tokens, measured = read_manifest(set_name), open_store(paths.tokens(set_name)), read_measured(store)
    if not tokens.attributes["dataset"] == measured.dataset == images.fingerprint:
        raise UserError(f"{tokens.path} and {store} are of different images: run `dvc repro`, which makes both again")
    require_same(tokens, {key: first.tokens.attributes[key] for key in RECIPE})
    train = rows_to_train_on(measured, images, first.measured, read_manifest(first.set_name))
    if len(train) < SMALLEST_SPLIT:
        raise UserError(
            f"encoder.more_subjects.{name}: of {len(images)} images {len(train)} are left to train on, as fMRI is "
            "missing or the first subject is tested on them; remove the entry"
        )
    kind = "simulated fMRI" if measured.simulated else "fMRI"
    console.note(f"the trunk learns from {kind} of {name} as well: {len(train):,} of {len(images):,} images")
    fmri = np.array(measured.fmri[:], np.float32)
    return Viewer(set_name, tokens, measured, fmri, train, np.empty(0, np.int64), (name,))


def rows_to_train_on(measured: Measured, images: Manifest, first: Measured, first_images: Manifest) -> Array:
    """Rows of a further subject's training images, without those that the first subject is validated or tested on.

    Else the trunk would know images of the test, NSD's shared ones above all, by what another brain answered to them.
    """
    names = stimuli(first_images)
    held_out = {names[row] for part in (VALIDATION, TEST) for row in first.rows(part).tolist()}
    seen = stimuli(images)
    return np.array([row for row in measured.rows(TRAIN).tolist() if seen[row] not in held_out], np.int64)


def further_readout(first: Viewer, viewer: Viewer, width: int, seed: int, names: tuple[str, ...] = ()) -> RoiReadout:
    """A readout of a further subject from the trunk of the first, with random weights, drawn by `seed` and `names`.

    Raises UserError where the two have no ROI in common, nor vertices in none.
    """
    membership = shared_membership(first.measured, viewer.measured)
    if not membership.any():
        raise UserError(f"encoder.more_subjects: {viewer.measured.subject} has no ROI of {first.measured.subject}'s")
    torch.manual_seed(derived_seed(seed, "encoder weights", *viewer.names, *names))
    return RoiReadout(torch.from_numpy(membership), width)


def shared_membership(first: Measured, further: Measured) -> Array:
    """Membership of a further subject's V vertices in the Q queries of the first subject's encoder, Q V.

    ROIs of one name share a query, of which a subject without that ROI reads nothing. Vertices in none of these ROIs
    belong to the rest query of their hemisphere; where the first subject has none, to no query, so that their bias
    alone is fitted.
    """
    rows = {name: row for name, row in zip(further.roi_names, further.roi, strict=True)}
    nothing = np.zeros(len(further.hemi), bool)
    roi = np.array([rows.get(name, nothing) for name in first.roi_names], bool).reshape(-1, len(nothing))
    outside, first_outside = ~roi.any(axis=0), ~first.roi.any(axis=0)
    rest = [outside & (further.hemi == side) for side in (0, 1) if (first_outside & (first.hemi == side)).any()]
    return np.concatenate([roi, np.array(rest, bool).reshape(-1, len(nothing))])
