"""The images of an Algonauts 2023 subject, in the order of the rows of its fMRI."""

import re

from neuralood.base.errors import UserError
from neuralood.data.algonauts.subject import has_test_fmri
from neuralood.data.files import Listed, Listing
from neuralood.data.listing import Request, scan_images
from neuralood.data.manifest import UNLABELLED

TRAINING_IMAGES = "training_split/training_images"
"""Where Algonauts 2023 keeps the images that were measured; sorted names are the rows of the fMRI."""

TEST_IMAGES = "test_split/test_images"
"""The same of the test images, whose fMRI few have: without it they are not listed."""

ROW_NAME = re.compile(r"(train|test)-0*(\d+)_nsd-0*(\d+)\.png$")
"""Name of an Algonauts image; the numbers are its fMRI row, counted from 1, and its id in NSD, counted from 0."""


def list_images(request: Request) -> Listing:
    """Images in the order of the fMRI's rows. Raises UserError where their numbers do not run 1, 2, 3, ..."""
    folder, key = request.folder, request.key
    if request.entry.part:
        raise UserError(f"{key.removesuffix('path')}part: the images of measured fMRI are not shared out; remove it")
    if not (folder / TRAINING_IMAGES).is_dir():
        shown = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) if folder.is_dir() else "no folder"
        raise UserError(f"{folder} ({key}): expected an Algonauts 2023 subject with {TRAINING_IMAGES}, found {shown}")
    parts = {"train": TRAINING_IMAGES, **({"test": TEST_IMAGES} if has_test_fmri(folder) else {})}
    found = scan_images(folder, list(parts.values()), request.excluded, key)
    for kind, below in parts.items():
        for row, image in enumerate(found[below], start=1):
            match = ROW_NAME.search(image.path)
            if not match or (match[1], int(match[2])) != (kind, row):
                raise UserError(
                    f"{folder / image.path}: expected {kind}-{row:04d}_nsd-*.png here, as that is fMRI row {row}; "
                    "put the missing image back, or move a stray one away"
                )
    return Listing(tuple(Listed(*image, UNLABELLED) for below in parts.values() for image in found[below]))
