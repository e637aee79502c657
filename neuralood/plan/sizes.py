"""How many images each set has, and the bytes of its stores: exact, and known before anything is written."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuralood.backbone import FrozenBackbone
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json
from neuralood.base.store import CONTENTS, encode_ids, open_store, read_store
from neuralood.base.writing import ArraySpec
from neuralood.config import FMRI_ROLES, Params
from neuralood.data.containers import container_of
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.demo.brain import EARLY_ROIS, HIGH_ROIS
from neuralood.demo.drawing import count_drawn
from neuralood.demo.shapes import CLASS_SHAPES
from neuralood.encoder.form import ARRAYS, as_attributes
from neuralood.encoder.trained import RECORD
from neuralood.plan.counts import images_in_folder, vertices_in_folder
from neuralood.plan.forms import kept_width
from neuralood.synthesis import fmri_spec
from neuralood.tokens.cache import provenance
from neuralood.tokens.extract import token_specs
from neuralood.tokens.unfinished import IMAGE_ID, LABEL, MAY_DIFFER, set_aside_stores

SAMPLE = 32
"""Images of a set whose decoding is timed."""

ID_BYTES = 40
"""Bytes of an image's id where no list of images says how long the longest is: a ten-thousandth of its tokens."""

UNKNOWN_WEIGHTS = ("weights", *MAY_DIFFER)
"""What a plan, which loads no weights and reads no images, does not compare."""


@dataclass(frozen=True)
class Images:
    """What is known of a set's images; `count` and `classes` are None where there is no list of them yet."""

    count: int | None
    classes: int | None
    id_bytes: int = ID_BYTES
    fingerprint: str | None = None
    """Of the list of images; None where there is none, and the count is what will be drawn."""
    sample: Manifest | None = None
    """A list of a few of them that are on this disk, spread over the whole list."""
    about: bool = False
    """Whether the count is that of a folder, which is not listed yet."""


@dataclass(frozen=True)
class StoreSize:
    """Bytes of a store when whole, and those still to be written; None where they cannot be known yet."""

    nbytes: int | None
    left: int | None
    resumed: bool = False
    """Whether what is there of an unfinished store is of use, and need not be computed again."""

    @property
    def share_left(self) -> float:
        """Part of the work that is left."""
        if self.left is None or not self.nbytes:
            return 1.0
        return self.left / self.nbytes if self.resumed or not self.left else 1.0


UNKNOWN = StoreSize(None, None)


@dataclass(frozen=True)
class SetSize:
    """One image set: its images, its token store, and its store of predicted fMRI (None where it gets none)."""

    name: str
    role: str
    images: Images
    tokens: StoreSize
    fmri: StoreSize | None

    @property
    def stores(self) -> list[StoreSize]:
        """One or two."""
        return [self.tokens] if self.fmri is None else [self.tokens, self.fmri]


def set_sizes(params: Params, backbone: FrozenBackbone, vertices: int | None) -> list[SetSize]:
    """All sets of params.yaml. Raises UserError where `cache.pool` does not divide the patch grid."""
    recipe = provenance(params.backbone.name, backbone, params.cache, dataset="")
    recipe = {key: value for key, value in recipe.items() if key not in UNKNOWN_WEIGHTS}
    width = None if vertices is None else kept_width(params, vertices)
    return [_set_size(params, name, backbone, recipe, width) for name in params.sets]


def images_of(params: Params, name: str) -> Images:
    """Images of a set: from its list; else those that will be drawn, or made; else as many as its folder holds."""
    if paths.manifest(name).exists():
        return _listed(name)
    if name in params.rendered:
        return Images(count_drawn(params, name), len(CLASS_SHAPES))
    if name in params.made:
        source = images_of(params, params.made[name].source)
        return Images(source.count, source.classes, about=source.about)
    counted = images_in_folder(params, name)
    return Images(*counted, about=True) if counted else Images(None, None)


def vertex_count(params: Params) -> int | None:
    """Vertices of the subject: of the simulated one by its params, of a measured one by its store, list or files."""
    if params.fmri.source == "simulated":
        of_roi = params.demo.vertices
        return 2 * (len(EARLY_ROIS) * of_roi.early + len(HIGH_ROIS) * of_roi.high + of_roi.rest)
    subject = {"source": params.fmri.source, "subject": params.fmri.subject}
    with suppress(UserError):
        store = read_store(paths.MEASURED)
        if all(store.attributes.get(key) == value for key, value in subject.items()):
            return store["fmri"].shape[1]
    with suppress(UserError):
        record = read_json(paths.FMRI_MANIFEST)
        if all(record[key] == value for key, value in subject.items()):
            return sum(int(shape[1]) for shape in record["shapes"].values())
    return vertices_in_folder(params)


def store_specs(images: Images, backbone: FrozenBackbone, params: Params) -> dict[str, ArraySpec]:
    """Every array of a set's token store, labels and ids as well."""
    assert images.count is not None
    return {
        **token_specs(images.count, backbone.shape, params.cache),
        LABEL: ArraySpec((images.count,), "int32", images.count),
        IMAGE_ID: ArraySpec((images.count, images.id_bytes), "uint8", images.count),
    }


def _set_size(
    params: Params, name: str, backbone: FrozenBackbone, recipe: Mapping[str, Any], width: int | None
) -> SetSize:
    images, role = images_of(params, name), params.sets[name].role
    if images.count is None:
        token_specs(1, backbone.shape, params.cache)  # the pool is checked all the same
        return SetSize(name, role, images, UNKNOWN, None if role in FMRI_ROLES else UNKNOWN)
    tokens = _store_size(paths.tokens(name), store_specs(images, backbone, params), recipe, images.fingerprint)
    if role in FMRI_ROLES:
        return SetSize(name, role, images, tokens, None)
    if width is None:
        return SetSize(name, role, images, tokens, UNKNOWN)
    specs = {ARRAYS[params.synthesis.store]: fmri_spec(images.count, width, params.cache)} if width else {}
    made_of = _made_of(params, name) if tokens.left == 0 else None
    fmri = _store_size(paths.predicted_fmri(name), specs, made_of, images.fingerprint)
    return SetSize(name, role, images, tokens, fmri)


def _made_of(params: Params, name: str) -> dict[str, Any] | None:
    """What predicted fMRI must have been made of to be of use, or None where there is no encoder."""
    try:
        encoder = read_json(paths.ENCODER / RECORD)["fingerprint"]
        tokens = read_store(paths.tokens(name)).attributes[CONTENTS]
        return {"encoder": encoder, "tokens": tokens, "form": as_attributes(params.synthesis)}
    except (UserError, KeyError):
        return None


def _listed(name: str) -> Images:
    manifest = read_manifest(name)
    rows = np.unique(np.linspace(0, len(manifest) - 1, SAMPLE).astype(int)).tolist() if len(manifest) else []
    rows = [row for row in rows if container_of(manifest.image_file(row)).is_file()]
    few = {key: tuple(getattr(manifest, key)[row] for row in rows) for key in ("paths", "labels", "sources")}
    return Images(
        count=len(manifest),
        classes=len(manifest.classes),
        id_bytes=encode_ids(list(manifest.paths)).shape[1],
        fingerprint=manifest.fingerprint,
        sample=replace(manifest, **few, answers=None),  # type: ignore[arg-type]
    )


def _store_size(
    final: Path, specs: Mapping[str, ArraySpec], made_of: Mapping[str, Any] | None, dataset: str | None
) -> StoreSize:
    nbytes = sum(spec.nbytes for spec in specs.values())
    if made_of is None or dataset is None:
        return StoreSize(nbytes, max(0, nbytes - _bytes_there(final)))
    if _is_there(final, specs, {**made_of, "dataset": dataset}):
        return StoreSize(nbytes, 0)
    return StoreSize(nbytes, max(0, nbytes - _bytes_there(final)), resumed=_goes_on(paths.partial(final), made_of))


def _is_there(final: Path, specs: Mapping[str, ArraySpec], made_of: Mapping[str, Any]) -> bool:
    try:
        store = open_store(final)
    except UserError:
        return False
    found = {name: (array.shape, array.dtype, array.chunk) for name, array in store.arrays.items()}
    wanted = {name: (spec.shape, np.dtype(spec.dtype), spec.chunk_rows) for name, spec in specs.items()}
    return found == wanted and all(store.attributes.get(key) == value for key, value in made_of.items())


def _goes_on(partial: Path, made_of: Mapping[str, Any]) -> bool:
    try:
        attributes = read_store(partial).attributes
    except UserError:
        return False
    return all(attributes.get(key) == value for key, value in made_of.items())


def _bytes_there(final: Path) -> int:
    """Bytes of the unfinished store, and of what is set aside for it: used, or given back before more is written."""
    partial = paths.partial(final)
    folders = (partial, *set_aside_stores(partial))
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("c.*"))
