"""Lists a set's images into its manifest: the user's files, what the demo drew, what a transform made."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.config import Params, Part
from neuralood.data.algonauts.images import TRAINING_IMAGES
from neuralood.data.files import Listed, Listing, fingerprint_listing
from neuralood.data.folders import class_listing
from neuralood.data.formats import READERS
from neuralood.data.imagenet.layouts import IMAGENET_FORMATS, WNIDS, wnid_classes
from neuralood.data.listing import Exclusion, Request, class_folders, require_used, scan_images
from neuralood.data.manifest import UNLABELLED, Manifest, own_sources
from neuralood.demo.shapes import CLASS_SHAPES


def index_set(name: str, params: Params) -> Manifest:
    """The manifest of one entry of `files`: images by class, then path, or as they follow each other in containers.

    Raises UserError where the folder is laid out otherwise, holds what is no image, has an empty class, an
    `exclude` that matches nothing, or a class that training does not know.
    """
    entry, found = params.files[name], read_listing(name, params)
    check_classes(name, found.classes, params, found.members)
    if entry.part:
        found = _share(found, entry.part, params.seed, Path(entry.path).as_posix())
    manifest = _manifest(name, paths.data_root() / entry.path, found, full_hash=entry.full_hash)
    return replace(manifest, root="data_root", folder=Path(entry.path).as_posix(), format=entry.format)


def read_listing(name: str, params: Params) -> Listing:
    """What the reader of its format finds in the folder of one entry of `files`, the whole of it, whatever its `part`.

    Raises UserError as index_set does, but for classes that training does not know.
    """
    entry, key = params.files[name], f"files.{name}.path"
    folder, excluded = paths.data_root() / entry.path, Exclusion(entry.exclude)
    found = READERS[entry.format](Request(name, entry, folder, excluded, key))
    require_used(excluded, folder, key)
    return found


def rendered_manifest(name: str, params: Params) -> Manifest:
    """The manifest of a drawn set; one scene has the same source in each of its styles."""
    entry, folder, key = params.rendered[name], paths.rendered(name), f"rendered.{name}"
    if entry.scenes == "nsd":
        images = scan_images(folder, [TRAINING_IMAGES], Exclusion(()), key)[TRAINING_IMAGES]
        found = Listing(tuple(Listed(*image, UNLABELLED) for image in images))
        sources = [f"{name}/{row:05d}" for row in range(len(images))]
    else:
        found = class_listing(folder, Exclusion(()), key)
        of = "nsd" if entry.scenes == "nsd_test" else entry.scenes
        sources = [f"{of}/{Path(image.path).stem}" for image in found.images]
    check_classes(name, found.classes, params)
    found = replace(found, sources=tuple(sources))
    return replace(_manifest(name, folder, found), simulated=True, format="rendered")


def made_manifest(name: str, source: Manifest, made_paths: Sequence[str], *, cropped: bool) -> Manifest:
    """The manifest of a made set: image i is made from image i of `source` and has its label and source."""
    folder = paths.made(name)
    sizes = [(folder / path).stat().st_size for path in made_paths]
    listed = [Listed(*image) for image in zip(made_paths, sizes, source.labels, strict=True)]
    found = Listing(tuple(listed), source.classes, source.members, source.answers, source.sources, cropped=cropped)
    return replace(_manifest(name, folder, found), simulated=source.simulated, format="made")


def check_classes(
    name: str, classes: Sequence[str], params: Params, members: Sequence[Sequence[str]] | None = None
) -> None:
    """Raise UserError, a line a class, where training does not know a class of a val or ood set, or one of its members.

    With a `class_map`, its keys must be the set's classes and its indices those of training classes.
    """
    if params.sets[name].role not in ("val", "ood"):
        return
    known, class_map = training_classes(params), params.sets[name].class_map
    if class_map is None:
        wanted = classes if members is None else sorted({member for group in members for member in group})
        problems = [_unknown_class(name, label, known) for label in wanted if label not in known]
    else:
        problems = _map_problems(name, classes, class_map, len(known))
    if problems:
        raise UserError("\n".join(problems))


def training_classes(params: Params) -> list[str]:
    """Names of the training classes in the order of their indices: ImageNet's are its 1000 sorted wnids."""
    source = params.made["train"].source if "train" in params.made else "train"
    if source in params.rendered:
        return sorted(CLASS_SHAPES)
    entry = params.files[source]
    if entry.format in IMAGENET_FORMATS:
        return list(WNIDS)
    folder, excluded, key = paths.data_root() / entry.path, Exclusion(entry.exclude), f"files.{source}.path"
    if entry.format == "wnid_folders":
        return wnid_classes(Request(source, entry, folder, excluded, key))
    return class_folders(folder, excluded, key)


def _share(found: Listing, part: Part, seed: int, path: str) -> Listing:
    """One part of each class, in the order given; the other part of the same fraction is everything else.

    A class of two images or more has some in both parts; a single image belongs to the first.
    """
    labels = np.array([image.label for image in found.images])
    first = np.zeros(len(labels), bool)
    for label, name in enumerate(found.classes):
        members = generator(seed, "part", path, name).permutation(np.flatnonzero(labels == label))
        count = round(part.fraction * len(members))
        first[members[: max(1, min(count, len(members) - 1))]] = True
    kept = np.flatnonzero(first if part.take == "first" else ~first)
    return replace(
        found,
        images=tuple(found.images[row] for row in kept),
        answers=found.answers and tuple(found.answers[row] for row in kept),
        sources=found.sources and tuple(found.sources[row] for row in kept),
    )


def _manifest(name: str, folder: Path, found: Listing, *, full_hash: bool = False) -> Manifest:
    """A manifest of files in the project; callers replace what is otherwise."""
    return Manifest(
        set_name=name,
        root="project",
        folder=folder.as_posix(),
        simulated=False,
        classes=found.classes,
        paths=tuple(image.path for image in found.images),
        labels=tuple(image.label for image in found.images),
        sources=found.sources or own_sources(name, (image.path for image in found.images)),
        fingerprint=fingerprint_listing(folder, found, full=full_hash),
        members=found.members,
        answers=found.answers,
        margin_px=found.margin_px,
        cropped=found.cropped,
        linear=found.linear,
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
