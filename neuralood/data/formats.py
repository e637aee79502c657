"""Every format of `files`: the reader that turns a folder into a listing of images."""

from collections.abc import Callable

from neuralood.data import human_stimuli
from neuralood.data.algonauts import images as algonauts_images
from neuralood.data.files import Listing
from neuralood.data.folders import list_folders, list_images
from neuralood.data.imagenet import layouts as imagenet
from neuralood.data.imagenet import ood
from neuralood.data.listing import Request
from neuralood.data.nsd import images as nsd_images
from neuralood.data.nsd import synthetic as nsd_synthetic

READERS: dict[str, Callable[[Request], Listing]] = {
    "folders": list_folders,
    "images": list_images,
    "algonauts2023": algonauts_images.list_images,
    "nsd": nsd_images.list_images,
    "nsdsynthetic": nsd_synthetic.list_images,
    "human_stimuli": human_stimuli.list_images,
    **imagenet.READERS,
    **ood.READERS,
}
"""Name of a format in params.yaml -> its reader."""
