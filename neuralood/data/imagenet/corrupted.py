"""ImageNet-C: the val images of ImageNet under corruptions of five severities (Hendrycks and Dietterich 2019)."""

from collections.abc import Sequence
from difflib import get_close_matches
from sys import intern

from neuralood.base.errors import UserError
from neuralood.data.files import Listed, Listing
from neuralood.data.imagenet.corruptions import ALEXNET_ERROR, ARCHIVES, SEVERITIES
from neuralood.data.imagenet.expected import layout_error, require_folders, shown, sub_folders, warn_count
from neuralood.data.imagenet.wnids import WNIDS, val_source
from neuralood.data.listing import Request, scan_images

IMAGES = 50_000
"""Images of one corruption at one severity."""


def list_images(request: Request) -> Listing:
    """CORRUPTION/SEVERITY/WNID/ILSVRC2012_val_*.JPEG of the corruptions and severities that the entry names.

    Sorted by corruption, severity, class, path. The images are crops of 224 px already: they are not cropped again.
    Raises UserError where a folder is missing, or another lies among the 1000 classes.
    """
    corruptions, severities = _chosen(request)
    _require_corruptions(request, corruptions)
    images: list[Listed] = []
    for corruption in corruptions:
        _require_severities(request, corruption, severities)
        for severity in severities:
            found = _list_one(request, f"{corruption}/{severity}")
            warn_count(request, len(found), IMAGES, f"a whole copy of {corruption}/{severity}")
            images += found
    sources = (val_source(image.path.rpartition("/")[2]) or f"{request.name}/{image.path}" for image in images)
    return Listing(tuple(images), WNIDS, sources=tuple(map(intern, sources)), cropped=True)


def place_of(path: str) -> tuple[str, int]:
    """Corruption and severity of an image, from its path below the set's folder."""
    corruption, severity, _ = path.split("/", 2)
    return corruption, int(severity)


def _chosen(request: Request) -> tuple[list[str], list[int]]:
    """The corruptions and severities to take, each once, in their usual order."""
    known = [name for names in ARCHIVES.values() for name in names]
    corruptions = set(ALEXNET_ERROR if request.entry.corruptions is None else request.entry.corruptions)
    severities = set(SEVERITIES if request.entry.severities is None else request.entry.severities)
    option = request.key.removesuffix(".path")
    for name in sorted(corruptions.difference(known)):
        near = get_close_matches(name, known, n=1)
        hint = f", did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
        raise UserError(f"{option}.corruptions: ImageNet-C has no corruption '{name}'{hint}")
    for severity in sorted(severities.difference(SEVERITIES)):
        raise UserError(f"{option}.severities: ImageNet-C has severities 1 to 5, got {severity}")
    if not corruptions or not severities:
        raise UserError(f"{option}: corruptions and severities want at least one entry, or leave them out for all")
    return [name for name in known if name in corruptions], sorted(severities)


def _require_corruptions(request: Request, corruptions: Sequence[str]) -> None:
    found = sub_folders(request)
    missing = [name for name in corruptions if name not in found]
    if missing:
        archives = [archive for archive, names in ARCHIVES.items() if set(names) & set(missing)]
        expected = f"a folder for each corruption; {shown(missing)} come with {', '.join(archives)}"
        raise layout_error(request, expected, shown(found))


def _require_severities(request: Request, corruption: str, severities: Sequence[int]) -> None:
    found = sub_folders(request, corruption)
    missing = [str(severity) for severity in severities if str(severity) not in found]
    if missing:
        raise layout_error(request, f"folders {', '.join(missing)} (severities)", shown(found), corruption)


def _list_one(request: Request, below: str) -> list[Listed]:
    """The images of one corruption and severity."""
    wnids = require_folders(request, below, WNIDS, "the 1000 wnid folders of ImageNet")
    found = scan_images(request.folder, [f"{below}/{wnid}" for wnid in wnids], request.excluded, request.key)
    labels = {wnid: label for label, wnid in enumerate(WNIDS)}
    return [Listed(*image, labels[wnid]) for wnid in wnids for image in found[f"{below}/{wnid}"]]
