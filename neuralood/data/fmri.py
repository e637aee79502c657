"""Measured fMRI, whatever its source: its record, its store, and the vertices that a choice of ROIs means."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base import paths
from neuralood.base.console import note, track, warn
from neuralood.base.errors import UserError
from neuralood.base.records import read_json
from neuralood.base.seeding import generator
from neuralood.base.store import CONTENTS, Rows, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, require_space, write_rows
from neuralood.config import Params
from neuralood.data.algonauts import subject as algonauts
from neuralood.data.files import fingerprint_files
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.data.nsd import subject as nsd
from neuralood.data.nsd.images import image_ids
from neuralood.data.nsd.space import Vertices
from neuralood.data.rois import LEFT_OUT, ROI_GROUPS
from neuralood.data.subject import FSAVERAGE_VERTICES, Subject
from neuralood.data.subject import TEST as TEST
from neuralood.data.subject import TRAIN as TRAIN
from neuralood.data.subject import VALIDATION as VALIDATION

KIND = "measured fMRI"

CHUNK_ROWS = 256
"""Images in a chunk file of the store, and in one step of writing it."""

SMALLEST_SPLIT = 2
"""A correlation over fewer images means nothing."""


@dataclass(frozen=True)
class Measured:
    """data/fmri/measured.zarr, or a further subject's store: I images, V vertices (lh, then rh), R ROIs."""

    fmri: Rows
    """float32, I V, read as rows are asked for; row i belongs to image i of the manifest."""
    split: npt.NDArray[np.int8]
    """TRAIN, VALIDATION, TEST, or UNMEASURED, whose fMRI is zeros, I."""
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
    vertices_left_out: int
    """Vertices of the files that were not finite, or did not vary."""
    rois_left_out: tuple[str, ...]
    """ROIs of which these were all."""
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


@dataclass(frozen=True)
class OodFmri:
    """fMRI of the images of a set of role fmri_ood: I images, V vertices as in Measured, C classes of the set."""

    fmri: npt.NDArray[np.float32]
    """I V."""
    ceiling: npt.NDArray[np.float32]
    """The largest r a perfect model can reach on the images of each class, C V."""


def index_fmri(params: Params) -> dict[str, Any]:
    """The record of the user's fMRI for data/manifests/fmri.json: where it lies, its shapes and contents.

    Raises UserError where the folder is not laid out as its format says.
    """
    subject = params.fmri.subject
    entry = params.fmri.files[subject]
    place = {"root": "data_root", "folder": Path(entry.path).as_posix()}
    return {**_record(params, subject, paths.data_root() / entry.path), **place}


def simulated_fmri(params: Params) -> dict[str, Any]:
    """The same record of the simulated fMRI, which lies in the project."""
    place = {"root": "project", "folder": paths.DEMO_FMRI.as_posix()}
    return {**_record(params, params.fmri.subject, paths.DEMO_FMRI), **place}


def prepare_fmri(params: Params) -> None:
    """Write data/fmri/measured.zarr from the recorded fMRI, whole or not at all.

    Vertices that are not finite, or do not vary, are left out, and ROIs that become empty with them. Raises UserError
    where rows and images differ in number, an image or a hemisphere has no usable value, files have changed since
    they were recorded, or a split gets too small.
    """
    record, images = read_json(paths.FMRI_MANIFEST), read_manifest("nsd")
    folder = (Path() if record["root"] == "project" else paths.data_root()) / record["folder"]
    subject = _read(paths.MEASURED, folder, record, images)
    _write(paths.MEASURED, subject, split_images(subject, params), _attributes(record, subject, images))


def prepare_more(params: Params, name: str, folder: Path) -> None:
    """Write the store of a further subject of `encoder.more_subjects`, whose fMRI lies in `folder`, in the same way.

    Nothing is drawn: its images are TRAIN, but for those of the dataset's own test set. The store names the tokens of
    these images, so that it differs where they do. Raises UserError as prepare_fmri.
    """
    images, store = read_manifest(params.encoder.more_subjects[name].images), paths.more_measured(name)
    record = _record(params, name, folder)
    subject = _read(store, folder, record, images)
    split = np.full(subject.n_images, TRAIN, np.int8) if subject.given_split is None else subject.given_split
    tokens = open_store(paths.tokens(images.set_name)).attributes[CONTENTS]
    _write(store, subject, split, {**_attributes(record, subject, images), "tokens": tokens})


def split_images(subject: Subject, params: Params) -> npt.NDArray[np.int8]:
    """The part of each image, I: the dataset's own test set where it has one, all else drawn by `seed`.

    Raises UserError where a part would have fewer images than SMALLEST_SPLIT.
    """
    if subject.given_split is None:
        return draw_split(subject.n_images, params.fmri.validation, params.fmri.test, params.seed)
    return draw_validation(subject.given_split, params.fmri.validation, params.seed)


def draw_validation(given: npt.NDArray[np.int8], validation: float, seed: int) -> npt.NDArray[np.int8]:
    """`given` with a share `validation` of its TRAIN images as VALIDATION, I, drawn by `seed`."""
    rest = np.flatnonzero(given == TRAIN)
    n_test, n_validation = int((given == TEST).sum()), round(validation * len(rest))
    _require_sizes({"test": n_test, "fmri.validation": n_validation, "train": len(rest) - n_validation})
    split = given.copy()
    split[generator(seed, "fmri split").permutation(rest)[:n_validation]] = VALIDATION
    return split


def draw_split(n_images: int, validation: float, test: float, seed: int) -> npt.NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each image, I, drawn by `seed` in the shares given.

    Raises UserError where a part would have fewer images than SMALLEST_SPLIT.
    """
    n_test, n_validation = round(test * n_images), round(validation * n_images)
    n_train = n_images - n_test - n_validation
    _require_sizes({"fmri.test": n_test, "fmri.validation": n_validation, "train": n_train})
    order = generator(seed, "fmri split").permutation(n_images)
    split = np.full(n_images, TRAIN, np.int8)
    split[order[:n_test]] = TEST
    split[order[n_test : n_test + n_validation]] = VALIDATION
    return split


def read_measured(path: Path = paths.MEASURED) -> Measured:
    """Open the store; fMRI stays on disk. Raises UserError where it is missing, incomplete or another."""
    store = open_store(path)
    attributes = store.attributes
    if attributes.get("kind") != KIND or "rois_left_out" not in attributes:  # which earlier versions did not write
        raise UserError(f"{store.path} is no {KIND}: delete it and run `dvc repro`, which makes it again")
    return Measured(
        fmri=store["fmri"],
        split=store["split"][:],
        hemi=store["hemi"][:],
        roi=store["roi"][:],
        ceiling=store["ceiling"][:] if "ceiling" in store else None,
        fsaverage_vertex=store["fsaverage_vertex"][:] if "fsaverage_vertex" in store else None,
        roi_names=tuple(attributes["roi_names"]),
        vertices_left_out=attributes["vertices_left_out"],
        rois_left_out=tuple(attributes["rois_left_out"]),
        source=attributes["source"],
        subject=attributes["subject"],
        space=attributes["space"],
        simulated=attributes["simulated"],
        dataset=attributes["dataset"],
        fingerprint=attributes["fmri"],
    )


def measured_vertices() -> Vertices:
    """Where the store's vertices lie on fsaverage, or its voxels in the subject's volume, to read other files of NSD.

    Raises UserError where that is not known.
    """
    store = open_store(paths.MEASURED)
    places = [name for name in ("fsaverage_vertex", "voxel") if name in store]
    if not places:
        raise UserError(
            f"{store.path} does not say where its vertices are on fsaverage: add the all-vertices masks of "
            "Algonauts 2023 to roi_masks/"
        )
    grid = tuple(store.attributes.get("grid", (FSAVERAGE_VERTICES,)))
    return Vertices(grid, store["hemi"][:], store[places[0]][:], ())


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
    """Indices, ascending, of the vertices in any of the ROIs chosen; 'all' means every vertex.

    In a list, a name behind a '-' leaves out its vertices, whatever other ROIs they are in, such as streams.
    Raises UserError where none is left.
    """
    listed = [names] if isinstance(names, str) else names
    taken = [name for name in listed if not name.startswith(LEFT_OUT)]
    left_out = [name.removeprefix(LEFT_OUT) for name in listed if name.startswith(LEFT_OUT)]
    inside = np.ones(roi.shape[1], bool) if "all" in taken else roi[roi_members(taken, roi_names)].any(axis=0)
    if left_out:
        inside &= ~roi[roi_members(left_out, roi_names)].any(axis=0)
        if not inside.any():
            raise UserError(f"fusion.rois: without {', '.join(left_out)} no vertex is left")
    return np.flatnonzero(inside)


def present_groups(roi_names: Sequence[str]) -> tuple[str, ...]:
    """The groups of which this subject has at least one ROI."""
    own = {full.split(".", 1)[1] for full in roi_names}
    return tuple(group for group, members in ROI_GROUPS.items() if own.intersection(members))


def groups_with_others(roi_names: Sequence[str], roi: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """The groups outside of which this subject has vertices, so that they can be left out. roi: membership, R V."""
    groups = present_groups(roi_names)
    return tuple(group for group in groups if len(vertices_of(group, roi_names, roi)) < roi.shape[1])


def aligned(subjects: Sequence[Subject]) -> list[npt.NDArray[np.int64]]:
    """For each subject the columns of the fsaverage vertices that all of them have, in one order: lh, then rh.

    Subjects' vertices differ (Algonauts subjects 6 and 8 lack some), so equal columns may be different vertices.
    Raises UserError where a subject's vertices have no known place on fsaverage, or none is common.
    """
    keys = []
    for number, subject in enumerate(subjects, start=1):
        if subject.fsaverage_vertex is None:
            raise UserError(f"subject {number} of those to align has no all-vertices mask of fsaverage: add its files")
        keys.append(subject.hemi.astype(np.int64) << 32 | subject.fsaverage_vertex)
    common = reduce(np.intersect1d, keys)
    if not len(common):
        raise UserError("the subjects to align have no fsaverage vertex in common: check their all-vertices masks")
    orders = [np.argsort(key) for key in keys]
    return [order[np.searchsorted(key, common, sorter=order)] for order, key in zip(orders, keys, strict=True)]


def _require_sizes(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size < SMALLEST_SPLIT:
            raise UserError(
                f"{name} gets {size} of {sum(sizes.values())} images with fMRI, wants {SMALLEST_SPLIT} or more: "
                "change fmri.test and fmri.validation, or use more images"
            )


def _record(params: Params, subject: str, folder: Path) -> dict[str, Any]:
    """What `folder` has of a subject's fMRI."""
    fmri = params.fmri
    found = _nsd_record(folder, subject, fmri.space) if fmri.source == "nsd" else _algonauts_record(folder)
    whose = {"source": fmri.source, "subject": subject, "space": fmri.space}
    return {**whose, "simulated": fmri.source == "simulated", **found}


def _algonauts_record(folder: Path) -> dict[str, Any]:
    subject = algonauts.read_subject(folder)
    right = int(subject.hemi.sum())
    shapes = {"lh": [subject.n_images, subject.n_vertices - right], "rh": [subject.n_images, right]}
    if problem := algonauts.shape_problem(folder, shapes):
        warn(problem)
    fingerprint = fingerprint_files(folder, subject.files)
    return {"shapes": shapes, "files": _sizes(folder, subject.files), "fingerprint": fingerprint}


def _nsd_record(folder: Path, subject: str, space: str) -> dict[str, Any]:
    found = nsd.find_subject(folder, subject, space)
    for line in found.notes:
        warn(line)
    n_images, right = len(found.trials.images), int(found.vertices.hemi.sum())
    return {
        "shapes": {"lh": [n_images, len(found.vertices.hemi) - right], "rh": [n_images, right]},
        "sessions": len(found.sessions),
        "files": _sizes(folder, found.files),
        "fingerprint": nsd.fingerprint_ends(folder, found.files),
    }


def _read(store: Path, folder: Path, record: dict[str, Any], images: Manifest) -> Subject:
    """The recorded fMRI, to be written to `store`. Raises UserError where the disk is too small for that."""
    n_vertices = sum(shape[1] for shape in record["shapes"].values())
    require_space(paths.partial(store), 4 * len(images) * n_vertices)
    return (_read_nsd if record["source"] == "nsd" else _read_algonauts)(folder, record, images)


def _read_algonauts(folder: Path, record: dict[str, Any], images: Manifest) -> Subject:
    subject = algonauts.read_subject(folder)
    _require_unchanged(folder, record, subject.files)
    if subject.n_images != len(images):
        raise UserError(
            f"{folder} has fMRI of {subject.n_images} images, but {images.set_name} ({images.folder}) has "
            f"{len(images)}: both must be of the same subject, one row an image"
        )
    return algonauts.without_dead_vertices(subject)


def _read_nsd(folder: Path, record: dict[str, Any], images: Manifest) -> Subject:
    found = nsd.find_subject(folder, record["subject"], record["space"])
    _require_unchanged(folder, record, found.files)
    return nsd.read_subject(found, image_ids(images))


def _sizes(folder: Path, files: Sequence[str]) -> dict[str, int]:
    return {file: (folder / file).stat().st_size for file in files}


def _require_unchanged(folder: Path, record: dict[str, Any], files: Sequence[str]) -> None:
    """Raise UserError where files came, went or changed in size since they were recorded."""
    now = _sizes(folder, files)
    changed = [name for name in {**record["files"], **now} if record["files"].get(name) != now.get(name)]
    if changed:
        stage = "index_fmri" if record["root"] == "data_root" else "simulate_fmri"
        raise UserError(
            f"{folder / changed[0]} is not as it was when {paths.FMRI_MANIFEST} was made ({len(changed)} files "
            f"differ): run `dvc repro -f -s {stage}@{record['subject']}`, then `dvc repro`"
        )


def _attributes(record: dict[str, Any], subject: Subject, images: Manifest) -> dict[str, Any]:
    return {
        "kind": KIND,
        "source": record["source"],
        "subject": record["subject"],
        "space": record["space"],
        "simulated": record["simulated"],
        "roi_names": list(subject.roi_names),
        "dataset": images.fingerprint,
        "fmri": record["fingerprint"],
        **subject.provenance,
    }


def _left_out_text(left_out: int, kept: int, rois: Sequence[str]) -> str:
    emptied = f", ROIs that became empty: {', '.join(rois)}" if rois else ""
    return f"left out {left_out:,} of {left_out + kept:,} vertices (NaN or constant){emptied}"


def _write(store: Path, subject: Subject, split: npt.NDArray[np.int8], attributes: dict[str, Any]) -> None:
    """Write the store block by block: one block of fMRI is in memory at a time."""
    arrays: dict[str, npt.NDArray[Any]] = {"split": split, "hemi": subject.hemi, "roi": subject.roi}
    if subject.ceiling is not None:
        arrays["ceiling"] = subject.ceiling
    if subject.fsaverage_vertex is not None:
        arrays["fsaverage_vertex"] = subject.fsaverage_vertex
    if subject.voxel is not None:
        arrays["voxel"] = subject.voxel
    specs = {name: ArraySpec(values.shape, str(values.dtype), max(len(values), 1)) for name, values in arrays.items()}
    specs["fmri"] = ArraySpec((subject.n_images, subject.n_vertices), "float32", CHUNK_ROWS)
    partial = paths.partial(store)
    create_store(partial, specs, attributes)
    for name, values in arrays.items():
        write_rows(partial, name, specs[name], 0, values)
    n_blocks = -(-subject.n_images // CHUNK_ROWS)
    for start, block in track(subject.blocks(CHUNK_ROWS), "writing fMRI", n_blocks):
        write_rows(partial, "fmri", specs["fmri"], start, block)
    complete_store(partial, store)
    if attributes["vertices_left_out"]:
        note(_left_out_text(attributes["vertices_left_out"], subject.n_vertices, attributes["rois_left_out"]))
