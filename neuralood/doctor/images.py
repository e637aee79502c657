"""The user's images: is each set where params.yaml says, laid out as its format says, whole, and can it be decoded?"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.config import FMRI_ROLES, FileSet, Params
from neuralood.data.containers import tar_members
from neuralood.data.files import Listing
from neuralood.data.imagenet.corrupted import IMAGES as OF_ONE_CORRUPTION
from neuralood.data.imagenet.corruptions import CORRUPTIONS, SEVERITIES
from neuralood.data.imagenet.expected import shown
from neuralood.data.imagenet.layouts import IMAGENET_FORMATS, TRAIN_IMAGES, WNIDS
from neuralood.data.imagenet.nearest import nearest_format
from neuralood.data.imagenet.wnids import WNIDS_SHA256
from neuralood.data.images import EXTENSIONS, read_image
from neuralood.data.index import check_classes, read_listing
from neuralood.demo.drawing import count_drawn
from neuralood.doctor.findings import Check, Finding, shortened
from neuralood.plan.counts import Tally, tally

SAMPLE = 32
"""Images of a set that are decoded."""

MOST_LISTED = 200_000
"""Sets of more images are counted only: a list of them, which takes the size of each file, is the index stage's."""

TOLERANCE = 0.15
"""Share by which the number of images in containers, which is estimated from bytes, may be off."""

MOST_SEEN = 40
"""Entries of a folder that are looked at for one that may be meant."""

MOST_TRIED = 20
"""Members of a tar that are looked at for a first image."""


def image_checks(params: Params) -> Iterator[Check]:
    """One for each entry of `files`, and one for all sets that need none."""
    yield Check("data root", lambda: _data_root(params))
    for name in params.files:
        yield Check(f"{name}: images", lambda name=name: _look_at_set(params, name))  # type: ignore[misc]
    yield Check("other sets", lambda: _other_sets(params))


def missing_folder(check: str, key: str, path: str, layout: str) -> Finding:
    """The red line of a path below the data root that is not there: what lies in its place, and what may be meant."""
    root = paths.data_root()
    place = next((one for one in (root / path).parents if one.is_dir()), Path())
    there = sorted(child.name for child in islice(place.iterdir(), MOST_SEEN) if not child.name.startswith("."))
    alike = [name for name in there if nearest_format(place / name) == layout]
    hint = f"; {alike[0]} looks like format {layout}" if alike else ""
    found = f"{root / path} is not there; {place} holds {shown(there) or 'nothing'}{hint}"
    remedy = f"mend {key} in params.yaml, which is below {paths.DATA_ROOT_VARIABLE}, or put the data in place"
    return Finding(check, found, "red", remedy)


def _data_root(params: Params) -> Iterator[Finding]:
    root, key = paths.data_root(), paths.DATA_ROOT_VARIABLE
    if not (params.files or params.fmri.files or params.fmri.imported):
        yield Finding("data root", "not needed: nothing in params.yaml is your own")
    elif root.is_dir():
        yield Finding("data root", f"{root.resolve()}")
    else:
        how = f"${key}" if os.environ.get(key) else f"{key} is unset, so it is taken for this folder"
        remedy = f"export {key}=/where/your/data/are, the folder that paths in params.yaml start from"
        yield Finding("data root", f"{root} is no folder ({how})", "red", remedy)


def _other_sets(params: Params) -> Iterator[Finding]:
    if params.rendered:
        count = sum(count_drawn(params, name) for name in params.rendered)
        yield Finding("rendered sets", f"{len(params.rendered)} sets, {count:,} images, drawn by the render stage")
    if params.made:
        made = ", ".join(f"{name} from {entry.source}" for name, entry in params.made.items())
        yield Finding("made sets", f"{made}, by the transform stage")


def _look_at_set(params: Params, name: str) -> Iterator[Finding]:
    entry = params.files[name]
    folder, check = paths.data_root() / entry.path, f"{name}: images"
    if not folder.is_dir():
        gone = missing_folder(check, f"files.{name}.path", entry.path, entry.format)
        cached = paths.tokens(name).is_dir()
        yield Finding(check, f"{gone.found}; its tokens are cached", "note") if cached else gone
        return
    if not any(folder.iterdir()):
        remedy = f"download or link the set to this folder, or mend files.{name}.path"
        yield Finding(check, f"{folder} is empty", "red", remedy)
        return
    counted = tally(name, entry, folder)
    if counted.images > MOST_LISTED:
        yield from _look_at_large(name, entry, folder, counted)
        yield _decode(name, _sample_of_large(params.seed, name, counted))
        return
    try:
        found = _listed(params, name, folder)
    except UserError as error:
        yield Finding(check, shortened(str(error)), "red", _other_format(name, entry.format, folder, str(error)))
        return
    labelled = params.sets[name].role not in FMRI_ROLES
    classes = f"{len(found.classes):,} classes, " if labelled and found.classes else ""
    yield Finding(check, f"{classes}{len(found.images):,} images ({entry.format})")
    if name == "train":
        yield _class_order(found.classes)
    rows = generator(params.seed, "doctor", name).permutation(len(found.images))[:SAMPLE]
    yield _decode(name, [folder / found.images[row].path for row in sorted(rows)])


def _other_format(name: str, own: str, folder: Path, message: str) -> str:
    """What to do about a folder that a reader says looks like another format; nothing where it does not."""
    nearest = nearest_format(folder)
    if nearest in (None, own) or f"looks like format {nearest}" not in message:
        return ""
    return f"if it is {nearest}, set files.{name}.format to that (README, 'Formats'); else complete the copy"


def _listed(params: Params, name: str, folder: Path) -> Listing:
    """What the index stage will list. Raises UserError where it will refuse the folder."""
    found = read_listing(name, params)
    train = params.files.get("train")  # where its folder is not there, that is a red line of its own
    if train is None or (paths.data_root() / train.path).is_dir():
        check_classes(name, found.classes, params, found.members)
    if not found.images:
        raise UserError(f"{folder} (files.{name}.path) holds no image: put the set in place, or mend the path")
    return found


def _look_at_large(name: str, entry: FileSet, folder: Path, counted: Tally) -> Iterator[Finding]:
    """Classes and number of images, by names alone."""
    check, classes = f"{name}: images", _classes(entry, folder, counted)
    about = "" if counted.exact else "about "
    where = f"{len(counted.containers):,} files" if counted.containers else f"{len(classes):,} classes"
    text = f"{where}, {about}{counted.images:,} images ({entry.format}), counted and not listed"
    expected = _expected_images(name, entry)
    enough = expected is None or abs(counted.images - expected) <= (0 if counted.exact else TOLERANCE * expected)
    if enough:
        yield Finding(check, text)
    else:
        yield Finding(check, f"{text}; a whole copy has {expected:,}", "note")
    if not counted.containers and entry.format in (*IMAGENET_FORMATS, "imagenet_c"):
        yield from _strange_classes(check, folder, classes)
    if name == "train" and not counted.containers:
        yield _class_order(classes)


def _classes(entry: FileSet, folder: Path, counted: Tally) -> list[str]:
    """Class folders: those right below the set's folder, but for ImageNet-C, whose corruptions are there."""
    if entry.format == "imagenet_c":
        return counted.classes
    below = {os.path.relpath(path, folder).split(os.sep)[0] for path in counted.by_folder}
    return sorted(below)


def _strange_classes(check: str, folder: Path, classes: Sequence[str]) -> Iterator[Finding]:
    missing, strange = sorted(set(WNIDS) - set(classes)), sorted(set(classes) - set(WNIDS))
    if missing:
        yield Finding(
            check,
            f"{len(missing)} of 1,000 classes have no image: {shown(missing)}",
            "red",
            f"complete {folder}: each class wants its folder, named by its wnid",
        )
    if strange:
        yield Finding(
            check,
            f"{shown(strange)}: none of ImageNet's 1,000 classes",
            "red",
            f"move what is not a class folder out of {folder}: it would shift the classes after it",
        )


def _class_order(classes: Sequence[str]) -> Finding:
    digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    if digest == WNIDS_SHA256:
        return Finding("train: class order", f"ImageNet's 1,000 wnids, ascending (sha256 {digest[:8]}...)")
    return Finding("train: class order", f"{len(classes):,} classes by name: {shown(classes)}")


def _expected_images(name: str, entry: FileSet) -> int | None:
    """Images of a whole copy, where that is known."""
    if entry.part or entry.exclude:
        return None
    if entry.format == "imagenet_c":
        return len(entry.corruptions or CORRUPTIONS) * len(entry.severities or SEVERITIES) * OF_ONE_CORRUPTION
    return TRAIN_IMAGES if name == "train" and entry.format in IMAGENET_FORMATS else None


def _sample_of_large(seed: int, name: str, counted: Tally) -> list[Path]:
    """One image of each of a few folders or containers, drawn by seed."""
    rng = generator(seed, "doctor", name)
    files = []
    for place in _few(rng, counted.by_folder):
        with os.scandir(place) as found:
            images = sorted(one.name for one in found if os.path.splitext(one.name)[1].lower() in EXTENSIONS)
        files.append(Path(place) / images[rng.integers(len(images))])
    return files + [Path(_first_member(container)) for container in _few(rng, counted.containers)]


def _few(rng: np.random.Generator, places: Mapping[str, float]) -> list[str]:
    ordered = sorted(places)
    return [ordered[index] for index in sorted(rng.permutation(len(ordered))[:SAMPLE])]


def _first_member(container: str) -> str:
    """The first image of a container, as a manifest names it. Raises UserError where there is none."""
    if container.endswith(".parquet"):
        return f"{container}::0"
    for member in islice(tar_members(Path(container)), MOST_TRIED):
        if os.path.splitext(member.name)[1].lower() in EXTENSIONS:
            return member.within(container)
    raise UserError(f"{container} has no image among its first {MOST_TRIED} members: take it from its publisher")


def _decode(name: str, files: Sequence[Path]) -> Finding:
    """Whether images can be decoded, and their sizes; names those that cannot."""
    sizes, bad = [], []
    for file in files:
        try:
            sizes.append(read_image(file).size)
        except UserError as error:
            bad.append(str(error).partition(": ")[0])
    if bad:
        text = "\n".join([f"{len(bad)} of {len(files)} cannot be decoded:", *(f"  {line}" for line in bad)])
        remedy = f"replace them, or name them in files.{name}.exclude; so many in a sample means more in the set"
        return Finding(f"{name}: sample", text, "red", remedy)
    sizes.sort(key=lambda size: size[0] * size[1])
    low, middle, high = (f"{width} x {height}" for width, height in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    extent = f"all of {low} px" if low == high else f"{low} to {high} px, median {middle}"
    return Finding(f"{name}: sample", f"{len(files)} images decode, {extent}")
