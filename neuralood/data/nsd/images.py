"""The images that a subject of the Natural Scenes Dataset saw, from nsd_stimuli.hdf5."""

from pathlib import Path

import h5py
import numpy as np

from neuralood.base.errors import UserError
from neuralood.data.files import Listed, Listing, require_content
from neuralood.data.listing import Request
from neuralood.data.manifest import UNLABELLED, Manifest
from neuralood.data.nsd.trials import STIMULI, Ids, read_trials

STIMULUS_FILE = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
DATASET = "imgBrick"
STIMULUS_SHAPE = (STIMULI, 425, 425, 3)
"""As h5py shows it: image, height, width, RGB."""

SEPARATOR = "::"
"""Between a container file and its member: the row of imgBrick, which is the 0-based id."""


def list_images(request: Request) -> Listing:
    """Images seen by files.nsd.subject, by ascending 0-based id; the betas need not be there.

    Raises UserError where the stimulus file or the table of trials is missing or another one.
    """
    if request.entry.part:
        raise UserError(
            f"{request.key.removesuffix('path')}part: images of measured fMRI are not shared out; remove it"
        )
    if request.entry.subject is None:
        raise UserError(f"{request.key.removesuffix('path')}subject: missing; say whose images, such as subj01")
    require_brick(request.folder / STIMULUS_FILE, STIMULUS_SHAPE)
    size = int(np.prod(STIMULUS_SHAPE[1:]))
    ids = read_trials(request.folder, request.entry.subject).images
    listed = [f"{STIMULUS_FILE}{SEPARATOR}{number}" for number in ids.tolist()]
    return Listing(tuple(Listed(path, size, UNLABELLED) for path in listed if not request.excluded.covers(path)))


def image_ids(images: Manifest) -> Ids:
    """The 0-based id of each image of a manifest that `list_images` made, I. Raises UserError for another one."""
    ids = []
    for path in images.paths:
        file, _, row = path.rpartition(SEPARATOR)
        if file != STIMULUS_FILE or not row.isdigit():
            raise UserError(f"nsd lists {path}, expected rows of {STIMULUS_FILE}: files.nsd.format must be nsd")
        ids.append(int(row))
    return np.array(ids, np.int64)


def require_brick(file: Path, shape: tuple[int, ...]) -> None:
    """Raise UserError where a file of stimuli has no imgBrick of 8-bit pixels in this shape."""
    require_content(file)
    try:
        with h5py.File(file) as opened:
            stimuli = opened.get(DATASET)
            found = (stimuli.shape, stimuli.dtype) if isinstance(stimuli, h5py.Dataset) else None
    except OSError as error:
        raise UserError(f"{file} is no HDF5 file, or was cut short ({error}): download it again") from None
    if found != (shape, np.uint8):
        has = "no such dataset" if found is None else f"{found[1]} of shape {found[0]}"
        raise UserError(f"{file}: {DATASET} must be uint8 of shape {shape}, found {has}; download NSD's own")
