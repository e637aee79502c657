"""Measured fMRI: files, shapes and values, and figures that every right copy of the Natural Scenes Dataset shares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from neuralood.base import paths
from neuralood.base.seeding import generator
from neuralood.config import Params
from neuralood.data.algonauts import subject as algonauts
from neuralood.data.nsd.betas import UNITS_PER_PERCENT, VERSION, Session, betas_folder, find_sessions
from neuralood.data.nsd.space import (
    FSAVERAGE_LABEL,
    MASK,
    VOLUME_LABEL,
    Vertices,
    find_vertices,
    ncsnr_files,
    open_image,
    read_ncsnr,
    read_rois,
)
from neuralood.data.nsd.trials import DESIGN, SESSIONS, read_trials, shared_images, subject_number
from neuralood.data.rois import ROI_GROUPS
from neuralood.data.subject import HEMISPHERES
from neuralood.doctor.findings import Check, Finding, findings_of
from neuralood.doctor.images import missing_folder
from neuralood.plan.counts import tally

HELD_BACK = 3
"""Sessions at the end that were not public until August 2023."""

MASK_VOXELS = (15_724, 14_278, 15_226, 13_153, 13_039, 17_907, 12_682, 14_386)
"""Voxels of nsdgeneral in func1pt8mm, subjects 1 to 8."""
MASK_VERTICES = 37_984
"""Vertices of nsdgeneral on fsaverage, both hemispheres."""

VENTRAL = ("streams", 5)
VENTRAL_VERTICES = {"lh": 5_723, "rh": 5_445}
"""Vertices of fsaverage in the ventral stream."""

EARLY = "prf-visualrois"
EARLY_LABELS = {"V1": (1, 2), "V2": (3, 4), "hV4": (7,)}
EARLY_VOXELS = {
    "V1": (1350, 1102, 1254, 877, 1113, 1127, 1142, 1074),
    "V2": (1433, 1075, 1141, 863, 1081, 1180, 986, 1033),
    "hV4": (687, 483, 426, 475, 542, 477, 397, 495),
}
"""Voxels of func1pt8mm in early visual areas, both hemispheres, subjects 1 to 8."""

MEDIAN_NCSNR = {
    "fsaverage": (0.490, 0.510, 0.431, 0.392, 0.542, 0.439, 0.371, 0.323),
    "func1pt8mm": (0.361, 0.361, 0.324, 0.296, 0.415, 0.343, 0.281, 0.226),
}
"""Median over nsdgeneral of a single trial's signal-to-noise ratio, subjects 1 to 8."""
NEAR = 0.1
"""Share by which a median may be off."""

SAMPLED_ROWS, SAMPLED_TRIALS = 64, 3
"""Rows of averaged fMRI, and trials of single-trial betas, whose values are looked at."""
MOST_PERCENT = 500.0
"""Betas are percent of signal change: no real one is larger, while 300 times it would be."""

Floats = npt.NDArray[np.floating[Any]]


def fmri_checks(params: Params) -> Iterator[Check]:
    """Those of the source that params.yaml names: of the subject, and of further ones whose fMRI trains the trunk."""
    yield Check("fMRI", lambda: _look(params))
    for name in params.encoder.more_subjects if params.fmri.source != "simulated" else ():
        yield Check(f"fMRI of {name}", lambda name=name: _look_at_further(params, name))  # type: ignore[misc]


def _look_at_further(params: Params, name: str) -> Iterator[Finding]:
    """As at the first subject's fMRI, under another name."""
    entry = params.encoder.more_subjects[name]
    assert entry.path is not None  # as the fMRI is not simulated
    files = replace(params.fmri.files[params.fmri.subject], path=entry.path)
    fmri = replace(params.fmri, subject=name, files={name: files})
    own = replace(params, fmri=fmri, files={**params.files, "nsd": params.files[entry.images]})
    keys = {f"fmri.files.{name}": f"encoder.more_subjects.{name}", "files.nsd": f"files.{entry.images}"}
    for finding in _look(own):
        remedy = finding.remedy
        for key, of_further in keys.items():
            remedy = remedy.replace(key, of_further)
        yield replace(finding, check=finding.check.replace("fMRI", f"fMRI of {name}", 1), remedy=remedy)


def _look(params: Params) -> Iterator[Finding]:
    fmri = params.fmri
    if fmri.source == "simulated":
        yield Finding("fMRI", f"{fmri.subject} is simulated: nothing of yours to check")
        return
    looks: dict[str, Callable[[Params, Path], Iterator[Finding]]] = {
        "algonauts2023": _algonauts,
        "nsd": _nsd,
        "imported": _imported,
    }
    kind, entries = ("imported", fmri.imported) if fmri.source == "imported" else ("files", fmri.files)
    path = entries[fmri.subject].path
    folder = paths.data_root() / path
    if folder.is_dir():
        yield from looks[fmri.source](params, folder)
    else:
        yield missing_folder("fMRI: files", f"fmri.{kind}.{fmri.subject}.path", path, fmri.source)


def _imported(params: Params, folder: Path) -> Iterator[Finding]:
    from neuralood.encoder.exported import read_exported  # torch takes seconds to import

    model, record, _, _ = read_exported(folder)
    vertices = model.membership.shape[1]
    yield Finding("fMRI: imported encoder", f"{record['subject']}, {vertices:,} vertices, {record['trained_on']}")


def _algonauts(params: Params, folder: Path) -> Iterator[Finding]:
    subject = algonauts.read_subject(folder)
    left = int((subject.hemi == 0).sum())
    shapes = {"lh": [subject.n_images, left], "rh": [subject.n_images, subject.n_vertices - left]}
    text = " and ".join(f"{side} {rows:,} x {columns:,}" for side, (rows, columns) in shapes.items())
    odd = algonauts.shape_problem(folder, shapes)
    yield Finding("fMRI: shapes", odd or f"{text}, float32", "note" if odd else "ok")
    yield from _images_fit(params, subject.n_images)
    yield from _averages(params, subject)
    yield _roi_finding(dict(zip(subject.roi_names, subject.roi.sum(axis=1).tolist(), strict=True)))
    if subject.ceiling is None:
        yield Finding("fMRI: noise ceiling", "none here (it is not public): scores are not normalised by it", "note")
    else:
        yield Finding("fMRI: noise ceiling", f"median {100 * np.median(subject.ceiling**2):.1f} % of variance")


def _averages(params: Params, subject: algonauts.Subject) -> Iterator[Finding]:
    """Values of some training images, rows without any, and vertices that will be left out."""
    order = generator(params.seed, "doctor", "fmri").permutation(len(subject.fmri[0]))
    rows = np.sort(order[:SAMPLED_ROWS])
    sides = [fmri[rows] for fmri in subject.fmri[:2]]
    values = np.concatenate(sides, axis=1)
    found = _values_finding(values, f"{len(rows)} images", "averaged z-scores")
    yield found
    if found.verdict == "red":
        return
    for file, side in zip(subject.fmri_files, sides, strict=False):  # the others are of test images
        empty = rows[~np.isfinite(side).any(axis=1)]
        if len(empty):
            text = f"{file.name} has no finite value in row {empty[0]} (counted from 0)"
            yield Finding("fMRI: images", text, "red", "download it again: the row cannot be trained on")
            return
    dead = np.count_nonzero(~algonauts.varies(values.min(axis=0), values.max(axis=0)))
    if dead:
        text = f"{dead:,} of {subject.n_vertices:,} are NaN or constant in the sample: such vertices are left out"
        yield Finding("fMRI: left out", text, "note")


def _images_fit(params: Params, rows: int) -> Iterator[Finding]:
    entry = params.files["nsd"]
    images = tally("nsd", entry, paths.data_root() / entry.path).images
    if images != rows:
        key = f"fmri.files.{params.fmri.subject}.path"
        remedy = f"let files.nsd.path and {key} lead to the same subject, and complete its training_images"
        yield Finding("fMRI: rows", f"{rows:,} rows of fMRI for {images:,} images", "red", remedy)


def _nsd(params: Params, folder: Path) -> Iterator[Finding]:
    subject = params.fmri.subject
    subject_number(subject)
    yield from findings_of(Check("fMRI: trials", lambda: _trials(folder, subject)))
    vertices: list[Vertices] = []
    yield from findings_of(Check("fMRI: vertices", lambda: _mask(folder, params, vertices)))
    for known in vertices:
        for name, look in (("betas", _betas), ("ROIs", _rois), ("noise ceiling", _ceiling)):
            yield from findings_of(Check(f"fMRI: {name}", lambda look=look: look(folder, params, known)))  # type: ignore[misc]  # noqa: B023


def _trials(folder: Path, subject: str) -> Iterator[Finding]:
    trials = read_trials(folder, subject)
    text = f"{len(trials.image):,} trials of {len(trials.images):,} images in {trials.session.max()} sessions"
    if DESIGN in trials.files:
        yield Finding("fMRI: trials", f"{text}; responses.tsv and {Path(DESIGN).name} agree on each")
    else:
        missing = f"there is no {DESIGN} to compare the order of trials with"
        yield Finding("fMRI: trials", f"{text}; {missing}", "note")
    shared, _ = shared_images(folder, subject)
    seen = int(np.isin(shared, trials.images).sum())
    yield Finding("fMRI: test images", f"{seen:,} of {len(shared):,} shared images were seen")


def _mask(folder: Path, params: Params, out: list[Vertices]) -> Iterator[Finding]:
    """Also hands the vertices on."""
    subject, space = params.fmri.subject, params.fmri.space
    vertices = find_vertices(folder, subject, space)
    out.append(vertices)
    known = MASK_VERTICES if vertices.is_surface else MASK_VOXELS[subject_number(subject) - 1]
    left = int((vertices.hemi == 0).sum())
    text = f"{left:,} + {len(vertices.hemi) - left:,} of {space} in {MASK}"
    yield _compared("fMRI: vertices", text, {MASK: len(vertices.hemi)}, {MASK: known}, vertices.files)


def _betas(folder: Path, params: Params, vertices: Vertices) -> Iterator[Finding]:
    subject, space = params.fmri.subject, params.fmri.space
    sessions = find_sessions(folder / betas_folder(subject, space), vertices)
    whole = SESSIONS[subject_number(subject) - 1]
    text = f"{len(sessions)} of {whole} sessions ({VERSION}), each {_shape_text(vertices)} x {sessions[0].trials}"
    if len(sessions) == whole:
        yield Finding("fMRI: sessions", text)
    else:
        why = "a download from before August 2023" if len(sessions) == whole - HELD_BACK else "not the whole dataset"
        yield Finding("fMRI: sessions", f"{text}: {why}; images of the other sessions are left out", "note")
    session = sessions[int(generator(params.seed, "doctor", "fmri").integers(len(sessions)))]
    yield _values_finding(_sampled(session, vertices), session.files[0].name, "percent signal change")


def _shape_text(vertices: Vertices) -> str:
    return " x ".join(map(str, vertices.grid))


def _sampled(session: Session, vertices: Vertices) -> Floats:
    """Some values of one session in the mask, in percent signal change: a few trials, or all trials of a few voxels."""
    trials = np.unique(np.linspace(0, session.trials - 1, SAMPLED_TRIALS).astype(int))
    if vertices.is_surface:
        return np.concatenate(
            [_surface_trials(file, trials, vertices, hemi) for hemi, file in enumerate(session.files)]
        )
    file, (x, y, z) = session.files[0], vertices.coordinates
    if file.suffix == ".hdf5":
        middle = len(x) // 2
        own = (y == y[middle]) & (z == z[middle])
        with h5py.File(file) as opened:
            line: Floats = opened["betas"][:, z[middle], y[middle], :]
        return line[:, x[own]] / np.float32(UNITS_PER_PERCENT)
    with open_image(file) as image:
        first = np.asarray(image.dataobj[..., :1])  # a packed file is unpacked from its start
    return first[x, y, z] / np.float32(UNITS_PER_PERCENT)


def _surface_trials(file: Path, trials: npt.NDArray[np.int64], vertices: Vertices, hemi: int) -> Floats:
    """One hemisphere's chosen vertices in a few trials, as one axis."""
    own = vertices.index[vertices.columns(hemi)]
    with open_image(file) as image:
        parts = [np.asarray(image.dataobj[..., trial : trial + 1]).reshape(-1)[own] for trial in trials.tolist()]
    return np.concatenate(parts).astype(np.float32)


def _values_finding(values: Floats, of: str, unit: str) -> Finding:
    finite = np.isfinite(values)
    share = 1 - finite.mean()
    if not finite.any() or not values[finite].any():
        return Finding(
            "fMRI: values",
            f"{of}: only {'zeros' if finite.any() else 'NaN'} in a sample",
            "red",
            "download the file again: it may be a placeholder that was never filled",
        )
    good = values[finite]
    text = f"{of}: {unit} {good.min():.1f} to {good.max():.1f}, sd {good.std():.2f}, {100 * share:.2g} % NaN"
    if np.abs(good).max() > MOST_PERCENT:
        return Finding("fMRI: values", text, "red", "the numbers are of another scale: take NSD's own files")
    return Finding("fMRI: values", text, "note" if share else "ok")


def _rois(folder: Path, params: Params, vertices: Vertices) -> Iterator[Finding]:
    rois = read_rois(folder, params.fmri.subject, vertices)
    if rois.missing:
        yield Finding("fMRI: ROIs", f"left out, as there is no {', '.join(rois.missing)}", "note")
    yield _roi_finding(dict(zip(rois.names, rois.members.sum(axis=1).tolist(), strict=True)))
    if vertices.is_surface:
        family, label = VENTRAL
        names = {side: FSAVERAGE_LABEL.format(hemisphere=side, name=family) for side in HEMISPHERES}
        known: Mapping[str, int] = VENTRAL_VERTICES
        found = {side: _count(folder / name, (label,)) for side, name in names.items() if (folder / name).exists()}
    else:
        number = subject_number(params.fmri.subject)
        place = {"subject": params.fmri.subject, "name": EARLY}
        names = {side: VOLUME_LABEL.format(hemisphere=side, **place) for side in HEMISPHERES}
        known = {area: voxels[number - 1] for area, voxels in EARLY_VOXELS.items()}
        there = all((folder / name).exists() for name in names.values())
        found = {
            area: sum(_count(folder / name, labels) for name in names.values())
            for area, labels in EARLY_LABELS.items()
            if there
        }
    what = "ventral stream" if vertices.is_surface else EARLY
    if found:
        text = f"{what}: {', '.join(f'{name} {count:,}' for name, count in found.items())}"
        yield _compared("fMRI: ROI sizes", text, found, known, list(names.values()))


def _count(file: Path, labels: Sequence[int]) -> int:
    """Vertices or voxels of a file that have one of some labels."""
    with open_image(file) as image:
        return int(np.isin(np.rint(np.nan_to_num(np.asarray(image.dataobj))), labels).sum())


def _roi_finding(sizes: Mapping[str, int]) -> Finding:
    """How large the groups of ROIs are."""
    groups = {
        group: sum(size for name, size in sizes.items() if name.split(".", 1)[1] in members)
        for group, members in ROI_GROUPS.items()
    }
    text = ", ".join(f"{group} {size:,}" for group, size in groups.items() if size)
    empty = [group for group in ("early", "high") if not groups[group]]
    if not empty:
        return Finding("fMRI: ROIs", f"{len(sizes)} ROIs; {text}")
    lacks = f"no {' and no '.join(empty)} ROI: fusion.rois cannot name it" + (f"; {text}" if text else "")
    return Finding("fMRI: ROIs", lacks, "note")


def _ceiling(folder: Path, params: Params, vertices: Vertices) -> Iterator[Finding]:
    subject, space = params.fmri.subject, params.fmri.space
    names = ncsnr_files(betas_folder(subject, space), vertices)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        text = f"no {', '.join(missing)}: scores are not normalised by a noise ceiling"
        yield Finding("fMRI: noise ceiling", text, "note")
        return
    median = float(np.median(read_ncsnr(folder, names, vertices)))
    known = MEDIAN_NCSNR[space][subject_number(subject) - 1]
    percent = 100 * median**2 / (median**2 + 1 / 3)
    text = f"median ncsnr {median:.3f} (known {known:.3f}), {percent:.1f} % of variance for 3 presentations"
    if abs(median - known) <= NEAR * known:
        yield Finding("fMRI: noise ceiling", text)
    else:
        other = "func1pt8mm" if space == "fsaverage" else "fsaverage"
        remedy = f"take the ncsnr files of {VERSION} in {space}; those of {other}, or of other betas, differ"
        yield Finding("fMRI: noise ceiling", text, "red", remedy)


def _compared(
    check: str, text: str, found: Mapping[str, int], known: Mapping[str, int], files: Sequence[str]
) -> Finding:
    wrong = [f"{name} has {count:,}, known is {known[name]:,}" for name, count in found.items() if count != known[name]]
    if not wrong:
        return Finding(check, f"{text}, as known")
    swapped = dict(zip(found, reversed(list(found.values())), strict=True)) == dict(known)
    hint = "the hemispheres are swapped: " if swapped and len(found) == 2 else ""
    return Finding(check, f"{text}: {'; '.join(wrong)}", "red", f"{hint}download {', '.join(files)} again")
