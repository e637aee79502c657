"""Images that people and networks answered to alike (Geirhos et al. 2019, 2021): 16 categories, seen as they are."""

import re
from pathlib import PurePosixPath

from neuralood.data.files import Listed, Listing
from neuralood.data.imagenet.categories import CATEGORIES
from neuralood.data.imagenet.expected import layout_error, shown
from neuralood.data.listing import Found, Request, class_folders, scan_images

SESSION = "dnn/session-1"
"""Where the sets of several conditions keep what networks are shown."""

SESSION_NAME = re.compile(r"\d+_[^_]+_dnn_[^_]+_([a-z]+)_\d+_.+")
"""Such as 0001_cl_dnn_cr_oven_40_n04111531_14126.png: the fifth part is the category."""


def list_images(request: Request) -> Listing:
    """A folder for each category, or dnn/session-1 with the category in each name; sorted by category, then path.

    Images are as people saw them, so they are never cropped. Raises UserError for any other layout.
    """
    in_session = (request.folder / SESSION).is_dir()
    by_category = _in_session(request) if in_session else _in_folders(request)
    images = [Listed(*image, CATEGORIES.index(name)) for name in sorted(by_category) for image in by_category[name]]
    return Listing(tuple(images), CATEGORIES, cropped=True)


def _in_folders(request: Request) -> dict[str, list[Found]]:
    names = class_folders(request.folder, request.excluded, request.key)
    _require_categories(request, names, f"{SESSION}, or a folder for each of {', '.join(CATEGORIES)}")
    return scan_images(request.folder, names, request.excluded, request.key)


def _in_session(request: Request) -> dict[str, list[Found]]:
    found = scan_images(request.folder, [SESSION], request.excluded, request.key)[SESSION]
    by_category: dict[str, list[Found]] = {}
    for image in found:
        name = PurePosixPath(image.path).name
        match = SESSION_NAME.fullmatch(name)
        by_category.setdefault(match[1] if match else name, []).append(image)
    _require_categories(request, list(by_category), "names such as 0001_cl_dnn_cr_oven_40_n04111531_14126.png")
    return by_category


def _require_categories(request: Request, names: list[str], expected: str) -> None:
    """Raise UserError where one of the names is none of the 16 categories."""
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown:
        raise layout_error(request, expected, shown(unknown))
