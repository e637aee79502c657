"""NSD-synthetic: 284 images out of distribution that NSD's subjects saw in one more session (Gifford et al. 2026).

After the authors' own preparation (github.com/gifale95/NSD-synthetic): image k of the design is row k of the stimuli
that all subjects saw, or, after these, of the subject's own colour stimuli. Images are repeated 2, 4, 8 or 10 times.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from neuralood.base.console import warn
from neuralood.base.errors import UserError
from neuralood.data.files import Listed, Listing
from neuralood.data.listing import Request
from neuralood.data.manifest import Manifest
from neuralood.data.nsd.betas import SYNTHETIC, betas_folder, read_session, synthetic_session
from neuralood.data.nsd.images import SEPARATOR, require_brick
from neuralood.data.nsd.space import Vertices
from neuralood.data.nsd.subject import ceiling_of_r, standardise
from neuralood.data.nsd.trials import Ids, read_design, subject_number

DESIGN = "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_stimuli.hdf5"
COLOUR_STIMULI = "nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_colorstimuli_{}.hdf5"

SHARED, COLOUR = 220, 64
"""Images of the two files."""

PIXELS = (714, 1360, 3)
"""Height, width, RGB, as h5py shows them."""


def list_images(request: Request) -> Listing:
    """The 284 images in the order of the design, as one class that is named after the set.

    Raises UserError where a file of stimuli is missing or another one.
    """
    key = request.key.removesuffix("path")
    if request.entry.part:
        raise UserError(f"{key}part: images of measured fMRI are not shared out; remove it")
    if request.entry.subject is None:
        raise UserError(f"{key}subject: missing; say whose colour images, such as subj01")
    subject_number(request.entry.subject)
    files = {STIMULI: SHARED, COLOUR_STIMULI.format(request.entry.subject): COLOUR}
    for file, count in files.items():
        require_brick(request.folder / file, (count, *PIXELS))
    listed = [f"{file}{SEPARATOR}{row}" for file, count in files.items() for row in range(count)]
    size = int(np.prod(PIXELS))
    kept = tuple(Listed(path, size, 0) for path in listed if not request.excluded.covers(path))
    return Listing(kept, (request.name,), linear=True)


def read_synthetic(
    folder: Path, subject: str, space: str, vertices: Vertices, images: Manifest
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """fMRI of the images of a manifest that `list_images` made, I V, and the largest r a perfect model can reach, V.

    Trials are z-scored per vertex over the session and averaged over the repetitions of an image; vertices that are
    not finite, or do not vary, are 0. Raises UserError where design or betas are missing, damaged or do not fit.
    """
    session = synthetic_session(folder / betas_folder(subject, space, SYNTHETIC), vertices)
    shown = read_order(folder / DESIGN)
    if session.trials != len(shown):
        raise UserError(f"{session.files[0]} has {session.trials} trials, {DESIGN} {len(shown)}: download both again")
    values = read_session(session, vertices)
    varies = standardise(values)
    if not varies.all():
        warn(f"{session.files[0].parent}: {(~varies).sum()} of {len(varies)} vertices have no values, and score 0")
    wanted = _design_numbers(images)
    counts = np.bincount(shown, minlength=SHARED + COLOUR)[wanted]
    fmri = np.stack([values[shown == number].mean(axis=0, dtype=np.float64) for number in wanted]).astype(np.float32)
    return fmri, ceiling_of_r(pooled_ncsnr(values, shown), counts)


def read_order(file: Path) -> Ids:
    """The image of each trial, counted from 0, T. Raises UserError where an image is none of the 284, or not shown."""
    shown = read_design(file, ("masterordering",))["masterordering"] - 1
    if not np.array_equal(np.unique(shown), np.arange(SHARED + COLOUR)):
        raise UserError(
            f"{file}: masterordering must show images 1 to {SHARED + COLOUR}, each of them; download it again"
        )
    return shown


def pooled_ncsnr(values: npt.NDArray[np.float32], shown: Ids) -> npt.NDArray[np.float64]:
    """Signal-to-noise ratio of a single trial, V, from trials T V of images shown T that are repeated unequally often.

    The noise's variance is that among the repetitions of an image, pooled over images by their degrees of freedom,
    the signal's what is left of the variance of all trials; 0 where nothing is left.
    """
    squares, freedom = np.zeros(values.shape[1]), 0
    for number in np.unique(shown):
        own = values[shown == number].astype(np.float64)
        squares += ((own - own.mean(axis=0)) ** 2).sum(axis=0)
        freedom += len(own) - 1
    noise = squares / max(freedom, 1)
    signal = np.maximum(values.var(axis=0, ddof=1, dtype=np.float64) - noise, 0)
    ratio: npt.NDArray[np.float64] = np.sqrt(np.divide(signal, noise, out=np.zeros_like(noise), where=noise > 0))
    return ratio


def _design_numbers(images: Manifest) -> Ids:
    """The number in the design, counted from 0, of each image of a manifest that `list_images` made, I."""
    numbers = []
    for path in images.paths:
        file, _, row = path.rpartition(SEPARATOR)
        numbers.append(int(row) + (0 if file == STIMULI else SHARED))
    return np.array(numbers, np.int64)
