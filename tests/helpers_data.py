"""Small data sets in their true layouts, and params that point at them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from neuralood.config import Params, load_params
from neuralood.data.manifest import UNLABELLED, Manifest
from neuralood.data.rois import ROI_FAMILIES

PROJECT = Path(__file__).resolve().parents[1]
LH, RH = 11, 14
IMAGES = 30
FSAVERAGE = 163_842
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"

SETS = {"nsd": {"role": "fmri"}, "train": {"role": "train"}, "val": {"role": "val"}}


def make_params(work: Path, changes: Mapping[str, Any]) -> Params:
    """The project's params.yaml with `changes` laid over its sections, checked; written to `work`."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    for section, change in changes.items():
        replaced = section in ("sets", "files", "rendered", "made") or not isinstance(change, Mapping)
        content[section] = change if replaced else {**content[section], **change}
    file = work / "changed-params.yaml"
    with file.open("w", encoding="utf-8") as opened:
        yaml.dump(content, opened)
    return load_params(file)


def files_params(work: Path, sets: Mapping[str, Any] | None = None, **files: Mapping[str, Any]) -> Params:
    """Params whose labelled sets come from `files`; nsd, and train or val if not given, are drawn."""
    sets = {**SETS, **{name: {"role": "ood"} for name in files if name not in SETS}, **(sets or {})}
    rendered = {
        name: {"scenes": {"nsd": "nsd", "train": "train"}.get(name, "test"), "style": "photo", "n": 10}
        for name in SETS
        if name not in files
    }
    changes: dict[str, Any] = {"sets": sets, "rendered": rendered, "evaluation": {"ood_mean": []}}
    changes["files"] = {name: {"format": "folders", **entry} for name, entry in files.items()}
    if "nsd" in files:
        changes["files"]["nsd"]["format"] = "algonauts2023"
        changes["fmri"] = fmri_of(files["nsd"]["path"])
    return make_params(work, changes)


def fmri_of(path: str, **more: Any) -> dict[str, Any]:
    """The `fmri` section for a subject's folder below the data root."""
    files = {"subj01": {"format": "algonauts2023", "path": path}}
    return {"source": "algonauts2023", "space": "fsaverage", "simulated": {}, "files": files, **more}


def picture(seed: int = 0, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Random pixels, `size` is width and height."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def write_classes(folder: Path, counts: Mapping[str, int]) -> Path:
    """`folder`/CLASS/NUMBER.png, so many of each class."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(1000 * label + number).save(folder / name / f"{number:03d}.png")
    return folder


def write_nsd_images(folder: Path, count: int = IMAGES) -> Path:
    """An Algonauts subject's training images."""
    images = folder / "training_split" / "training_images"
    images.mkdir(parents=True, exist_ok=True)
    for row in range(count):
        picture(row).save(images / f"train-{row + 1:04d}_nsd-{7 * row + 13:05d}.png")
    return folder


def write_subject(folder: Path, *, optional: bool = True, lh: int = LH, rh: int = RH) -> Path:
    """An Algonauts subject's fMRI: V1v is vertices 0-2 of each hemisphere, EBA 2-4, FFA-1 5 of rh only."""
    rng = np.random.default_rng(3)
    for hemisphere, width in (("lh", lh), ("rh", rh)):
        fmri = rng.standard_normal((IMAGES, width)).astype(np.float32)
        save(folder / f"training_split/training_fmri/{hemisphere}_training_fmri.npy", fmri)
        for family in ROI_FAMILIES:
            labels = np.zeros(width, np.int64)
            if family == "prf-visualrois":
                labels[:3] = 1
            if family == "floc-bodies":
                labels[2:5] = 1
            if family == "floc-faces" and hemisphere == "rh":
                labels[5] = 2
            save(folder / f"roi_masks/{hemisphere}.{family}_challenge_space.npy", labels)
            save(folder / f"roi_masks/mapping_{family}.npy", np.array({0: "Unknown"}, object))
        if optional:
            everywhere = np.zeros(FSAVERAGE, np.int64)
            everywhere[100 : 100 + 2 * width : 2] = 2
            save(folder / f"roi_masks/{hemisphere}.all-vertices_fsaverage_space.npy", everywhere)
            ceiling = np.linspace(0, 0.81, width)
            save(folder / f"test_split/noise_ceiling/{hemisphere}_noise_ceiling.npy", ceiling)
    return folder


def save(file: Path, array: np.ndarray[Any, Any]) -> None:
    """numpy.save with folders made; object arrays are pickled, as in the true layout."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, array, allow_pickle=True)


def nsd_manifest(count: int = IMAGES) -> Manifest:
    """A manifest of unlabelled images that need not exist."""
    names = tuple(f"{row}.png" for row in range(count))
    labels = (UNLABELLED,) * count
    return Manifest("nsd", "data_root", "subj01", False, (), names, labels, names, "images-fingerprint")


def real_data(name: str) -> Path:
    """A folder of real sample data; skips the test where there is none."""
    root = Path(os.environ.get("NEURALOOD_REAL") or PROJECT / ".." / "shared" / "real")
    if not (root / name).is_dir():
        pytest.skip(f"no real sample data {name}: set NEURALOOD_REAL to their folder")
    return (root / name).resolve()


def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty project; returns its data root, data/raw."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)
    root = tmp_path / "data" / "raw"
    root.mkdir(parents=True)
    return root
