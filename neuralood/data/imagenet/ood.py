"""Public out-of-distribution sets built on ImageNet-1k, each as it is distributed."""

from collections.abc import Callable

from neuralood.data.files import Listed, Listing
from neuralood.data.imagenet import corrupted as imagenet_c
from neuralood.data.imagenet import hard as imagenet_hard
from neuralood.data.imagenet import objectnet
from neuralood.data.imagenet.expected import layout_error, require_folders, shown, sub_folders, warn_count
from neuralood.data.imagenet.layouts import wnid_listing
from neuralood.data.imagenet.wnids import WNIDS, packaged_wnids
from neuralood.data.listing import Request, scan_images

IMAGES = {
    "imagenet_a": 7_500,
    "imagenet_r": 30_000,
    "imagenet_sketch": 50_889,
    "imagenet_v2": 10_000,
    "imagenet_stylized": 50_000,
    "imagenet_cartoon": 50_000,
    "imagenet_drawing": 50_000,
}
"""Images of a whole copy (of Stylized-ImageNet: of its val)."""

A_WNIDS = packaged_wnids("imagenet_a_synsets.txt")
"""The 200 classes of ImageNet-A, sorted."""

R_WNIDS = packaged_wnids("imagenet_r_synsets.txt")
"""The 200 classes of ImageNet-R, sorted; 86 are also in ImageNet-A."""


def list_a(request: Request) -> Listing:
    """ImageNet-A: 200 wnid folders."""
    return _list_wnids(request, A_WNIDS)


def list_r(request: Request) -> Listing:
    """ImageNet-R: 200 wnid folders, the others."""
    return _list_wnids(request, R_WNIDS)


def list_all_wnids(request: Request) -> Listing:
    """The 1000 wnid folders of ImageNet-Sketch, Stylized-ImageNet, ImageNet-Cartoon and ImageNet-Drawing."""
    return _list_wnids(request, WNIDS)


def list_v2(request: Request) -> Listing:
    """ImageNetV2, one variant: folders 0 to 999 without leading zeros, whose number is the class.

    `path` may be the variant's folder, or one that holds a single variant. Raises UserError where a folder is missing,
    or where there are several variants.
    """
    below = _v2_variant(request)
    names = require_folders(request, below, map(str, range(len(WNIDS))), "class folders 0, 1, 2, ... 999")
    folders = {int(name): f"{below}/{name}" if below else name for name in names}
    found = scan_images(request.folder, list(folders.values()), request.excluded, request.key)
    images = [Listed(*image, label) for label, folder in folders.items() for image in found[folder]]
    warn_count(request, len(images), IMAGES["imagenet_v2"], "each of the three variants")
    return Listing(tuple(images), WNIDS)


def _list_wnids(request: Request, wnids: tuple[str, ...]) -> Listing:
    """A folder for each of `wnids`; the sources of images named as those of val are these."""
    found = wnid_listing(request, wnids)
    warn_count(request, len(found.images), IMAGES[request.entry.format])
    return found


def _v2_variant(request: Request) -> str:
    """Where the class folders lie below the set's folder: here, or in the one variant that it holds."""
    found = sub_folders(request)
    variants = [name for name in found if name.startswith("imagenetv2-")]
    if len(variants) > 1:
        raise layout_error(request, "one variant: let the path go one level deeper", shown(variants))
    return variants[0] if variants else ""


READERS: dict[str, Callable[[Request], Listing]] = {
    "imagenet_a": list_a,
    "imagenet_r": list_r,
    "imagenet_sketch": list_all_wnids,
    "imagenet_v2": list_v2,
    "imagenet_c": imagenet_c.list_images,
    "imagenet_stylized": list_all_wnids,
    "imagenet_cartoon": list_all_wnids,
    "imagenet_drawing": list_all_wnids,
    "imagenet_hard": imagenet_hard.list_images,
    "objectnet": objectnet.list_images,
}
"""Format in params.yaml -> its reader."""
