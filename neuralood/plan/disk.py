"""What the disk must hold: token stores, predicted and measured fMRI, made images."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from neuralood.backbone import TokenShape
from neuralood.base import paths
from neuralood.config import Params
from neuralood.fusion.survey import features_spec
from neuralood.plan.sizes import SetSize, StoreSize
from neuralood.plan.words import bytes_text

MADE_IMAGE_BYTES = 100_000
"""Bytes that a made image is taken to have."""


@dataclass(frozen=True)
class Need:
    """Bytes that are still to be written, and those that are free; `whole` where nothing of them is unknown."""

    nbytes: int
    whole: bool
    free: int

    @property
    def text(self) -> str:
        """In one line."""
        least = "" if self.whole else "at least "
        place = f"the disk of {paths.DATA}/ has {bytes_text(self.free)} free"
        return f"stores need {least}{bytes_text(self.nbytes)} more; {place}"

    @property
    def too_few(self) -> int:
        """Bytes that are lacking, 0 where the disk will do."""
        return max(0, self.nbytes - self.free)


REMEDY = "Set cache.dtype int8 (half) or cache.pool 2 (a quarter), take fewer sets, free some, or take another disk"
"""What helps where the disk is too small."""


def disk_need(sets: Iterable[SetSize], others: Iterable[StoreSize]) -> Need:
    """Of all stores of all sets, and what lies beside them."""
    stores = [*(store for one in sets for store in one.stores), *others]
    free = shutil.disk_usage(paths.DATA if paths.DATA.exists() else paths.DATA.absolute().parent).free
    return Need(sum(store.left or 0 for store in stores), all(store.left is not None for store in stores), free)


def measured_size(params: Params, sets: Iterable[SetSize], vertices: int | None) -> StoreSize:
    """Bytes of data/fmri/measured.zarr: float32, a row an image; none where the encoder is imported.

    Further subjects are taken to have as many vertices as the first.
    """
    if params.fmri.source == "imported":
        return StoreSize(0, 0)
    more = params.encoder.more_subjects
    stores = {"nsd": paths.MEASURED, **{entry.images: paths.more_measured(name) for name, entry in more.items()}}
    of_subjects = [one for one in sets if one.name in stores]
    if vertices is None or any(one.images.count is None for one in of_subjects):
        return StoreSize(None, None)
    sizes = {one.name: 4 * (one.images.count or 0) * vertices for one in of_subjects}
    return StoreSize(sum(sizes.values()), sum(size for name, size in sizes.items() if not stores[name].is_dir()))


def features_size(sets: Iterable[SetSize], shape: TokenShape) -> StoreSize:
    """Bytes of what the linear probe reads of train, which lie there while train_fusion runs."""
    (count,) = [one.images.count for one in sets if one.role == "train"]
    nbytes = None if count is None else features_spec(count, shape.cls_width + shape.layers * shape.width).nbytes
    return StoreSize(nbytes, nbytes)


def made_size(params: Params, sets: Iterable[SetSize]) -> StoreSize:
    """Bytes of the images of all made sets: an estimate."""
    made = [one for one in sets if one.name in params.made]
    if any(one.images.count is None for one in made):
        return StoreSize(None, None)
    sizes = {one.name: MADE_IMAGE_BYTES * (one.images.count or 0) for one in made}
    return StoreSize(sum(sizes.values()), sum(size for name, size in sizes.items() if not paths.made(name).is_dir()))
