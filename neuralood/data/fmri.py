"""Measured fMRI, whatever its source: its record, its store, and the vertices that a choice of ROIs means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base import paths
from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.base.records import read_json
from neuralood.base.seeding import generator
from neuralood.base.store import Rows, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, require_space, write_rows
from neuralood.config import Params
from neuralood.data.algonauts import Subject, check_finite, read_subject
from neuralood.data.files import fingerprint_files
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.data.rois import ROI_GROUPS

KIND = "measured fMRI"
TRAIN, VALIDATION, TEST = 0, 1, 2
"""Values of the store's `split`."""

CHUNK_ROWS = 256
"""Images in a chunk file of the store, and in one step of writing it."""

SMALLEST_SPLIT = 2
"""A correlation over fewer images means nothing."""


@dataclass(frozen=True)
class Measured:
    """data/fmri/measured.zarr: I images, V vertices (lh, then rh), R regions of interest."""

    fmri: Rows
    """float32, I V, read as rows are asked for; row i belongs to image i of the nsd manifest."""
    split: npt.NDArray[np.int8]
    """TRAIN, VALIDATION or TEST, I."""
    hemi: npt.NDArray[np.int8]
    """0 left, 1 right, V."""
    roi: npt.NDArray[np.bool_]
    """Membership, R V."""
    ceiling: npt.NDArray[np.float32] | None
    """The largest r a perfect model can reach, V."""
    fsaverage_vertex: npt.NDArray[np.int32] | None
    """Index of each vertex on fsaverage's own hemisphere, V."""
    roi_names: tuple[str, ...]
    """Such as lh.V1v, R."""
    source: str
    subject: str
    space: str
    simulated: bool
    dataset: str
    """Fingerprint of the images."""
    fingerprint: str
    """Fingerprint of the fMRI."""

    def rows(self, split: int) -> npt.NDArray[np.int64]:
        """Indices of the images of one split, ascending."""
        return np.flatnonzero(self.split == split)


def index_fmri(params: Params) -> dict[str, Any]:
    """The record of the user's fMRI for data/manifests/fmri.json: where it lies, its shapes and contents.

    Raises UserError where the folder is not laid out as its format says.
    """
    entry = params.fmri.files[params.fmri.subject]
    folder = paths.data_root() / entry.path
    return _record(params, folder, root="data_root", name=Path(entry.path).as_posix(), simulated=False)


def simulated_fmri(params: Params) -> dict[str, Any]:
    """The same record of the simulated fMRI, which lies in the project."""
    folder = paths.DEMO_FMRI
    return _record(params, folder, root="project", name=folder.as_posix(), simulated=True)


def prepare_fmri(params: Params) -> None:
    """Write data/fmri/measured.zarr from the recorded fMRI, whole or not at all; nothing is dropped.

    Raises UserError where rows and images differ in number, values are not finite, or a split gets too small.
    """
    record, images = read_json(paths.FMRI_MANIFEST), read_manifest("nsd")
    folder = (Path() if record["root"] == "project" else paths.data_root()) / record["folder"]
    subject = read_subject(folder)
    if subject.n_images != len(images):
        raise UserError(
            f"{folder} has fMRI of {subject.n_images} images, but nsd ({images.folder}) has {len(images)}: "
            "both must be of the same subject, one row an image"
        )
    check_finite(subject)
    split = draw_split(subject.n_images, params.fmri.validation, params.fmri.test, params.seed)
    _write(subject, split, _attributes(record, subject, images, params.fmri.space))


def draw_split(n_images: int, validation: float, test: float, seed: int) -> npt.NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each image, I, drawn by `seed` in the shares given.

    Raises UserError where a part would have fewer images than SMALLEST_SPLIT.
    """
    n_test, n_validation = round(test * n_images), round(validation * n_images)
    sizes = {"fmri.test": n_test, "fmri.validation": n_validation, "train": n_images - n_test - n_validation}
    for name, size in sizes.items():
        if size < SMALLEST_SPLIT:
            raise UserError(
                f"{name} gets {size} of {n_images} images with fMRI, wants {SMALLEST_SPLIT} or more: "
                "change fmri.test and fmri.validation, or use more images"
            )
    order = generator(seed, "fmri split").permutation(n_images)
    split = np.full(n_images, TRAIN, np.int8)
    split[order[:n_test]] = TEST
    split[order[n_test : n_test + n_validation]] = VALIDATION
    return split


def read_measured() -> Measured:
    """Open the store; fMRI stays on disk. Raises UserError where it is missing, incomplete or another."""
    store = open_store(paths.MEASURED)
    attributes = store.attributes
    if attributes.get("kind") != KIND:
        raise UserError(f"{store.path} is no {KIND}: delete it and run `dvc repro`, which makes it again")
    return Measured(
        fmri=store["fmri"],
        split=store["split"][:],
        hemi=store["hemi"][:],
        roi=store["roi"][:],
        ceiling=store["ceiling"][:] if "ceiling" in store else None,
        fsaverage_vertex=store["fsaverage_vertex"][:] if "fsaverage_vertex" in store else None,
        roi_names=tuple(attributes["roi_names"]),
        source=attributes["source"],
        subject=attributes["subject"],
        space=attributes["space"],
        simulated=attributes["simulated"],
        dataset=attributes["dataset"],
        fingerprint=attributes["fmri"],
    )


def roi_members(names: str | Sequence[str], roi_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices into `roi_names` of 'all', a group, one ROI, or a list of groups and ROIs, both hemispheres.

    A group is the union of those of its ROIs that the subject has. Raises UserError for a name of which the
    subject has nothing.
    """
    if names == "all":
        return np.arange(len(roi_names))
    chosen: set[int] = set()
    for name in [names] if isinstance(names, str) else names:
        wanted = set(roi_names if name == "all" else ROI_GROUPS.get(name, (name,)))
        found = [index for index, full in enumerate(roi_names) if {full, full.split(".", 1)[1]} & wanted]
        if not found:
            has = ", ".join(sorted({full.split(".", 1)[1] for full in roi_names}))
            raise UserError(f"ROI {name} is empty for this subject, choose other fusion.rois; it has {has}")
        chosen.update(found)
    return np.array(sorted(chosen), np.int64)


def vertices_of(
    names: str | Sequence[str], roi_names: Sequence[str], roi: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Indices, ascending, of the vertices in any of the ROIs chosen; 'all' means every vertex."""
    if names == "all":
        return np.arange(roi.shape[1])
    return np.flatnonzero(roi[roi_members(names, roi_names)].any(axis=0))


def present_groups(roi_names: Sequence[str]) -> tuple[str, ...]:
    """The groups of which this subject has at least one ROI."""
    own = {full.split(".", 1)[1] for full in roi_names}
    return tuple(group for group, members in ROI_GROUPS.items() if own.intersection(members))


def _record(params: Params, folder: Path, *, root: str, name: str, simulated: bool) -> dict[str, Any]:
    subject = read_subject(folder)
    return {
        "source": params.fmri.source,
        "subject": params.fmri.subject,
        "root": root,
        "folder": name,
        "simulated": simulated,
        "shapes": {"lh": list(subject.fmri[0].shape), "rh": list(subject.fmri[1].shape)},
        "files": {file: (folder / file).stat().st_size for file in subject.files},
        "fingerprint": fingerprint_files(folder, subject.files),
    }


def _attributes(record: dict[str, Any], subject: Subject, images: Manifest, space: str) -> dict[str, Any]:
    return {
        "kind": KIND,
        "source": record["source"],
        "subject": record["subject"],
        "space": space,
        "simulated": record["simulated"],
        "roi_names": list(subject.roi_names),
        "dataset": images.fingerprint,
        "fmri": record["fingerprint"],
    }


def _write(subject: Subject, split: npt.NDArray[np.int8], attributes: dict[str, Any]) -> None:
    """Write the store block by block: one block of fMRI is in memory at a time."""
    arrays: dict[str, npt.NDArray[Any]] = {"split": split, "hemi": subject.hemi, "roi": subject.roi}
    if subject.ceiling is not None:
        arrays["ceiling"] = subject.ceiling
    if subject.fsaverage_vertex is not None:
        arrays["fsaverage_vertex"] = subject.fsaverage_vertex
    specs = {name: ArraySpec(values.shape, str(values.dtype), len(values)) for name, values in arrays.items()}
    specs["fmri"] = ArraySpec((subject.n_images, subject.n_vertices), "float32", CHUNK_ROWS)
    partial = paths.partial(paths.MEASURED)
    require_space(partial, sum(spec.nbytes for spec in specs.values()))
    create_store(partial, specs, attributes)
    for name, values in arrays.items():
        write_rows(partial, name, specs[name], 0, values)
    n_blocks = -(-subject.n_images // CHUNK_ROWS)
    for start, block in track(subject.blocks(CHUNK_ROWS), "writing fMRI", n_blocks):
        write_rows(partial, "fmri", specs["fmri"], start, block)
    complete_store(partial, paths.MEASURED)
