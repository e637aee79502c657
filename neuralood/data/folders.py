"""One folder a class: the format of most image sets; and images without classes."""

from pathlib import Path

from neuralood.base.errors import UserError
from neuralood.data.files import Listed, Listing
from neuralood.data.listing import Exclusion, Request, class_folders, scan_images
from neuralood.data.manifest import UNLABELLED


def list_folders(request: Request) -> Listing:
    """Images sorted by class, then path; a class is named by its folder. Raises UserError as scan_images does."""
    return class_listing(request.folder, request.excluded, request.key)


def class_listing(folder: Path, excluded: Exclusion, key: str) -> Listing:
    """The same of any folder."""
    classes = class_folders(folder, excluded, key)
    found = scan_images(folder, classes, excluded, key)
    images = [Listed(*image, label) for label, name in enumerate(classes) for image in found[name]]
    return Listing(tuple(images), tuple(classes))


def list_images(request: Request) -> Listing:
    """All images of a folder, at any depth, sorted by path, without labels. Raises UserError as scan_images does."""
    if request.entry.part:
        raise UserError(f"{request.key.removesuffix('path')}part: images without classes are not shared out; remove it")
    found = scan_images(request.folder, [""], request.excluded, request.key)[""]
    return Listing(tuple(Listed(*image, UNLABELLED) for image in found))
