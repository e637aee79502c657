"""Single-trial responses (betas) of the Natural Scenes Dataset, a session at a time.

fsaverage: one .mgh a hemisphere (vertices, 1, 1, trials), in percent signal change. Volumes: int16, 300 times percent
signal change, as .hdf5, which h5py shows as (trials, z, y, x), or as .nii.gz (x, y, z, trials).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError
from neuralood.data.files import require_content
from neuralood.data.nsd.space import Vertices, damage_named, file_shape, open_image
from neuralood.data.subject import HEMISPHERES

VERSION = "betas_fithrf_GLMdenoise_RR"
"""The third and best of NSD's three kinds of betas."""

SYNTHETIC = "nsdsyntheticbetas_fithrf_GLMdenoise_RR"
"""The same kind of the one session of NSD-synthetic."""

UNITS_PER_PERCENT = 300
"""What int16 betas of volumes are to be divided by; .mgh files are not."""

BLOCK_BYTES = 64 * 2**20
"""Most that is read of a file at a time."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Session:
    """One session's files, lh and rh or one volume, and how many trials they hold."""

    number: int
    files: tuple[Path, ...]
    trials: int


def betas_folder(subject: str, space: str, version: str = VERSION) -> str:
    """Where the betas lie below NSD's folder."""
    return f"nsddata_betas/ppdata/{subject}/{space}/{version}"


def find_sessions(folder: Path, vertices: Vertices) -> tuple[Session, ...]:
    """The sessions in a folder of betas, 1 to n; reads headers only.

    Raises UserError where there are none, where one is missing before the last, or one hemisphere of one, and where
    a file is of another shape or type.
    """
    if not folder.is_dir():
        near = sorted(child.name for child in folder.parent.iterdir()) if folder.parent.is_dir() else []
        found = f"{folder.parent} has {', '.join(near)}" if near else f"there is no {folder.parent}"
        raise UserError(f"{folder} is missing ({found}): download NSD's {VERSION} in fmri.space")
    there = _session_numbers(folder, vertices.is_surface)
    if not there:
        wanted = "lh.betas_session01.mgh" if vertices.is_surface else "betas_session01.hdf5 or .nii.gz"
        raise UserError(f"{folder} has no betas such as {wanted}: download them, or choose another fmri.space")
    names = [f"betas_session{number:02d}" for number in range(1, max(there) + 1)]
    files = [_session_files(folder, name, vertices.is_surface) for name in names]
    missing = [file for session in files for file in session if not file.exists()]
    if missing:
        shown = ", ".join(file.name for file in missing[:5])
        raise UserError(f"{folder} has betas up to session {max(there)}, but {shown} is missing: download it")
    return tuple(_session(number, session, vertices) for number, session in enumerate(files, start=1))


def synthetic_session(folder: Path, vertices: Vertices) -> Session:
    """The one session of NSD-synthetic in a folder of betas; reads headers only.

    Raises UserError where it is missing, or a file is of another shape or type.
    """
    files = _session_files(folder, "betas_nsdsynthetic", vertices.is_surface)
    for file in files:
        if not file.exists():
            raise UserError(f"{file} is missing: download NSD's {SYNTHETIC} in fmri.space")
    return _session(1, files, vertices)


def read_session(session: Session, vertices: Vertices) -> npt.NDArray[np.float32]:
    """Percent signal change, T V (lh, then rh)."""
    values = np.empty((session.trials, len(vertices.index)), np.float32)
    if vertices.is_surface:
        for hemi, file in enumerate(session.files):
            own = vertices.columns(hemi)
            _read_surface(file, vertices.index[own], values[:, own])
    elif session.files[0].suffix == ".hdf5":
        _read_hdf5(session.files[0], vertices.coordinates, values)
    else:
        _read_nifti(session.files[0], vertices.coordinates, values)
    return values


def _session_numbers(folder: Path, is_surface: bool) -> set[int]:
    pattern = r"[lr]h\.betas_session(\d\d)\.mgh" if is_surface else r"betas_session(\d\d)\.(hdf5|nii\.gz)"
    matches = (re.fullmatch(pattern, child.name) for child in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def _session_files(folder: Path, name: str, is_surface: bool) -> tuple[Path, ...]:
    """A session's files, there or not: .hdf5 rather than .nii.gz, which has to be unpacked from its start."""
    if is_surface:
        return tuple(folder / f"{hemisphere}.{name}.mgh" for hemisphere in HEMISPHERES)
    packed = folder / f"{name}.nii.gz"
    return (packed if packed.exists() and not (folder / f"{name}.hdf5").exists() else folder / f"{name}.hdf5",)


def _session(number: int, files: tuple[Path, ...], vertices: Vertices) -> Session:
    trials = [_count_trials(file, vertices.grid) for file in files]
    if len(set(trials)) > 1:
        raise UserError(f"{files[0]} has {trials[0]} trials and {files[1].name} {trials[1]}: download both again")
    return Session(number, files, trials[0])


def _count_trials(file: Path, grid: tuple[int, ...]) -> int:
    """Trials in a file of betas. Raises UserError where its shape or type is not that of betas in this space."""
    if file.suffix == ".hdf5":
        require_content(file)
        with damage_named(file), h5py.File(file) as opened:
            dataset = opened.get("betas")
            shape, dtype = tuple(getattr(dataset, "shape", ())), getattr(dataset, "dtype", None)
        trials, found = shape[:1], shape[:0:-1]
    else:
        with open_image(file) as image:
            shape, dtype = tuple(image.shape), image.get_data_dtype()
        trials, found = shape[3:] or (1,), shape[:3]
    whole = file_shape(grid)
    wanted = np.dtype(np.float32 if file.suffix == ".mgh" else np.int16)
    if len(trials) != 1 or found != whole or dtype is None or dtype.newbyteorder("=") != wanted:
        axes = f"(trials, {', '.join(map(str, whole[::-1]))})" if file.suffix == ".hdf5" else f"{whole} by trials"
        raise UserError(
            f"{file} holds {dtype} of shape {shape}, expected betas as {wanted} of {axes}: "
            "take the file of this subject and space"
        )
    return int(trials[0])


def _read_surface(file: Path, index: Array, out: Array) -> None:
    """One hemisphere's .mgh into `out`, T V; nibabel knows that its numbers are big-endian."""
    with open_image(file) as image:
        for rows, block in _trial_blocks(image, len(out)):
            out[rows] = block[:, 0, 0][index].T


def _read_hdf5(file: Path, coordinates: tuple[Array, Array, Array], out: Array) -> None:
    """A volume of (T, Z, Y, X) into `out`, T V: slab by slab, each as large as its voxels need."""
    x, y, z = coordinates
    with damage_named(file), h5py.File(file) as opened:
        for height in np.unique(z):
            own = np.flatnonzero(z == height)
            low, left = y[own].min(), x[own].min()
            slab = opened["betas"][:, height, low : y[own].max() + 1, left : x[own].max() + 1]
            out[:, own] = slab[:, y[own] - low, x[own] - left]
    out /= UNITS_PER_PERCENT


def _read_nifti(file: Path, coordinates: tuple[Array, Array, Array], out: Array) -> None:
    """A volume of (X, Y, Z, T) into `out`, T V, in one pass through the packed file."""
    with open_image(file) as image:
        slope, offset = image.dataobj.slope, image.dataobj.inter
        if (slope, offset) != (1, 0):
            raise UserError(f"{file} scales its numbers by {slope:.5f}, which NSD's own do not: download it again")
        for rows, block in _trial_blocks(image, len(out)):
            out[rows] = block[coordinates].T
    out /= UNITS_PER_PERCENT


def _trial_blocks(image: Any, trials: int) -> Iterator[tuple[slice, Array]]:
    """An image in blocks of trials, one after the other: which, and X Y Z B, with all axes even if B is 1."""
    shape = image.shape[:3]
    step = max(1, BLOCK_BYTES // (image.get_data_dtype().itemsize * int(np.prod(shape))))
    for start in range(0, trials, step):
        rows = slice(start, min(start + step, trials))
        wanted = (..., rows) if len(image.shape) == 4 else ...
        yield rows, np.asarray(image.dataobj[wanted]).reshape((*shape, -1), order="F")
