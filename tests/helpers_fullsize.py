"""ImageNet-1k, four OOD sets and NSD subject 1 at their true counts and file sizes, in holes: files that take no space.

Of what is looked at there are true numbers: labels of val, masks, trials, one image a folder, some trials of betas.
"""

import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
from helpers_data import picture
from helpers_nsd import Plan as NsdPlan
from helpers_nsd import betas_folder, write_design, write_mgh, write_responses
from pyarrow import parquet

from neuralood.data.imagenet.ood import A_WNIDS, R_WNIDS
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.rois import ROI_FAMILIES

Array = np.ndarray[Any, Any]

TRAIN, SHARDS, SHARD_BYTES = 1_281_167, 1024, 137_000_000
OOD = {
    "imagenet-a": (A_WNIDS, 7_500),
    "imagenet-r": (R_WNIDS, 30_000),
    "sketch": (WNIDS, 50_889),
    "imagenetv2-matched-frequency-format-val": (tuple(map(str, range(1000))), 10_000),
}
"""Folder -> class folders and images."""
FSAVERAGE, SESSIONS, TRIALS = 163_842, 40, 750
MASK = {"lh": 18_500, "rh": 19_484}
VENTRAL = {"lh": 5_723, "rh": 5_445}
NATIVE = {"lh": 227_021, "rh": 226_601}
STIMULI = (73_000, 425, 425, 3)
MEDIAN_NCSNR = 0.490


def write_fullsize(root: Path) -> None:
    """All of it below the data root."""
    photo = root / "photo.jpg"
    root.mkdir(parents=True)
    picture(size=(40, 30)).save(photo)
    write_train(root / "imagenet" / "train", photo.read_bytes())
    write_val(root / "imagenet" / "val", photo.read_bytes())
    for name, (classes, images) in OOD.items():
        write_folders(root / name, classes, images, photo.read_bytes())
    write_nsd(root / "nsd")


def write_train(folder: Path, photo: bytes) -> None:
    """Shards of which only the first sample is there; the rest is a hole."""
    folder.mkdir(parents=True)
    for number in range(SHARDS):
        file = folder / f"imagenet1k-train-{number:04d}.tar"
        with tarfile.open(file, "w") as tar:
            for name, content in ((f"{number}.jpg", photo), (f"{number}.cls", b"7")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        os.truncate(file, SHARD_BYTES)


def write_val(folder: Path, photo: bytes) -> None:
    """50 rows of each class in 14 files, all of one image."""
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 50))
    for number, part in enumerate(np.array_split(np.arange(50_000), 14)):
        images = [{"bytes": photo, "path": f"ILSVRC2012_val_{row + 1:08d}.JPEG"} for row in part.tolist()]
        table = pyarrow.table({"image": images, "label": rows[part]})
        parquet.write_table(table, folder / f"validation-{number:05d}-of-00014.parquet", row_group_size=100)


def write_folders(folder: Path, classes: tuple[str, ...], images: int, photo: bytes) -> None:
    """So many images over the class folders, hard links to one file."""
    folder.mkdir(parents=True)
    first = folder.with_name(f"{folder.name}.jpg")
    first.write_bytes(photo)
    for row in range(images):
        place = folder / classes[row % len(classes)]
        if row < len(classes):
            place.mkdir()
        os.link(first, place / f"{row:05d}.JPEG")


def write_nsd(folder: Path) -> None:
    """Subject 1 on fsaverage, all sessions."""
    rng = np.random.default_rng(1)
    planned = nsd_plan(rng)
    write_responses(folder, planned)
    write_design(folder, planned)
    stimuli = folder / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    stimuli.parent.mkdir(parents=True)
    with h5py.File(stimuli, "w") as opened:
        opened.create_dataset("imgBrick", STIMULI, np.uint8)  # contiguous, and never written
    for side in ("lh", "rh"):
        write_surface(folder, side, rng)
        for number in range(1, SESSIONS + 1):
            write_betas(betas_folder(folder, "subj01", "fsaverage") / f"{side}.betas_session{number:02d}.mgh", rng)


def nsd_plan(rng: np.random.Generator) -> NsdPlan:
    """10,000 images, each three times, 1,000 of them shared."""
    ids = rng.permutation(STIMULI[0]) + 1
    shared = np.sort(ids[:1000])
    own = ids[1000:].reshape(8, 9000)
    subjectim = np.hstack([np.tile(shared, (8, 1)), own])
    ordering = rng.permutation(np.repeat(np.arange(1, 10_001), 3))
    return NsdPlan(1, subjectim, ordering, shared - 1, (TRIALS,) * SESSIONS)


def write_surface(folder: Path, side: str, rng: np.random.Generator) -> None:
    """Masks, labels and noise ceiling of one hemisphere."""
    places = rng.permutation(FSAVERAGE)
    mask, streams = np.zeros(FSAVERAGE), np.zeros(FSAVERAGE)
    mask[places[: MASK[side]]] = 1
    streams[places[: VENTRAL[side]]] = 5
    label = "nsddata/freesurfer/{}/label/{}.{}.mgz"
    write_mgh(folder / label.format("fsaverage", side, "nsdgeneral"), mask)
    write_mgh(folder / label.format("fsaverage", side, "streams"), streams)
    for family, table in ROI_FAMILIES.items():
        if family != "streams":
            write_mgh(folder / label.format("subj01", side, family), rng.integers(0, len(table) + 1, NATIVE[side]))
    nearest = rng.integers(1, NATIVE[side] + 1, FSAVERAGE)
    write_mgh(folder / f"nsddata/ppdata/subj01/transforms/{side}.white-to-fsaverage.mgz", nearest)
    ncsnr = rng.normal(MEDIAN_NCSNR, 0.1, FSAVERAGE).clip(0)
    write_mgh(betas_folder(folder, "subj01", "fsaverage") / f"{side}.ncsnr.mgh", ncsnr)


def write_betas(file: Path, rng: np.random.Generator) -> None:
    """A session of one hemisphere: the first, the middle and the last trial are there, the others are a hole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = rng.normal(0, 2, FSAVERAGE).astype(">f4").tobytes()
    with file.open("wb") as stream:
        stream.write(struct.pack(">7ih", 1, FSAVERAGE, 1, 1, TRIALS, 3, 0, 0).ljust(284, b"\0"))
        for trial in np.linspace(0, TRIALS - 1, 3).astype(int).tolist():
            stream.seek(284 + trial * len(values))
            stream.write(values)


def write_algonauts(folder: Path, images: int = 9841) -> None:
    """Arrays of subject 1 at their true shapes, of which every tenth row is written, and its masks."""
    for side, width in (("lh", 19_004), ("rh", 20_544)):
        file = folder / f"training_split/training_fmri/{side}_training_fmri.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (images, width)}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.truncate(stream.tell() + 4 * images * width)
        (folder / "roi_masks").mkdir(exist_ok=True)
        for family, table in ROI_FAMILIES.items():
            labels = np.arange(width) % (len(table) + 1)
            np.save(folder / f"roi_masks/{side}.{family}_challenge_space.npy", labels)


def bytes_on_disk(folder: Path) -> int:
    """What files really take, each once."""
    seen = {(stat.st_dev, stat.st_ino): stat.st_blocks for file in folder.rglob("*") if (stat := file.lstat())}
    return 512 * sum(seen.values())


def apparent_bytes(folder: Path) -> int:
    """What files seem to take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def shard_paths() -> tuple[str, ...]:
    """As a list of train's images has them."""
    each = SHARD_BYTES // (TRAIN // SHARDS + 1)
    rows = (divmod(row, TRAIN // SHARDS + 1) for row in range(TRAIN))
    return tuple(f"imagenet1k-train-{shard:04d}.tar::{own * each}+100000/{shard}_{own}.jpg" for shard, own in rows)
