"""Which images of two subjects' sets are one and the same."""

from neuralood.base.errors import UserError
from neuralood.data.algonauts.images import ROW_NAME
from neuralood.data.manifest import Manifest
from neuralood.data.nsd.images import image_ids


def stimuli(images: Manifest) -> list[str]:
    """A name for each image of measured fMRI, I, that it has in every subject's set: NSD's id, or the drawn scene.

    Raises UserError where images have no such name.
    """
    if images.format == "nsd":
        return [f"nsd-{number}" for number in image_ids(images).tolist()]
    if images.format == "algonauts2023":
        return [_in_nsd(images, path) for path in images.paths]
    return list(images.sources)


def _in_nsd(images: Manifest, path: str) -> str:
    match = ROW_NAME.search(path)
    if not match:
        raise UserError(f"{images.set_name} lists {path}, expected a name such as train-0001_nsd-00013.png")
    return f"nsd-{match[3]}"
