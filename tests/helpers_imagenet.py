"""ImageNet-1k in each of its true layouts, small; every picture's pixels say its class and its number."""

import io
import tarfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from neuralood.config import FileSet, Part
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.listing import Exclusion, Request

INNER_NODES = 7
"""Rows of meta.mat that are no classes."""


@cache
def coded(label: int, number: int = 0) -> bytes:
    """A PNG of 4 x 3 pixels in one colour: label // 256, label % 256, number."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (label // 256, label % 256, number)).save(stream, "PNG")
    return stream.getvalue()


def code_of(image: Image.Image) -> tuple[int, int]:
    """Label and number of a coded picture."""
    high, low, number = np.asarray(image)[0, 0].tolist()
    return 256 * high + low, number


def request(folder: Path, name: str, form: str, **options: Any) -> Request:
    """What a reader is asked for."""
    entry = FileSet(format=form, path=folder.name, **options)  # type: ignore[arg-type]
    return Request(name, entry, folder, Exclusion(entry.exclude), f"files.{name}.path")


def half() -> Part:
    """One part of a folder."""
    return Part("first", 0.5)


def val_name(number: int) -> str:
    """The file name of image `number`, counted from 1."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def val_labels(per_class: int) -> list[int]:
    """Class index of image 1, 2, ... of a val of so many images a class: in no order, as the true one."""
    labels: list[int] = np.random.default_rng(5).permutation(np.repeat(np.arange(1000), per_class)).tolist()
    return labels


def write_val_folders(folder: Path, per_class: int) -> Path:
    """torchvision's layout: val/WNID/ILSVRC2012_val_XXXXXXXX.JPEG."""
    for wnid in WNIDS:
        (folder / wnid).mkdir(parents=True, exist_ok=True)
    for number, label in enumerate(val_labels(per_class), start=1):
        (folder / WNIDS[label] / val_name(number)).write_bytes(coded(label))
    return folder


def write_train_folders(folder: Path, wnids: Iterable[str] = WNIDS, per_class: int = 1) -> Path:
    """WNID/WNID_NUMBER.JPEG."""
    for wnid in wnids:
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            (folder / wnid / f"{wnid}_{10 + number}.JPEG").write_bytes(coded(WNIDS.index(wnid), number))
    return folder


def write_val_flat(folder: Path, per_class: int) -> Path:
    """val/ILSVRC2012_val_XXXXXXXX.JPEG."""
    folder.mkdir(parents=True)
    for number, label in enumerate(val_labels(per_class), start=1):
        (folder / val_name(number)).write_bytes(coded(label))
    return folder


def write_kaggle(file: Path, per_class: int) -> Path:
    """LOC_val_solution.csv: rows in no order, one or more boxes an image, a blank at the end."""
    labels = val_labels(per_class)
    rows = ["ImageId,PredictionString"]
    for index in np.random.default_rng(6).permutation(len(labels)).tolist():
        boxes = " ".join(f"{WNIDS[labels[index]]} 10 20 300 400" for _ in range(1 + index % 2))
        rows.append(f"{val_name(index + 1).removesuffix('.JPEG')},{boxes} ")
    file.write_text("\n".join(rows) + "\n")
    return file


def write_devkit(folder: Path, per_class: int) -> Path:
    """ILSVRC2012_devkit_t12: ids in an order of their own, leaves first, then inner nodes with ids too."""
    data = folder / "data"
    data.mkdir(parents=True)
    order = np.random.default_rng(7).permutation(1000)  # id - 1 -> class index
    nodes = [WNIDS[label] for label in order] + [f"n9{number:07d}" for number in range(INNER_NODES)]
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    synsets = np.zeros((len(nodes), 1), [(name, object) for name in (*fields, "num_train_images")])
    for row, wnid in enumerate(nodes):
        leaf = row < 1000
        children = np.array([], np.uint8) if leaf else np.array([1, 2, 3], np.uint16)
        numbers = (np.uint8(0) if leaf else np.uint8(3), children, np.uint8(0 if leaf else 2), np.uint16(1300))
        synsets[row, 0] = (np.uint16(row + 1), wnid, "tench, Tinca tinca", "a fish", *numbers)
    savemat(data / "meta.mat", {"synsets": synsets})
    id_of = np.argsort(order) + 1
    lines = "".join(f"{id_of[label]}\n" for label in val_labels(per_class))
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    return folder


def write_parquet(file: Path, rows: Sequence[tuple[int, bytes | None, str]], group: int = 100) -> Path:
    """Rows of label, encoded image and its file name, `group` of them to a row group, as Hugging Face has them."""
    import pyarrow as pa
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([{"bytes": content, "path": name} for _, content, name in rows], image),
        "label": pa.array([label for label, _, _ in rows], pa.int64()),
    }
    parquet.write_table(pa.table(columns), file, row_group_size=group)
    return file


def write_val_parquet(folder: Path, per_class: int, files: int = 3, split: str = "validation") -> Path:
    """data/validation-0000N-of-0000M.parquet."""
    labels = val_labels(per_class)
    rows = [(label, coded(label), val_name(number)) for number, label in enumerate(labels, start=1)]
    for index, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        write_parquet(folder / f"{split}-{index:05d}-of-{files:05d}.parquet", [rows[row] for row in part])
    return folder


def write_tar(file: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """A tar of these members, as webdataset writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def write_shards(folder: Path, per_class: int, shards: int = 11, pattern: str = "{}.tar") -> Path:
    """0.tar, 1.tar, ..., 10.tar of KEY.cls and KEY.jpg, in this or the other order."""
    labels = val_labels(per_class)
    for index, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
        members: list[tuple[str | tarfile.TarInfo, bytes]] = []
        for row in rows.tolist():
            key = f"s{row:07d}"
            files = [(f"{key}.cls", str(labels[row]).encode()), (f"{key}.jpg", coded(labels[row], row % 256))]
            members += files if index % 2 else files[::-1]
        write_tar(folder / pattern.format(index), members)
    return folder


def write_brick(file: Path, images: np.ndarray[Any, Any]) -> Path:
    """nsd_stimuli.hdf5: one array imgBrick, I H W 3, uint8."""
    import h5py

    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as opened:
        opened["imgBrick"] = images
    return file
