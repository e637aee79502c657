"""Reads a subject's folder as Algonauts 2023 lays it out; simulated fMRI lies in the same way."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError
from neuralood.data.arrays import read_npy
from neuralood.data.rois import ROI_FAMILIES
from neuralood.data.subject import FSAVERAGE_VERTICES, HEMISPHERES, TEST, TRAIN, keep_rois

TEST_FMRI = "test_split/test_fmri/{}_test_fmri.npy"

TRAINING_IMAGES = (9841, 9841, 9082, 8779, 9841, 9082, 9841, 8779)
TEST_IMAGES = (159, 159, 293, 395, 159, 293, 159, 395)
"""Rows of the fMRI of subjects 1 to 8; that of the test images was never made public."""

VERTICES = {"lh": {6: 18_978, 8: 18_981}, "rh": {6: 20_220, 8: 20_530}}
"""Columns of the two subjects that lack some."""

MOST_VERTICES = {"lh": 19_004, "rh": 20_544}
"""Columns of all other subjects."""

BLOCK_BYTES = 64 * 2**20
"""fMRI is read in blocks of about this size, so that memory stays bounded."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """One subject's fMRI (see neuralood.data.subject.Subject): I images, V vertices, R ROIs that are not empty."""

    files: tuple[str, ...]
    """Every file that was read, relative to the folder."""
    fmri_files: tuple[Path, ...]
    """lh and rh of the training images and, where they are at hand, lh and rh of the test images."""
    fmri: tuple[Array, ...]
    """Of each of these files its images by the vertices of its hemisphere, mapped."""
    kept: npt.NDArray[np.int64]
    """Columns of both hemispheres' files, lh first, that are the vertices, V."""
    hemi: npt.NDArray[np.int8]
    """0 left, 1 right, V."""
    roi_names: tuple[str, ...]
    """Such as lh.V1v: in the order of the tables, lh before rh."""
    roi: npt.NDArray[np.bool_]
    """Membership, R V; a vertex may belong to several ROIs or to none."""
    ceiling: npt.NDArray[np.float32] | None
    """The largest r a perfect model can reach, V; None where the noise ceiling is not public."""
    fsaverage_vertex: npt.NDArray[np.int32] | None
    """Index of each vertex on fsaverage's own hemisphere, V; None for vertices that have no such place."""
    given_split: npt.NDArray[np.int8] | None
    """TEST for the images of the test split, I; None where their fMRI is not at hand, so that tests are drawn."""
    voxel: None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        return sum(len(fmri) for fmri in self.fmri[::2])

    @property
    def n_vertices(self) -> int:
        return len(self.hemi)

    def blocks(self, rows: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """fMRI as float32 in blocks of up to `rows` images: index of the first, and B V values."""
        for start in range(0, self.n_images, rows):
            sides = [_rows(self.fmri[hemi::2], start, start + rows) for hemi in (0, 1)]
            yield start, np.concatenate(sides, axis=1, dtype=np.float32, casting="same_kind")[:, self.kept]


def read_subject(folder: Path) -> Subject:
    """Read all but the fMRI's values, which stay on disk.

    Raises UserError where a file of the layout is missing or damaged, or where files contradict each other;
    `without_dead_vertices` looks at the values.
    """
    files = _required_files(folder)
    test_files = _optional_pair(folder, TEST_FMRI)
    fmri_files = tuple(folder / name for name in (_fmri_name("lh"), _fmri_name("rh"), *test_files))
    fmri = tuple(_read_fmri(file) for file in fmri_files)
    _require_alike(fmri_files, fmri)
    widths = (fmri[0].shape[1], fmri[1].shape[1])
    roi_names, roi = _read_rois(folder, widths)
    ceiling_files = _optional_pair(folder, "test_split/noise_ceiling/{}_noise_ceiling.npy")
    place_files = _optional_pair(folder, "roi_masks/{}.all-vertices_fsaverage_space.npy")
    return Subject(
        files=(*files, *test_files, *ceiling_files, *place_files),
        fmri_files=fmri_files,
        fmri=fmri,
        kept=np.arange(sum(widths)),
        hemi=np.repeat(np.arange(2, dtype=np.int8), widths),
        roi_names=roi_names,
        roi=roi,
        ceiling=_joined(_read_ceiling, folder, ceiling_files, widths),
        fsaverage_vertex=_joined(_read_places, folder, place_files, widths),
        given_split=np.repeat(np.array([TRAIN, TEST], np.int8), [len(fmri[0]), len(fmri[2])]) if test_files else None,
    )


def without_dead_vertices(subject: Subject) -> Subject:
    """The subject without vertices that are not finite, or do not vary, over its images; reads all fMRI, in blocks.

    Its provenance says what was left out. Raises UserError where a row (image) of a file has no finite value, and where
    no vertex of a hemisphere is left.
    """
    spans = [_spans(file, values) for file, values in zip(subject.fmri_files, subject.fmri, strict=True)]
    sides = []
    for hemi, file in enumerate(subject.fmri_files[:2]):
        lows, highs = zip(*spans[hemi::2], strict=True)
        sides.append(varies(np.min(lows, axis=0), np.max(highs, axis=0)))
        if not sides[-1].any():
            raise UserError(f"{file}: no vertex is finite and varies over the images; download it again")
    usable = np.concatenate(sides)
    names, roi, left_out = keep_rois(subject.roi_names, subject.roi, usable)
    return replace(
        subject,
        kept=subject.kept[usable],
        hemi=subject.hemi[usable],
        roi_names=names,
        roi=roi,
        ceiling=None if subject.ceiling is None else subject.ceiling[usable],
        fsaverage_vertex=None if subject.fsaverage_vertex is None else subject.fsaverage_vertex[usable],
        provenance=left_out,
    )


def varies(low: Array, high: Array) -> npt.NDArray[np.bool_]:
    """Which vertices are finite and vary, V, by their lowest and highest values, which are NaN where any value is."""
    usable: npt.NDArray[np.bool_] = np.isfinite(low) & np.isfinite(high) & (low < high)
    return usable


def has_test_fmri(folder: Path) -> bool:
    """Whether the fMRI of the test images is at hand, so that these images belong to the subject as well."""
    return any((folder / TEST_FMRI.format(hemisphere)).exists() for hemisphere in HEMISPHERES)


def shape_problem(folder: Path, shapes: Mapping[str, list[int]]) -> str | None:
    """What is odd about the shapes of a folder that is named after one of the challenge's subjects, or None."""
    named = re.fullmatch(r"subj0([1-8])", folder.name)
    if not named:
        return None
    number = int(named[1])
    n_images = TRAINING_IMAGES[number - 1] + (TEST_IMAGES[number - 1] if has_test_fmri(folder) else 0)
    known = {side: [n_images, VERTICES[side].get(number, MOST_VERTICES[side])] for side in HEMISPHERES}
    if shapes == known:
        return None
    found, wanted = (" and ".join(f"{rows} x {columns}" for rows, columns in each.values()) for each in (shapes, known))
    return f"{folder} has fMRI of {found} (lh and rh), the challenge's {folder.name} has {wanted}"


def block_rows(n_vertices: int) -> int:
    """Rows of float32 fMRI that make up one block."""
    return max(1, BLOCK_BYTES // (4 * max(n_vertices, 1)))


def _spans(file: Path, values: Array) -> tuple[Array, Array]:
    """The lowest and the highest value of each vertex, V, NaN where any is. Raises UserError for rows of NaN."""
    lows, highs, empty = [], [], []
    rows = block_rows(values.shape[1])
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        lows.append(block.min(axis=0))
        highs.append(block.max(axis=0))
        empty += (start + np.flatnonzero(~np.isfinite(block).any(axis=1))).tolist()
    if empty:
        raise UserError(
            f"{file} has no finite value in {len(empty)} of {len(values)} rows, first in row {empty[0]} (counted from "
            "0): download it again"
        )
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _fmri_name(hemisphere: str) -> str:
    return f"training_split/training_fmri/{hemisphere}_training_fmri.npy"


def _mask_name(hemisphere: str, family: str) -> str:
    return f"roi_masks/{hemisphere}.{family}_challenge_space.npy"


def _required_files(folder: Path) -> tuple[str, ...]:
    names = [_fmri_name(hemisphere) for hemisphere in HEMISPHERES]
    names += [_mask_name(hemisphere, family) for hemisphere in HEMISPHERES for family in ROI_FAMILIES]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
        shown = f"{len(found)} .npy files, such as {found[0]}" if found else "no .npy file"
        headline = f"{folder} is no complete Algonauts 2023 subject ({shown} found); put in place what is missing:"
        raise UserError("\n".join([headline, *(f"  {name}" for name in missing)]))
    return tuple(names)


def _optional_pair(folder: Path, pattern: str) -> tuple[str, ...]:
    """Names of the files of both hemispheres, or of none where neither is there."""
    names = tuple(pattern.format(hemisphere) for hemisphere in HEMISPHERES)
    there = [(folder / name).exists() for name in names]
    if any(there) and not all(there):
        present, missing = names if there[0] else names[::-1]
        raise UserError(f"{folder / missing} is missing while {present} is there: add it, or move both away")
    return names if all(there) else ()


def _read_fmri(file: Path) -> Array:
    values = read_npy(file, mapped=True)
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{file} has shape {values.shape}, expected images x vertices: replace it")
    return values


def _require_alike(files: tuple[Path, ...], fmri: tuple[Array, ...]) -> None:
    """Raise UserError where hemispheres differ in images, or the test images' vertices from the others'."""
    for place in range(0, len(fmri), 2):
        left, right = fmri[place : place + 2]
        if len(left) != len(right):
            raise UserError(
                f"{files[place]} has {len(left)} rows and {files[place + 1].name} has {len(right)}: "
                "both need one row an image; download them again"
            )
    for place in range(2, len(fmri)):
        if fmri[place].shape[1] != fmri[place - 2].shape[1]:
            raise UserError(
                f"{files[place]} has {fmri[place].shape[1]} vertices and {files[place - 2].name} has "
                f"{fmri[place - 2].shape[1]}: take the files of the same subject"
            )


def _rows(parts: tuple[Array, ...], start: int, stop: int) -> Array:
    """Rows of arrays as if they were one."""
    pieces = []
    for part in parts:
        pieces.append(part[max(start, 0) : max(stop, 0)])
        start, stop = start - len(part), stop - len(part)
    return np.concatenate(pieces)


def _read_vector(file: Path, length: int) -> Array:
    values = read_npy(file)
    if values.shape != (length,):
        raise UserError(
            f"{file} has shape {values.shape}, expected ({length},), one value a vertex: "
            "take the file of the same subject"
        )
    return values


def _read_rois(folder: Path, widths: tuple[int, int]) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Names and membership (R V) of the ROIs that this subject has."""
    names, rows = [], []
    for hemi, hemisphere in enumerate(HEMISPHERES):
        own = slice(0, widths[0]) if hemi == 0 else slice(widths[0], sum(widths))
        for family, table in ROI_FAMILIES.items():
            labels = _read_labels(folder / _mask_name(hemisphere, family), widths[hemi], len(table))
            for label, name in enumerate(table, start=1):
                members = labels == label
                if members.any():
                    names.append(f"{hemisphere}.{name}")
                    rows.append(np.zeros(sum(widths), bool))
                    rows[-1][own] = members
    return tuple(names), np.array(rows, bool).reshape(len(rows), sum(widths))


def _read_labels(file: Path, length: int, n_labels: int) -> Array:
    labels = _read_vector(file, length)
    known = np.isin(labels, np.arange(n_labels + 1))
    if not known.all():
        shown = ", ".join(str(value) for value in np.unique(labels[~known])[:5])
        raise UserError(f"{file} has labels {shown}, expected 0 to {n_labels}: take the challenge's own file")
    return labels


def _joined(read: Any, folder: Path, names: tuple[str, ...], widths: tuple[int, int]) -> Any:
    """Both hemispheres' values on the one vertex axis, or None without files."""
    if not names:
        return None
    return np.concatenate([read(folder / name, width) for name, width in zip(names, widths, strict=True)])


def _read_ceiling(file: Path, length: int) -> npt.NDArray[np.float32]:
    """The root of the explainable fraction of variance, which is the ceiling of r; 0 where it is NaN."""
    fraction = _read_vector(file, length)
    if not np.isnan(fraction).all():
        fraction = np.where(np.isnan(fraction), 0, fraction)  # as a vertex without a signal has it
    if not ((fraction >= 0) & (fraction <= 1)).all():  # so that NaN is refused as well
        low, high = fraction.min(), fraction.max()
        hint = "; these look like percent: divide by 100" if low >= 0 and 1 < high <= 100 else ": replace it"
        raise UserError(f"{file} runs from {low:g} to {high:g}, expected fractions of variance from 0 to 1{hint}")
    ceiling: npt.NDArray[np.float32] = np.sqrt(fraction).astype(np.float32)
    return ceiling


def _read_places(file: Path, length: int) -> npt.NDArray[np.int32]:
    places = np.flatnonzero(_read_vector(file, FSAVERAGE_VERTICES)).astype(np.int32)
    if len(places) != length:
        raise UserError(
            f"{file} marks {len(places)} vertices, the fMRI has {length}: take the file of the same subject"
        )
    return places
