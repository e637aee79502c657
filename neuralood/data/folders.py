"""One folder a class: the format of most image sets."""

from pathlib import Path

from neuralood.data.files import Listed, Listing
from neuralood.data.listing import Exclusion, Request, class_folders, scan_images


def list_folders(request: Request) -> Listing:
    """Images sorted by class, then path; a class is named by its folder. Raises UserError as scan_images does."""
    return class_listing(request.folder, request.excluded, request.key)


def class_listing(folder: Path, excluded: Exclusion, key: str) -> Listing:
    """The same of any folder."""
    classes = class_folders(folder, excluded, key)
    found = scan_images(folder, classes, excluded, key)
    images = [Listed(*image, label) for label, name in enumerate(classes) for image in found[name]]
    return Listing(tuple(images), tuple(classes))
