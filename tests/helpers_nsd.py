"""A small Natural Scenes Dataset in the true layout: true names, types, byte order and axis order, unequal sizes.

.mgh files are written byte by byte here, so that a reader is not tested against the library it reads with.
"""

import csv
import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
from helpers_data import SETS, make_params
from scipy.io import savemat

from neuralood.config import Params
from neuralood.data.rois import ROI_FAMILIES

Array = np.ndarray[Any, Any]

SURFACE = 60
"""Vertices of a hemisphere of the small fsaverage: as many in both, as in truth."""
NATIVE = {"lh": 47, "rh": 53}
GRID = (5, 7, 4)
TRIALS = (24, 20, 22)
STIMULI = 73_000
B3 = "betas_fithrf_GLMdenoise_RR"
COLUMNS = [
    *("SUBJECT", "SESSION", "RUN", "TRIAL", "73KID", "10KID", "TIME", "ISOLD", "ISCORRECT", "RT", "CHANGEMIND"),
    *("MEMORYRECENT", "MEMORYFIRST", "ISOLDCURRENT", "ISCORRECTCURRENT", "TOTAL1", "TOTAL2", "BUTTON", "MISSINGDATA"),
]


@dataclass(frozen=True)
class Plan:
    """Who saw what: `ids` are 0-based."""

    subject: int
    subjectim: Array
    """8 I, 1-based; the first columns are the shared images, the same in all rows."""
    masterordering: Array
    """Trials planned, 1-based columns of subjectim."""
    shared: Array
    """0-based, ascending."""
    trials: tuple[int, ...]
    """Trials of each session that was run."""

    @property
    def name(self) -> str:
        return f"subj{self.subject:02d}"

    @property
    def ids(self) -> Array:
        """0-based image of each trial that was run."""
        ordering = self.masterordering[: sum(self.trials)]
        return np.array([self.subjectim[self.subject - 1, place - 1] - 1 for place in ordering])

    @property
    def session(self) -> Array:
        return np.repeat(np.arange(1, len(self.trials) + 1), self.trials)


def plan(rng: np.random.Generator, subject: int = 2, trials: tuple[int, ...] = TRIALS) -> Plan:
    """Images shown up to three times, in an order of its own, with more trials planned than were run."""
    images, shared = sum(trials) // 3 + 8, 8
    common = np.sort(np.concatenate([[STIMULI - 1], rng.choice(np.arange(1, STIMULI - 1), shared - 1, replace=False)]))
    own = rng.choice(np.setdiff1d(np.arange(1, STIMULI - 1), common), (8, images - shared), replace=False)
    own[subject - 1, 0] = 0
    subjectim = np.hstack([np.tile(common, (8, 1)), own]) + 1
    ordering = rng.permutation(np.repeat(np.arange(1, images + 1), 3))
    return Plan(subject, subjectim, ordering, common, trials)


def write_plan(folder: Path, planned: Plan) -> None:
    """responses.tsv, nsd_expdesign.mat and nsd_stim_info_merged.csv."""
    write_responses(folder, planned)
    write_design(folder, planned)
    write_table(folder, planned)


def write_responses(folder: Path, planned: Plan, columns: list[str] = COLUMNS, **changes: Mapping[int, Any]) -> Path:
    """One line a trial; `changes` are {column: {line: value}}, lines counted from 0. Runs have 5 trials."""
    file = folder / f"nsddata/ppdata/{planned.name}/behav/responses.tsv"
    file.parent.mkdir(parents=True, exist_ok=True)
    within = np.concatenate([np.arange(count) for count in planned.trials])
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for line, number in enumerate(planned.ids):
            row: dict[str, Any] = dict.fromkeys(COLUMNS, "nan")
            row |= {"SUBJECT": planned.subject, "SESSION": planned.session[line], "MISSINGDATA": 0, "TIME": 0.25}
            row |= {"RUN": within[line] // 5 + 1, "TRIAL": within[line] % 5 + 1, "73KID": number + 1}
            row |= {"10KID": planned.masterordering[line]}
            row |= {name: values[line] for name, values in changes.items() if line in values}
            writer.writerow(row)
    return file


def write_design(folder: Path, planned: Plan) -> Path:
    """As MATLAB has it: unsigned, and counted from 1."""
    file = folder / "nsddata/experiments/nsd/nsd_expdesign.mat"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "masterordering": planned.masterordering[None].astype(np.uint16),
        "subjectim": planned.subjectim.astype(np.float64),
        "sharedix": (planned.shared[None] + 1).astype(np.int32),
        "basiccnt": np.zeros((3, 40)),
        "stimpattern": np.zeros((40, 12, 75), np.uint8),
    }
    savemat(file, content)
    return file


def write_table(folder: Path, planned: Plan) -> Path:
    """nsd_stim_info_merged.csv, with its unnamed first column, for the images of the plan alone."""
    file = folder / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = ["cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000", "shared1000"]
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["", *names, *(f"subject{number}" for number in range(1, 9))])
        for number in np.unique(planned.subjectim) - 1:
            seen = (planned.subjectim == number + 1).any(axis=1).astype(int)
            shared = bool(np.isin(number, planned.shared))
            row = [number, 532481, "val2017", "(0, 0, 0.1671875, 0.1671875)", 0.17, number, False, False, shared]
            writer.writerow([*row, *seen])
    return file


def write_stimuli(folder: Path, ids: Array) -> Path:
    """imgBrick with all its rows; those of `ids` are written: pixels of row i are (i % 251, i // 251 % 256, 7)."""
    file = folder / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as opened:
        brick = opened.create_dataset("imgBrick", (STIMULI, 425, 425, 3), np.uint8, chunks=(1, 425, 425, 3))
        for number in np.unique(ids).tolist():
            brick[number] = np.broadcast_to(np.array([number % 251, number // 251 % 256, 7], np.uint8), (425, 425, 3))
    return file


def write_mgh(file: Path, values: Array, dtype: str = ">f4") -> Path:
    """V or V T numbers as FreeSurfer lays them out: big-endian, (V, 1, 1, T), a trial after the other."""
    values = values.reshape(len(values), -1)
    header = struct.pack(">7ih", 1, len(values), 1, 1, values.shape[1], 3, 0, 0).ljust(284, b"\0")
    content = header + values.T.astype(dtype).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content, 1) if file.suffix == ".mgz" else content)
    return file


def write_nifti(file: Path, values: Array) -> Path:
    """X Y Z or X Y Z T numbers in their own type."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.diag([-1.8, 1.8, 1.8, 1]), dtype=values.dtype).to_filename(file)
    return file


def write_hdf5(file: Path, values: Array) -> Path:
    """X Y Z T numbers as MATLAB writes them, which h5py shows as (T, Z, Y, X), a voxel's trials to a chunk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as opened:
        opened.create_dataset("betas", data=values.transpose(3, 2, 1, 0), chunks=(values.shape[3], 1, 1, 1))
    return file


@dataclass(frozen=True)
class Surface:
    """What `write_surface` wrote, by hemisphere: betas of each session (vertices trials), masks and labels."""

    plan: Plan
    folder: Path
    betas: dict[str, list[Array]]
    mask: dict[str, Array]
    ncsnr: dict[str, Array]
    labels: dict[str, dict[str, Array]]
    """Hemisphere -> family -> labels on fsaverage."""

    @property
    def kept(self) -> dict[str, Array]:
        return {side: np.flatnonzero(mask) for side, mask in self.mask.items()}


@dataclass(frozen=True)
class Volume:
    """What `write_volume` wrote: betas of each session (X Y Z trials, percent), and what is in each hemisphere."""

    plan: Plan
    folder: Path
    betas: list[Array]
    voxels: dict[str, Array]
    """Hemisphere -> coordinates of its voxels in nsdgeneral, V_side 3, in order."""
    ncsnr: Array


def drawn_betas(rng: np.random.Generator, shape: tuple[int, ...], trials: tuple[int, ...]) -> list[Array]:
    """Responses whose mean and spread differ between sessions and places."""
    return [
        rng.normal(3 * number, 1 + number, (*shape, 1))
        + rng.uniform(1, 3, (*shape, 1)) * rng.standard_normal((*shape, count))
        for number, count in enumerate(trials)
    ]


def betas_folder(folder: Path, subject: str, space: str) -> Path:
    return folder / f"nsddata_betas/ppdata/{subject}/{space}/{B3}"


def write_surface(folder: Path, planned: Plan, rng: np.random.Generator, sessions: int | None = None) -> Surface:
    """All that is read in fsaverage; of the betas only the first `sessions`."""
    betas, masks, ncsnr, labels = {}, {}, {}, {}
    for side in ("lh", "rh"):
        mask = np.zeros(SURFACE)
        mask[rng.choice(SURFACE, 21 if side == "lh" else 26, replace=False)] = 1
        write_mgh(folder / f"nsddata/freesurfer/fsaverage/label/{side}.nsdgeneral.mgz", mask)
        nearest = rng.integers(1, NATIVE[side] + 1, SURFACE)
        nearest[:2] = 1, NATIVE[side]
        write_mgh(folder / f"nsddata/ppdata/{planned.name}/transforms/{side}.white-to-fsaverage.mgz", nearest)
        labels[side] = {}
        for family, table in ROI_FAMILIES.items():
            if family == "streams":
                own = on_fsaverage = rng.integers(0, len(table) + 1, SURFACE)
                file = folder / f"nsddata/freesurfer/fsaverage/label/{side}.{family}.mgz"
            else:
                own = rng.integers(0, len(table) + 1, NATIVE[side])
                on_fsaverage = np.array([own[place - 1] for place in nearest])
                file = folder / f"nsddata/freesurfer/{planned.name}/label/{side}.{family}.mgz"
            write_mgh(file, own)
            labels[side][family] = on_fsaverage
        betas[side] = [values.astype(np.float32) for values in drawn_betas(rng, (SURFACE,), planned.trials[:sessions])]
        masks[side], ncsnr[side] = mask, rng.uniform(0, 1.5, SURFACE).astype(np.float32)
        ncsnr[side][np.flatnonzero(mask)[3]] = np.nan
        where = betas_folder(folder, planned.name, "fsaverage")
        write_mgh(where / f"{side}.ncsnr.mgh", ncsnr[side])
        for number, values in enumerate(betas[side], start=1):
            write_mgh(where / f"{side}.betas_session{number:02d}.mgh", values)
    return Surface(planned, folder, betas, masks, ncsnr, labels)


def write_volume(folder: Path, planned: Plan, rng: np.random.Generator, kind: str = "hdf5") -> Volume:
    """All that is read in func1pt8mm: x < 2 is the left hemisphere, x > 2 the right one, x = 2 in both, z = 0 in none.

    V1v is where y = 2, V2d where y = 4; the other families are 0, or -1 outside of the hemisphere.
    """
    x, y, z = np.indices(GRID)
    cortex = {"lh": (x <= 2) & (z > 0), "rh": (x >= 2) & (z > 0)}
    general = {side: np.where(here, (y > 0) & (y < 6), -1).astype(np.float32) for side, here in cortex.items()}
    both = np.where(cortex["lh"], general["lh"], general["rh"])
    roi = folder / f"nsddata/ppdata/{planned.name}/func1pt8mm/roi"
    write_nifti(roi / "nsdgeneral.nii.gz", both)
    for side, here in cortex.items():
        write_nifti(roi / f"{side}.nsdgeneral.nii.gz", general[side])
        for family in ROI_FAMILIES:
            labels = np.where(here, 0, -1).astype(np.float64)
            if family == "prf-visualrois":
                labels[here & (y == 2)], labels[here & (y == 4)] = 1, 4
            write_nifti(roi / f"{side}.{family}.nii.gz", labels)
    where = betas_folder(folder, planned.name, "func1pt8mm")
    ncsnr = rng.uniform(0, 1.5, GRID).astype(np.float32)
    write_nifti(where / "ncsnr.nii.gz", np.where(both >= 0, ncsnr, np.nan).astype(np.float32))
    stored = [np.rint(300 * values).astype(np.int16) for values in drawn_betas(rng, GRID, planned.trials)]
    for number, values in enumerate(stored, start=1):
        values[both < 0] = 0
        name = where / f"betas_session{number:02d}"
        (write_hdf5 if kind == "hdf5" else write_nifti)(name.with_suffix(f".{kind}"), values)
    left = (both == 1) & (general["lh"] == 1)
    voxels = {"lh": np.argwhere(left), "rh": np.argwhere((both == 1) & ~left)}
    return Volume(planned, folder, [values / 300 for values in stored], voxels, ncsnr)


def averages(betas: list[Array], plan: Plan, ids: Array) -> Array:
    """What a store must hold, image by place: means of z-scores within each session; 0 for an image never shown."""
    scores = [(values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True) for values in betas]
    trials = np.concatenate(scores, axis=1)
    shown = plan.ids[: trials.shape[1]]
    nothing = np.zeros(len(trials))
    return np.array([trials[:, shown == number].mean(1) if (shown == number).any() else nothing for number in ids])


def nsd_params(root: Path, planned: Plan, space: str = "fsaverage", **nsd: Any) -> Params:
    """Params of a project whose measured subject lies in NSD's layout in the folder nsd of the data root."""
    name = planned.name
    rendered = {
        key: {"scenes": "train" if key == "train" else "test", "style": "photo", "n": 10} for key in ("train", "val")
    }
    files = {"nsd": {"format": "nsd", "path": "nsd", "subject": name, **nsd}}
    fmri = {"source": "nsd", "subject": name, "space": space, "validation": 0.25, "simulated": {}}
    fmri["files"] = {name: {"format": "nsd", "path": "nsd"}}
    changes = {"sets": SETS, "rendered": rendered, "files": files, "fmri": fmri, "evaluation": {"ood_mean": []}}
    return make_params(root, changes)


def fewer(planned: Plan, sessions: int) -> Plan:
    """The same plan with fewer sessions run."""
    return replace(planned, trials=planned.trials[:sessions])
