"""ImageNet-1k: its 1000 classes in their one order, and the layouts in which people have it."""

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.data.containers import TarMember, member_bytes, read_columns, tar_members
from neuralood.data.files import Listed, Listing, require_content
from neuralood.data.imagenet.expected import differing, layout_error, refuse_imagenet_o, shown
from neuralood.data.imagenet.wnids import WNID, WNIDS, class_index, val_source
from neuralood.data.images import EXTENSIONS
from neuralood.data.listing import Request, exclude_key, lines, require_none_loose, scan_images, top_level

__all__ = ["IMAGENET_FORMATS", "READERS", "TRAIN_IMAGES", "VAL_PER_CLASS", "WNIDS", "wnid_classes", "wnid_listing"]

IMAGENET_FORMATS = ("imagenet_folders", "imagenet_flat", "imagenet_parquet", "imagenet_shards")
"""Formats that have all 1000 classes."""

VAL_PER_CLASS = 50
TRAIN_IMAGES = 1_281_167
TRAIN_PER_CLASS = (732, 1300)
"""Images of the smallest and of the largest class of train."""

DEVKIT_ANSWERS = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT_CLASSES = "meta.mat"

HARMLESS_FOLDERS = frozenset(("lost+found", "$recycle.bin", "system volume information"))
"""Folders that file systems make, in lower case."""

SPLIT = re.compile(r"(?:^|[-_.])(train|training|val|valid|validation|test)(?=[-_.])", re.IGNORECASE)
SAMPLE_IMAGES = frozenset(("jpg", "jpeg", "png", "webp"))
"""Extensions of the images in shards."""

LABEL_BYTES, JSON_BYTES = 64, 2**20
"""No label, and no JSON of a sample, is larger."""

Labels = npt.NDArray[np.int64]


class _Sample(NamedTuple):
    """One image of a shard, with the files that may say its label."""

    image: TarMember
    answers: dict[str, TarMember]


def list_folders(request: Request) -> Listing:
    """WNID/*.JPEG of all 1000 classes, sorted by class, then path.

    Raises UserError where these are not the 1000 folders, and where a class of val has not its 50 images.
    """
    listing = wnid_listing(request, WNIDS)
    _check_counts(request, listing.images)
    return listing


def list_wnid_folders(request: Request) -> Listing:
    """WNID/* of any of the 1000 classes, sorted by class, then path."""
    return wnid_listing(request)


def list_flat(request: Request) -> Listing:
    """ILSVRC2012_val_XXXXXXXX.JPEG without folders, sorted by class, then path; labels as `labels` has them."""
    folders, files = top_level(request.folder, request.excluded, request.key)
    images = [name for name in files if Path(name).suffix.lower() in EXTENSIONS]
    numbers = {name: match for name in images if (match := re.match(r"ILSVRC2012_val_(\d{8})\.", name))}
    if not numbers or len(numbers) < len(images):
        odd = [name for name in images if name not in numbers]
        found = f"images such as {shown(odd)}" if odd else f"{len(folders)} folders, {len(files)} files and no image"
        raise layout_error(request, "files named ILSVRC2012_val_00000001.JPEG and so on", found)
    _note_ignored(request, [name for name in (*folders, *files) if name not in numbers])
    label_of = _flat_labels(request)
    unknown = [name for name, match in numbers.items() if int(match[1]) not in label_of]
    if unknown:
        raise UserError(lines(f"{_labels_key(request)}: {request.entry.labels} has no label of:", unknown))
    sizes = {name: (request.folder / name).stat().st_size for name in numbers}
    listed = sorted(
        (Listed(name, sizes[name], label_of[int(match[1])]) for name, match in numbers.items()),
        key=lambda image: (image.label, image.path),
    )
    return _all_classes(request, listed, [image.path for image in listed])


def list_parquet(request: Request) -> Listing:
    """Rows of *.parquet, in their order: `image` has the encoded images, `label` class indices.

    Raises UserError for labels that are no class index, as in the test split.
    """
    listed, names = [], []
    for file, size in console.track(files := _split_files(request, ".parquet"), "reading labels", len(files)):
        table = read_columns(request.folder / file, ["image.path", "label"])
        labels = _class_indices(request.folder / file, table["label"])
        for row, (label, image) in enumerate(zip(labels, table["image"].to_pylist(), strict=True)):
            path = f"{file}::{row}"
            if not request.excluded.covers(path):
                listed.append(Listed(path, size, label))
                names.append((image or {}).get("path") or "")
    return _all_classes(request, listed, names)


def list_shards(request: Request) -> Listing:
    """Images in *.tar, in their order: KEY.jpg (or .jpeg, .png, .webp) with its class index in KEY.cls or KEY.json.

    Samples of label -1 are left out. Raises UserError where an image has no label, or a label no image.
    """
    listed = []
    for file, _ in console.track(files := _split_files(request, ".tar"), "listing shards", len(files)):
        for key, sample in _samples(request.folder / file).items():
            path = sample.image.within(file)
            if request.excluded.covers(path):
                continue
            label = _sample_label(request.folder / file, key, sample)
            if label >= 0:
                listed.append(Listed(path, sample.image.size, label))
    return _all_classes(request, listed, [image.path for image in listed])


READERS: dict[str, Callable[[Request], Listing]] = {
    "imagenet_folders": list_folders,
    "imagenet_flat": list_flat,
    "imagenet_parquet": list_parquet,
    "imagenet_shards": list_shards,
    "wnid_folders": list_wnid_folders,
}
"""Format in params.yaml -> its reader."""


def wnid_classes(request: Request) -> list[str]:
    """The class folders of a set, sorted: wnids among the 1000, whatever harmless files lie beside them.

    Raises UserError for other folders, as each would shift the classes after it, and for images beside the folders.
    """
    folders, files = top_level(request.folder, request.excluded, request.key)
    harmless = [name for name in folders if name.lower() in HARMLESS_FOLDERS]
    wnids = [name for name in folders if WNID.fullmatch(name)]
    if not wnids:
        expected = f"a folder for each class, named by its wnid as {WNIDS[0]} is"
        raise layout_error(request, expected, f"{len(folders)} folders, {len(files)} files: {shown(folders + files)}")
    require_none_loose(request.folder, files, request.key)
    odd = [name for name in folders if name not in harmless and name not in WNIDS]
    if odd:
        raise UserError(
            f"{request.folder} ({request.key}): {shown(odd)} is no wnid of ImageNet's 1000 classes: "
            f"move it away, or name it in {exclude_key(request.key)}"
        )
    refuse_imagenet_o(request, wnids)
    _note_ignored(request, harmless + files)
    return wnids


def wnid_listing(request: Request, wnids: Sequence[str] | None = None) -> Listing:
    """Images of a set whose folders must be exactly `wnids`, or may be any of them; sorted by class, then path.

    Files named as val's images are versions of them. Raises UserError where a folder is missing, or one too many.
    """
    found = wnid_classes(request)
    wanted = found if wnids is None else sorted(wnids)
    if found != wanted:
        raise layout_error(request, f"the folders of {len(wanted)} classes", differing(found, wanted))
    images = scan_images(request.folder, wanted, request.excluded, request.key)
    listed = [Listed(*image, label) for label, name in enumerate(wanted) for image in images[name]]
    return Listing(tuple(listed), tuple(wanted), sources=_sources(request, listed, [image.path for image in listed]))


def _all_classes(request: Request, listed: Sequence[Listed], names: Sequence[str]) -> Listing:
    """A listing of all 1000 classes, its counts checked; `names` are the images' own file names."""
    _check_counts(request, listed)
    return Listing(tuple(listed), WNIDS, sources=_sources(request, listed, names))


def _sources(request: Request, listed: Sequence[Listed], names: Sequence[str]) -> tuple[str, ...] | None:
    """What each image is a version of; None where no image is named as val's are."""
    sources = [val_source(name) for name in names]
    if not any(sources):
        return None
    own = (f"{request.name}/{image.path}" for image in listed)
    return tuple(source or alone for source, alone in zip(sources, own, strict=True))


def _check_counts(request: Request, images: Sequence[Listed]) -> None:
    """Whether val has 50 images a class, and train as many as it should.

    What is missing of val is a UserError where nothing was left out on purpose, else a warning, as it is for train;
    images too many are always an error, as no exclusion explains them.
    """
    counts = np.bincount([image.label for image in images], minlength=len(WNIDS))
    empty = [WNIDS[label] for label in np.flatnonzero(counts == 0)]
    place = f"{request.folder} ({request.key})"
    if request.name == "val":
        _check_val(request, counts, place)
    elif empty:
        raise UserError(f"{place} has no image of {len(empty)} classes: {shown(empty)}; add what is missing")
    elif request.name == "train":
        _check_train(request, counts, place)


def _check_val(request: Request, counts: Labels, place: str) -> None:
    wrong = np.flatnonzero(counts != VAL_PER_CLASS)
    if not len(wrong):
        return
    said = shown([f"{WNIDS[label]} has {counts[label]}" for label in wrong])
    message = (
        f"{place} has {counts.sum():,} images, ImageNet's val {VAL_PER_CLASS * len(WNIDS):,}; "
        f"{len(wrong)} classes have not {VAL_PER_CLASS} images: {said}"
    )
    if request.entry.part or (request.entry.exclude and counts.max() <= VAL_PER_CLASS):
        console.warn(message)
    else:
        raise UserError(f"{message}. Complete the copy, or name what is known to be bad in {exclude_key(request.key)}")


def _check_train(request: Request, counts: Labels, place: str) -> None:
    if (counts == VAL_PER_CLASS).all() and not request.entry.part:
        raise UserError(f"{place} has {VAL_PER_CLASS} images a class, as val has: let the path lead to train's images")
    total, (fewest, most) = int(counts.sum()), TRAIN_PER_CLASS
    if total != TRAIN_IMAGES:
        odd = np.count_nonzero((counts < fewest) | (counts > most))
        console.warn(
            f"{place} has {total:,} images, ImageNet's train {TRAIN_IMAGES:,}; "
            f"{odd} of {len(WNIDS)} classes have not {fewest} to {most} images"
        )


def _note_ignored(request: Request, names: Sequence[str]) -> None:
    if names:
        console.note(f"{request.folder} ({request.key}): ignoring {shown(names)}")


def _split_files(request: Request, suffix: str) -> list[tuple[str, int]]:
    """Name and size of the set's container files in natural order; of its own split, where several lie there.

    Raises UserError where there is none.
    """
    folders, files = top_level(request.folder, request.excluded, request.key)
    names = sorted((name for name in files if name.endswith(suffix)), key=_natural)
    archives = [name for name in names if name.startswith("ILSVRC2012_") or WNID.match(name)]
    if archives:
        raise UserError(f"{request.folder} ({request.key}): {archives[0]} is an archive of ImageNet's own: unpack it")
    own = of_own_split(request.name, names)
    if not own:
        split = "train" if request.name == "train" else "val"
        found = shown(names or folders + files) or "nothing"
        raise layout_error(request, f"*{suffix} files, and {split} in their names where there are splits", found)
    for name in own:
        require_content(request.folder / name)
    return [(name, (request.folder / name).stat().st_size) for name in own]


def of_own_split(set_name: str, names: Sequence[str]) -> list[str]:
    """Those files of a set's own split, train or val, where names tell several splits apart; all of them otherwise."""
    splits = [_split_of(name) for name in names]
    own = "train" if set_name == "train" else "val"
    return [name for name, split in zip(names, splits, strict=True) if split == own or len(set(splits)) < 2]


def _split_of(name: str) -> str | None:
    match = SPLIT.search(os.path.basename(name))
    return {"tra": "train", "val": "val", "tes": "test"}[match[1].lower()[:3]] if match else None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts 2.tar before 10.tar."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _class_indices(file: Path, column: Any) -> list[int]:
    labels: list[Any] = column.to_pylist()
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < len(WNIDS)]
    if wrong:
        hint = "the test split's labels are not public, take train or validation" if -1 in wrong else "replace it"
        raise UserError(f"{file} has label {wrong[0]!r}, expected class indices 0 to {len(WNIDS) - 1}: {hint}")
    return labels


def _samples(file: Path) -> dict[str, _Sample]:
    """Samples of a shard by their key, which is what their files' names have before the first dot."""
    images: dict[str, TarMember] = {}
    answers: dict[str, dict[str, TarMember]] = {}
    for member in tar_members(file):
        above, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key, extension = f"{above}/{stem}".lstrip("/"), extension.lower()
        if extension in SAMPLE_IMAGES:
            if key in images:
                raise UserError(f"{file} has two images of sample {key}: take the shard from its publisher")
            images[key] = member
        elif extension in ("cls", "json"):
            answers.setdefault(key, {})[extension] = member
    alone = [key for key, files in answers.items() if "cls" in files and key not in images]
    if alone or not images:
        what = f"a label but no image of sample {alone[0]}" if alone else "no image"
        raise UserError(f"{file} has {what}; images are KEY.jpg, .jpeg, .png or .webp: download the shard again")
    return {key: _Sample(image, answers.get(key, {})) for key, image in images.items()}


def _sample_label(file: Path, key: str, sample: _Sample) -> int:
    """The class index of a sample; -1 where it is to be left out."""
    for extension, most_bytes in (("cls", LABEL_BYTES), ("json", JSON_BYTES)):
        member = sample.answers.get(extension)
        if member is None:
            continue
        content = member_bytes(Path(member.within(str(file)))) if member.size <= most_bytes else b""
        label = _parsed_label(content, extension)
        if label is None or not -1 <= label < len(WNIDS):
            text = f"expected a class index, 0 to {len(WNIDS) - 1}, or -1 for none, got {content[:20]!r}"
            raise UserError(f"{file}: {member.name}: {text}; download the shard again")
        return label
    raise UserError(f"{file}: sample {key} has no label, expected {key}.cls or {key}.json: download the shard again")


def _parsed_label(content: bytes, extension: str) -> int | None:
    try:
        label = json.loads(content)["label"] if extension == "json" else int(content.decode("ascii"))
    except (ValueError, KeyError, TypeError):
        return None
    return label if isinstance(label, int) else None


def _labels_key(request: Request) -> str:
    return f"{request.key.removesuffix('path')}labels"


def _flat_labels(request: Request) -> dict[int, int]:
    """Number of each image of val -> class index, from Kaggle's CSV or the devkit, whichever `labels` names."""
    assert request.entry.labels is not None  # config checks it
    place, key = paths.data_root() / request.entry.labels, _labels_key(request)
    answers = next((file for file in (place / DEVKIT_ANSWERS, place / "data" / DEVKIT_ANSWERS) if file.exists()), None)
    answers = answers or (place if place.is_file() and place.suffix == ".txt" else None)
    if answers:
        return _devkit_labels(answers, key)
    if place.is_file():
        return _kaggle_labels(place, key)
    found = "a folder without these" if place.is_dir() else "nothing"
    raise UserError(
        f"{place} ({key}): expected Kaggle's LOC_val_solution.csv, or the devkit's folder with "
        f"data/{DEVKIT_ANSWERS} and data/{DEVKIT_CLASSES}, found {found}"
    )


def _kaggle_labels(file: Path, key: str) -> dict[int, int]:
    """From ImageId and the first word of PredictionString; rows are in no order."""
    require_content(file)
    labels = {}
    with file.open(newline="", encoding="utf-8-sig") as opened:
        rows = csv.DictReader(opened)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            found = ",".join(rows.fieldnames or ())[:80]
            raise UserError(f"{file} ({key}): expected Kaggle's CSV of ImageId,PredictionString, found {found}")
        for line, row in enumerate(rows, start=2):
            number = re.fullmatch(r"ILSVRC2012_val_(\d{8})", row["ImageId"] or "")
            wnid = (row["PredictionString"] or "").split(" ", 1)[0]
            if not number or wnid not in WNIDS:
                raise UserError(f"{file} ({key}): line {line} is {row['ImageId']},{wnid}: take LOC_val_solution.csv")
            labels[int(number[1])] = class_index(wnid)
    return labels


def _devkit_labels(file: Path, key: str) -> dict[int, int]:
    """Line i is the devkit's own id of image i, which meta.mat beside it maps to a wnid."""
    require_content(file)
    class_of = _devkit_classes(file.with_name(DEVKIT_CLASSES), key)
    labels = {}
    for number, line in enumerate(file.read_text(encoding="ascii", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        if line.strip() not in class_of:
            raise UserError(f"{file} ({key}): line {number} is {line[:40]!r}, expected an id, 1 to 1000: replace it")
        labels[number] = class_of[line.strip()]
    return labels


def _devkit_classes(file: Path, key: str) -> dict[str, int]:
    """The devkit's id, as text -> class index. Inner nodes of the tree have ids too, and are no classes."""
    from scipy.io import loadmat

    require_content(file)
    try:
        synsets = np.atleast_1d(loadmat(file, squeeze_me=True)["synsets"])
        leaves = synsets[np.array([int(count) == 0 for count in synsets["num_children"]])]
        class_of = {str(int(entry["ILSVRC2012_ID"])): class_index(str(entry["WNID"])) for entry in leaves}
    except UserError as error:
        raise UserError(f"{file} ({key}): {error}") from None
    except Exception as error:  # scipy raises whatever its parser runs into
        raise UserError(f"{file} ({key}) is no meta.mat of the ILSVRC2012 devkit ({error}): replace it") from None
    if sorted(class_of.values()) != list(range(len(WNIDS))):
        raise UserError(f"{file} ({key}) has {len(class_of)} classes, expected {len(WNIDS)}: take ILSVRC2012's devkit")
    return class_of
