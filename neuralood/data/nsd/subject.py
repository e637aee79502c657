"""A subject's fMRI from the Natural Scenes Dataset: z-scored in each session, averaged over repetitions of an image."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.data.nsd.betas import VERSION, Session, betas_folder, find_sessions, read_session
from neuralood.data.nsd.space import Rois, Vertices, find_vertices, ncsnr_files, read_ncsnr, read_rois
from neuralood.data.nsd.trials import Ids, Trials, read_trials, shared_images, subject_number
from neuralood.data.subject import TEST, TRAIN, UNMEASURED, keep_rois

COLUMNS = 1024
"""Vertices that are z-scored at a time, in float64."""

ENDS_BYTES = 2**20
"""How much of a file's beginning and of its end enter the fingerprint: all betas are some 40 GB."""

MOST_REPETITIONS = 3
"""How often NSD shows an image."""


@dataclass(frozen=True)
class NsdFiles:
    """What lies in NSD's folder of one subject in one space, all checked but for the betas' values."""

    folder: Path
    trials: Trials
    """Of all sessions that the table of responses has."""
    sessions: tuple[Session, ...]
    """Those whose betas are at hand."""
    vertices: Vertices
    rois: Rois
    shared: Ids
    """Images that all subjects were to see, which are the test set."""
    ncsnr: tuple[str, ...]
    """Files of the noise ceiling, none where they are missing."""
    files: tuple[str, ...]
    """Every file that is read, relative to the folder."""
    notes: tuple[str, ...]
    """A line for each thing that is missing and can be done without."""


@dataclass(frozen=True)
class NsdSubject:
    """One subject's averaged fMRI (see neuralood.data.subject.Subject): I images, V vertices, R ROIs."""

    total: npt.NDArray[np.float32]
    """Sum of z-scored trials, I by all vertices that were read."""
    counts: Ids
    """Trials of each image, I."""
    kept: npt.NDArray[np.int64]
    """Which of the vertices read vary and are finite in every session, V."""
    hemi: npt.NDArray[np.int8]
    roi_names: tuple[str, ...]
    roi: npt.NDArray[np.bool_]
    ceiling: npt.NDArray[np.float32] | None
    fsaverage_vertex: npt.NDArray[np.int32] | None
    voxel: npt.NDArray[np.int32] | None
    given_split: npt.NDArray[np.int8]
    provenance: dict[str, Any]

    @property
    def n_images(self) -> int:
        return len(self.total)

    @property
    def n_vertices(self) -> int:
        return len(self.kept)

    def blocks(self, rows: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Means over repetitions in blocks of up to `rows` images; zeros for an image without a trial."""
        for start in range(0, self.n_images, rows):
            block = self.total[start : start + rows, self.kept]
            block /= np.maximum(self.counts[start : start + rows, None], 1)
            yield start, block


def find_subject(folder: Path, subject: str, space: str) -> NsdFiles:
    """Look at all files of a subject; of betas only the headers are read.

    Raises UserError where what is needed is missing, damaged or contradicts itself.
    """
    subject_number(subject)
    trials = read_trials(folder, subject)
    shared, design_files = shared_images(folder, subject)
    vertices = find_vertices(folder, subject, space)
    rois = read_rois(folder, subject, vertices)
    betas = betas_folder(subject, space)
    sessions = find_sessions(folder / betas, vertices)
    _require_trials(sessions, trials)
    ncsnr = ncsnr_files(betas, vertices)
    no_ceiling = [name for name in ncsnr if not (folder / name).exists()]
    beta_files = [file.relative_to(folder).as_posix() for session in sessions for file in session.files]
    names = [*trials.files, *design_files, *vertices.files, *rois.files, *beta_files, *(() if no_ceiling else ncsnr)]
    return NsdFiles(
        folder=folder,
        trials=trials,
        sessions=sessions,
        vertices=vertices,
        rois=rois,
        shared=shared,
        ncsnr=() if no_ceiling else ncsnr,
        files=tuple(dict.fromkeys(names)),
        notes=tuple(_notes(folder, rois, no_ceiling, sessions, trials)),
    )


def read_subject(found: NsdFiles, images: Ids) -> NsdSubject:
    """Read every session: `images` are the ids of the rows, I. The sum over trials and one session are in memory.

    Vertices that are not finite, or do not vary, in any session are left out. Raises UserError where none is left,
    where a trial has no finite value, where the betas are damaged, or where an image was never shown to the subject.
    """
    vertices = found.vertices
    rows = _rows_of(found.trials, images)
    total = np.zeros((len(images), len(vertices.index)), np.float32)
    counts = np.zeros(len(images), np.int64)
    varies = np.ones(len(vertices.index), bool)
    for session in track(found.sessions, "reading sessions", len(found.sessions)):
        values = read_session(session, vertices)
        _require_values(session, values)
        varies &= standardise(values)
        for row, trial in zip(rows[found.trials.session == session.number].tolist(), values, strict=True):
            if row >= 0:
                total[row] += trial
                counts[row] += 1
    kept = np.flatnonzero(varies)
    if not len(kept):
        raise UserError(f"{found.folder}: no vertex varies in every session; download the betas again")
    roi_names, roi, left_out = keep_rois(found.rois.names, found.rois.members, varies)
    split = _given_split(images, counts, found.shared)
    place = vertices.index[kept]
    return NsdSubject(
        total=total,
        counts=counts,
        kept=kept,
        hemi=vertices.hemi[kept],
        roi_names=roi_names,
        roi=roi,
        ceiling=_ceiling(found, counts[split == TEST])[kept] if found.ncsnr else None,
        fsaverage_vertex=place if vertices.is_surface else None,
        voxel=None if vertices.is_surface else place,
        given_split=split,
        provenance={
            "betas": VERSION,
            "sessions": len(found.sessions),
            "trials": int(counts.sum()),
            "grid": list(vertices.grid),
            **left_out,
            "repetitions": {
                "test": _repetitions(counts[split == TEST]),
                "others": _repetitions(counts[split == TRAIN]),
            },
        },
    )


def standardise(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """z-score every column of T V over its trials, in place, by the population sd; returns which columns vary.

    Columns that are constant, or not finite somewhere, become 0.
    """
    varies = np.zeros(values.shape[1], bool)
    for start in range(0, values.shape[1], COLUMNS):
        part = values[:, start : start + COLUMNS].astype(np.float64)
        good = np.isfinite(part).all(axis=0) & (part.max(axis=0) > part.min(axis=0))
        part[:, ~good] = 0
        part -= part.mean(axis=0)
        part /= np.where(good, part.std(axis=0), 1)
        values[:, start : start + COLUMNS] = part
        varies[start : start + COLUMNS] = good
    return varies


def ceiling_of_r(ncsnr: npt.NDArray[np.float64], repetitions: Ids) -> npt.NDArray[np.float32]:
    """The largest r that a perfect model can reach on averages of so many repetitions of each test image, V.

    NSD's noise ceiling is of r squared: ncsnr^2 / (ncsnr^2 + the mean of 1 / repetitions).
    """
    signal, noise = ncsnr**2, np.mean(1 / repetitions)
    ceiling: npt.NDArray[np.float32] = np.sqrt(signal / (signal + noise)).astype(np.float32)
    return ceiling


def fingerprint_ends(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 (hex) over names, sizes, and the first and last megabyte of each file."""
    digest = hashlib.sha256()
    for name in sorted(names):
        size = (folder / name).stat().st_size
        digest.update(f"{name}\0{size}\n".encode())
        with (folder / name).open("rb") as opened:
            digest.update(opened.read(ENDS_BYTES))
            opened.seek(max(opened.tell(), size - ENDS_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()


def _require_trials(sessions: tuple[Session, ...], trials: Trials) -> None:
    """Raise UserError where a file of betas has not the trials that the table of responses has."""
    for session in sessions:
        expected = int((trials.session == session.number).sum())
        if session.trials != expected:
            raise UserError(
                f"{session.files[0]} has {session.trials} trials, {trials.files[0]} has {expected} in session "
                f"{session.number}: they are of other subjects or copies; download both again"
            )


def _require_values(session: Session, values: npt.NDArray[np.float32]) -> None:
    """Raise UserError where a trial has no finite value: it would take all vertices with it."""
    for trial, of_trial in enumerate(values):
        if not np.isfinite(of_trial).any():
            raise UserError(
                f"{session.files[0]} has no finite value in trial {trial} (counted from 0): download it again"
            )


def _notes(
    folder: Path, rois: Rois, no_ceiling: list[str], sessions: tuple[Session, ...], trials: Trials
) -> Iterator[str]:
    if rois.missing:
        yield f"{folder}: ROIs are left out, as there is no {', '.join(rois.missing)}"
    if no_ceiling:
        yield f"{folder}: the noise ceiling stays unknown, as there is no {', '.join(no_ceiling)}"
    if len(sessions) < trials.session.max():
        shown = np.unique(trials.image[trials.session <= len(sessions)])
        yield (
            f"{folder} has betas of {len(sessions)} of {trials.session.max()} sessions: "
            f"{len(trials.images) - len(shown)} of {len(trials.images)} images have no fMRI and are left out"
        )


def _rows_of(trials: Trials, images: Ids) -> Ids:
    """The row of each trial's image, T; -1 where the image is not listed."""
    strangers = np.setdiff1d(images, trials.image)
    if len(strangers):
        raise UserError(
            f"nsd lists image {strangers[0]}, which {trials.files[0]} does not have: make the list again with "
            "`dvc repro -f -s index@nsd`"
        )
    row_of_id = np.full(int(trials.image.max()) + 1, -1)
    row_of_id[images] = np.arange(len(images))
    rows: Ids = row_of_id[trials.image]
    return rows


def _given_split(images: Ids, counts: Ids, shared: Ids) -> npt.NDArray[np.int8]:
    split = np.where(np.isin(images, shared), TEST, TRAIN).astype(np.int8)
    split[counts == 0] = UNMEASURED
    return split


def _ceiling(found: NsdFiles, repetitions: Ids) -> npt.NDArray[np.float32]:
    if not len(repetitions):
        raise UserError(f"{found.folder}: no image of the test set was shown in the sessions at hand; download more")
    return ceiling_of_r(read_ncsnr(found.folder, found.ncsnr, found.vertices), repetitions)


def _repetitions(counts: Ids) -> list[int]:
    """How many images were shown once, twice, three times."""
    return [int(number) for number in np.bincount(counts, minlength=MOST_REPETITIONS + 1)[1:]]
