"""Lists a set's images into its manifest: the user's files, what the demo drew, what a transform made."""

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.config import FileSet, Params, Part
from neuralood.data.files import Listed, fingerprint_listing
from neuralood.data.listing import Exclusion, class_folders, require_used, scan_images
from neuralood.data.manifest import UNLABELLED, Manifest
from neuralood.demo.shapes import CLASS_SHAPES

TRAINING_IMAGES = "training_split/training_images"
"""Where Algonauts 2023 keeps the images that were measured; sorted names are the rows of the fMRI."""

ROW_NAME = re.compile(r"train-0*(\d+)_nsd-\d+\.png$")
"""Name of an Algonauts image; the number is its fMRI row, counted from 1."""


def index_set(name: str, params: Params) -> Manifest:
    """The manifest of one entry of `files`, images sorted by class, then path.

    Raises UserError where the folder is laid out otherwise, holds what is no image, has an empty class, an
    `exclude` that matches nothing, or a class that training does not know.
    """
    entry = params.files[name]
    folder, excluded = paths.data_root() / entry.path, Exclusion(entry.exclude)
    classes: tuple[str, ...] = ()
    if entry.format == "algonauts2023":
        listed = _list_algonauts(folder, entry, excluded, f"files.{name}.path")
    else:
        listed, classes = _list_folders(folder, excluded, f"files.{name}.path")
    require_used(excluded, folder, f"files.{name}.path")
    check_classes(name, classes, params)
    if entry.part:
        listed = _share(listed, classes, entry.part, params.seed, Path(entry.path).as_posix())
    sources = [f"{name}/{image.path}" for image in listed]
    manifest = _manifest(name, folder, listed, classes, sources)
    return replace(manifest, root="data_root", folder=Path(entry.path).as_posix())


def rendered_manifest(name: str, params: Params) -> Manifest:
    """The manifest of a drawn set; one scene has the same source in each of its styles."""
    entry, folder, key = params.rendered[name], paths.rendered(name), f"rendered.{name}"
    classes: tuple[str, ...] = ()
    if entry.scenes == "nsd":
        found = scan_images(folder, [TRAINING_IMAGES], Exclusion(()), key)[TRAINING_IMAGES]
        listed = [Listed(*image, UNLABELLED) for image in found]
        sources = [f"nsd/{row:05d}" for row in range(len(listed))]
    else:
        listed, classes = _list_folders(folder, Exclusion(()), key)
        sources = [f"{entry.scenes}/{Path(image.path).stem}" for image in listed]
    check_classes(name, classes, params)
    return replace(_manifest(name, folder, listed, classes, sources), simulated=True)


def made_manifest(name: str, source: Manifest, made_paths: Sequence[str]) -> Manifest:
    """The manifest of a made set: image i is made from image i of `source` and has its label and source."""
    folder = paths.made(name)
    sizes = [(folder / path).stat().st_size for path in made_paths]
    listed = [Listed(*image) for image in zip(made_paths, sizes, source.labels, strict=True)]
    return replace(
        _manifest(name, folder, listed, source.classes, source.sources),
        simulated=source.simulated,
    )


def check_classes(name: str, classes: Sequence[str], params: Params) -> None:
    """Raise UserError, a line a class, where training does not know a class of a val or ood set.

    With a `class_map`, its keys must be the set's classes and its indices those of training classes.
    """
    if params.sets[name].role not in ("val", "ood"):
        return
    known, class_map = training_classes(params), params.sets[name].class_map
    if class_map is None:
        problems = [_unknown_class(name, label, known) for label in classes if label not in known]
    else:
        problems = _map_problems(name, classes, class_map, len(known))
    if problems:
        raise UserError("\n".join(problems))


def training_classes(params: Params) -> list[str]:
    """Names of the training classes in the order of their indices."""
    source = params.made["train"].source if "train" in params.made else "train"
    if source in params.rendered:
        return sorted(CLASS_SHAPES)
    entry = params.files[source]
    return class_folders(paths.data_root() / entry.path, Exclusion(entry.exclude), f"files.{source}.path")


def _list_folders(folder: Path, excluded: Exclusion, key: str) -> tuple[list[Listed], tuple[str, ...]]:
    classes = class_folders(folder, excluded, key)
    found = scan_images(folder, classes, excluded, key)
    listed = [Listed(*image, label) for label, name in enumerate(classes) for image in found[name]]
    return listed, tuple(classes)


def _list_algonauts(folder: Path, entry: FileSet, excluded: Exclusion, key: str) -> list[Listed]:
    """Images in the order of the fMRI's rows. Raises UserError where their numbers do not run 1, 2, 3, ..."""
    if entry.part:
        raise UserError(f"{key.removesuffix('path')}part: the images of measured fMRI are not shared out; remove it")
    if not (folder / TRAINING_IMAGES).is_dir():
        shown = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) if folder.is_dir() else "no folder"
        raise UserError(f"{folder} ({key}): expected an Algonauts 2023 subject with {TRAINING_IMAGES}, found {shown}")
    images = scan_images(folder, [TRAINING_IMAGES], excluded, key)[TRAINING_IMAGES]
    for row, image in enumerate(images, start=1):
        match = ROW_NAME.search(image.path)
        if not match or int(match[1]) != row:
            raise UserError(
                f"{folder / image.path}: expected train-{row:04d}_nsd-*.png here, as that is fMRI row {row}; "
                "put the missing image back, or move a stray one away"
            )
    return [Listed(*image, UNLABELLED) for image in images]


def _share(listed: list[Listed], classes: Sequence[str], part: Part, seed: int, path: str) -> list[Listed]:
    """One part of each class, in the order given; the other part of the same fraction is everything else.

    A class of two images or more has some in both parts; a single image belongs to the first.
    """
    labels = np.array([image.label for image in listed])
    first = np.zeros(len(listed), bool)
    for label, name in enumerate(classes):
        members = generator(seed, "part", path, name).permutation(np.flatnonzero(labels == label))
        count = round(part.fraction * len(members))
        first[members[: max(1, min(count, len(members) - 1))]] = True
    kept = first if part.take == "first" else ~first
    return [image for image, keep in zip(listed, kept, strict=True) if keep]


def _manifest(
    name: str, folder: Path, listed: Sequence[Listed], classes: Sequence[str], sources: Sequence[str]
) -> Manifest:
    """A manifest of files in the project; callers replace what is otherwise."""
    return Manifest(
        set_name=name,
        root="project",
        folder=folder.as_posix(),
        simulated=False,
        classes=tuple(classes),
        paths=tuple(image.path for image in listed),
        labels=tuple(image.label for image in listed),
        sources=tuple(sources),
        fingerprint=fingerprint_listing(folder, listed),
    )


def _unknown_class(name: str, label: str, known: Sequence[str]) -> str:
    near = get_close_matches(label, known, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return (
        f"{name}: class '{label}' is unknown to training{hint}: rename its folder, "
        f"add it to files.{name}.exclude, or map it in sets.{name}.class_map"
    )


def _map_problems(name: str, classes: Sequence[str], class_map: dict[str, list[int]], n_classes: int) -> list[str]:
    key = f"sets.{name}.class_map"
    return [
        *(
            f"{key}: class '{label}' is missing: map it, or exclude its folder"
            for label in classes
            if label not in class_map
        ),
        *(
            f"{key}.{label}: no such class in the set; remove or rename it"
            for label in class_map
            if label not in classes
        ),
        *(
            f"{key}.{label}: {max(indices)} is no training class, they are 0 to {n_classes - 1}; correct it"
            for label, indices in class_map.items()
            if max(indices) >= n_classes
        ),
    ]
