"""Which vertices or voxels of the Natural Scenes Dataset are read, their ROIs, and their noise ceiling."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError
from neuralood.data.files import require_content
from neuralood.data.rois import ROI_FAMILIES
from neuralood.data.subject import HEMISPHERES

Array = npt.NDArray[Any]

FSAVERAGE_LABEL = "nsddata/freesurfer/fsaverage/label/{hemisphere}.{name}.mgz"
NATIVE_LABEL = "nsddata/freesurfer/{subject}/label/{hemisphere}.{name}.mgz"
TRANSFORM = "nsddata/ppdata/{subject}/transforms/{hemisphere}.white-to-fsaverage.mgz"
"""For each fsaverage vertex the nearest one of the subject's own surface, counted from 1."""
VOLUME_LABEL = "nsddata/ppdata/{subject}/func1pt8mm/roi/{hemisphere}.{name}.nii.gz"
VOLUME_BOTH = "nsddata/ppdata/{subject}/func1pt8mm/roi/{name}.nii.gz"

MASK = "nsdgeneral"
"""The part of cortex that responds to the task; its label is 1. In volumes -1 is outside the cortex."""

FSAVERAGE_FAMILIES = ("streams",)
"""ROI families drawn on fsaverage; all others are drawn on the subject's own surface."""


@dataclass(frozen=True)
class Vertices:
    """The vertices or voxels that are read, V: lh, then rh."""

    grid: tuple[int, ...]
    """Vertices of a whole hemisphere, or X, Y, Z."""
    hemi: npt.NDArray[np.int8]
    """0 left, 1 right, V."""
    index: npt.NDArray[np.int32]
    """Place on the own hemisphere's surface, or in the volume in C order of (x, y, z); ascending within each, V."""
    files: tuple[str, ...]
    """What was read, relative to NSD's folder."""

    @property
    def is_surface(self) -> bool:
        return len(self.grid) == 1

    @property
    def coordinates(self) -> tuple[Array, Array, Array]:
        """x, y and z of each voxel, V."""
        x, y, z = np.unravel_index(self.index, self.grid)
        return x, y, z

    def columns(self, hemi: int) -> slice:
        """Where one hemisphere lies on the vertex axis."""
        left = int((self.hemi == 0).sum())
        return slice(0, left) if hemi == 0 else slice(left, len(self.hemi))


@dataclass(frozen=True)
class Rois:
    """The ROIs that are not empty, R, over V vertices."""

    names: tuple[str, ...]
    """Such as lh.V1v: lh before rh, in the order of the tables."""
    members: npt.NDArray[np.bool_]
    """R V."""
    files: tuple[str, ...]
    """What was read, relative to NSD's folder."""
    missing: tuple[str, ...]
    """What is not there: a family of which a file is missing is left out in both hemispheres."""


def find_vertices(folder: Path, subject: str, space: str) -> Vertices:
    """The vertices (fsaverage) or voxels (func1pt8mm) in nsdgeneral. Raises UserError where its files are unusable."""
    names = _mask_files(subject, space)
    masks = [_read_labels(folder / name) == 1 for name in names]
    if len({mask.shape for mask in masks}) > 1:
        shown = ", ".join(f"{folder / name} {mask.shape}" for name, mask in zip(names, masks, strict=True))
        raise UserError(f"the files of {MASK} differ in shape ({shown}): download them again")
    if space == "fsaverage":
        left, right = (mask.reshape(-1) for mask in masks)
    else:
        in_left, in_right, both = masks
        left, right = both & in_left, both & in_right & ~in_left
        if (left | right).sum() != both.sum():
            raise UserError(f"{folder / names[2]} marks voxels of neither hemisphere's file: download them again")
    places = [np.flatnonzero(side).astype(np.int32) for side in (left, right)]
    for name, found in zip(names[:2], places, strict=True):
        if not len(found):
            raise UserError(f"{folder / name} marks nothing: download it again")
    hemi = np.repeat(np.arange(2, dtype=np.int8), [len(found) for found in places])
    return Vertices(left.shape, hemi, np.concatenate(places), names)


def read_rois(folder: Path, subject: str, vertices: Vertices) -> Rois:
    """The ROIs of the six families. Raises UserError where a file does not fit the vertices or has unknown labels."""
    files: list[str] = []
    missing: list[str] = []
    labels: dict[str, list[Array]] = {}
    for family in ROI_FAMILIES:
        wanted = [_family_files(subject, family, hemisphere, vertices) for hemisphere in HEMISPHERES]
        absent = [name for names in wanted for name in names if not (folder / name).exists()]
        missing += absent
        if not absent:
            files += [name for names in wanted for name in names]
            labels[family] = [
                _family_labels(folder, names, family, vertices, hemi) for hemi, names in enumerate(wanted)
            ]
    found: dict[str, Array] = {}
    for hemi, hemisphere in enumerate(HEMISPHERES):
        for family, of_both in labels.items():
            for label, name in enumerate(ROI_FAMILIES[family], start=1):
                own = np.zeros(len(vertices.hemi), bool)
                own[vertices.columns(hemi)] = of_both[hemi] == label
                if own.any():
                    found[f"{hemisphere}.{name}"] = own
    members = np.array(list(found.values()), bool).reshape(len(found), len(vertices.hemi))
    return Rois(tuple(found), members, tuple(dict.fromkeys(files)), tuple(dict.fromkeys(missing)))


def ncsnr_files(betas: str, vertices: Vertices) -> tuple[str, ...]:
    """Where the noise ceiling's signal-to-noise ratio lies: that of the same space, beside the betas."""
    if vertices.is_surface:
        return tuple(f"{betas}/{hemisphere}.ncsnr.mgh" for hemisphere in HEMISPHERES)
    return (f"{betas}/ncsnr.nii.gz",)


def read_ncsnr(folder: Path, names: Sequence[str], vertices: Vertices) -> npt.NDArray[np.float64]:
    """Signal-to-noise ratio of a single trial, V; 0 where NSD has none (NaN)."""
    sides = [_read_map(folder / name, vertices.grid) for name in names]
    values = np.concatenate([sides[hemi % len(sides)][vertices.index[vertices.columns(hemi)]] for hemi in (0, 1)])
    values = np.nan_to_num(values.astype(np.float64), nan=0.0)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UserError(f"{folder / names[0]}: ncsnr must be 0 or more, lowest is {values.min():g}; download it again")
    return values


@contextmanager
def damage_named(file: Path, *more: Any) -> Iterator[None]:
    """Turn what the libraries raise about a damaged file into one line that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, *more) as error:
        raise UserError(f"{file} is damaged or cut short ({error}): download or copy it again") from None


@contextmanager
def open_image(file: Path) -> Iterator[Any]:
    """A .mgh, .mgz or .nii.gz whose numbers are on disk: `dataobj` reads slices, quickly if one after the other."""
    import nibabel  # here: half a second that no other stage is to wait for
    from nibabel.freesurfer.mghformat import MGHError

    require_content(file)
    kind = nibabel.Nifti1Image if ".nii" in file.suffixes else nibabel.MGHImage
    named = damage_named(file, MGHError, nibabel.spatialimages.HeaderDataError, nibabel.filebasedimages.ImageFileError)
    with named, gzip.open(file) if file.suffix in (".gz", ".mgz") else file.open("rb") as stream:
        yield kind.from_stream(stream)


def file_shape(grid: tuple[int, ...]) -> tuple[int, ...]:
    """How a file of one number a place shows the grid: surfaces have two more axes of length 1."""
    return (*grid, 1, 1)[:3]


def _mask_files(subject: str, space: str) -> tuple[str, ...]:
    """nsdgeneral of lh and rh and, in a volume, of both."""
    pattern = FSAVERAGE_LABEL if space == "fsaverage" else VOLUME_LABEL
    names = tuple(pattern.format(subject=subject, hemisphere=hemisphere, name=MASK) for hemisphere in HEMISPHERES)
    return names if space == "fsaverage" else (*names, VOLUME_BOTH.format(subject=subject, name=MASK))


def _family_files(subject: str, family: str, hemisphere: str, vertices: Vertices) -> tuple[str, ...]:
    """The file of labels and, where these are on the subject's own surface, the way to fsaverage."""
    place = {"subject": subject, "hemisphere": hemisphere, "name": family}
    if not vertices.is_surface:
        return (VOLUME_LABEL.format(**place),)
    if family in FSAVERAGE_FAMILIES:
        return (FSAVERAGE_LABEL.format(**place),)
    return NATIVE_LABEL.format(**place), TRANSFORM.format(**place)


def _family_labels(folder: Path, names: tuple[str, ...], family: str, vertices: Vertices, hemi: int) -> Array:
    """The label of each vertex of one hemisphere."""
    labels, known = _read_labels(folder / names[0]), len(ROI_FAMILIES[family])
    if labels.min() < -1 or labels.max() > known:
        shown = f"{labels.min()} to {labels.max()}"
        raise UserError(f"{folder / names[0]} has labels {shown}, expected -1 to {known}: download NSD's own file")
    if len(names) == 2:
        labels = _to_fsaverage(labels.reshape(-1), folder / names[1], vertices.grid)
    elif labels.shape != file_shape(vertices.grid):
        raise UserError(f"{folder / names[0]} has shape {labels.shape}, expected {vertices.grid}: download it again")
    return labels.reshape(-1)[vertices.index[vertices.columns(hemi)]]


def _to_fsaverage(labels: Array, transform: Path, grid: tuple[int, ...]) -> Array:
    """Labels of the subject's own vertices brought to fsaverage: each vertex there takes that of its nearest."""
    nearest = _read_labels(transform).reshape(-1)
    if nearest.shape != grid or nearest.min() < 1 or nearest.max() > len(labels):
        raise UserError(
            f"{transform} leads {len(nearest)} vertices to vertices {nearest.min()} to {nearest.max()}, expected "
            f"{grid[0]} to 1 to {len(labels)}: take the files of the same subject"
        )
    return labels[nearest - 1]


def _read_labels(file: Path) -> npt.NDArray[np.int64]:
    """Labels, which files hold as floating point, as whole numbers in the file's own shape."""
    with open_image(file) as image:
        labels: npt.NDArray[np.int64] = np.rint(np.nan_to_num(np.asarray(image.dataobj))).astype(np.int64)
        return labels


def _read_map(file: Path, grid: tuple[int, ...]) -> Array:
    """One number a vertex or voxel, in C order of the grid."""
    with open_image(file) as image:
        if tuple(image.shape) != file_shape(grid):
            raise UserError(f"{file} has shape {image.shape}, expected {grid}: take the file of this subject and space")
        return np.asarray(image.dataobj).reshape(-1)
