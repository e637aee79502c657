"""How many images a folder holds, without a list of them: names are looked at, no image is opened or measured."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.config import FileSet, Params
from neuralood.data.algonauts import subject as algonauts
from neuralood.data.imagenet import objectnet
from neuralood.data.imagenet.corruptions import CORRUPTIONS, SEVERITIES
from neuralood.data.imagenet.layouts import IMAGENET_FORMATS, of_own_split
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.images import EXTENSIONS
from neuralood.data.listing import LITTER
from neuralood.data.nsd import synthetic
from neuralood.data.nsd.space import find_vertices
from neuralood.data.nsd.trials import read_trials

CONTAINERS = frozenset((".tar", ".parquet"))
"""Extensions of files that hold many images each."""

IMAGE_BYTES = 110_000
"""Bytes that an image in a tar is taken to have: ImageNet's photos have that on average."""


@dataclass(frozen=True)
class Tally:
    """What lies below a folder: images in each folder that holds some, and in each container."""

    by_folder: dict[str, int]
    containers: dict[str, float]

    @property
    def classes(self) -> list[str]:
        """Names of the folders that hold images, each once, sorted."""
        return sorted({os.path.basename(path) for path in self.by_folder})

    @property
    def images(self) -> int:
        """Counted; in tars estimated."""
        return sum(self.by_folder.values()) + round(sum(self.containers.values()))

    @property
    def exact(self) -> bool:
        """Whether all images were counted."""
        return not any(path.endswith(".tar") for path in self.containers)


def images_in_folder(params: Params, name: str) -> tuple[int, int] | None:
    """Images and classes of a set of `files`, about; None where its folder is not there or cannot be read."""
    entry = params.files[name]
    folder = paths.data_root() / entry.path
    if not folder.is_dir():
        return None
    try:
        if entry.format == "nsd":
            return len(read_trials(folder, entry.subject or "").images), 0
        if entry.format == "nsdsynthetic":
            return synthetic.SHARED + synthetic.COLOUR, 1
        counted = tally(name, entry, folder)
    except (UserError, OSError):
        return None
    share = 1.0 if entry.part is None else entry.part.fraction
    share = 1 - share if entry.part and entry.part.take == "rest" else share
    classes = len(WNIDS) if entry.format in (*IMAGENET_FORMATS, "imagenet_c") else len(counted.classes)
    return (round(share * counted.images), classes) if counted.images else None


def vertices_in_folder(params: Params) -> int | None:
    """Vertices that the subject's files have, before NaN are left out; None where they cannot be read."""
    entry = params.fmri.files.get(params.fmri.subject)
    if entry is None:
        return None
    folder = paths.data_root() / entry.path
    try:
        if entry.format == "nsd":
            return len(find_vertices(folder, params.fmri.subject, params.fmri.space).hemi)
        return algonauts.read_subject(folder).n_vertices
    except (UserError, OSError):
        return None


def tally(name: str, entry: FileSet, folder: Path) -> Tally:
    """What the set `name` would be read from; nothing where `folder` is not there. Follows links, each folder once.

    Raises OSError where a folder cannot be listed.
    """
    counts: Counter[str] = Counter()
    containers: dict[str, float] = {}
    pending, seen = [str(one) for one in _roots(entry, folder) if one.is_dir()], set[str]()
    while pending:
        place = pending.pop()
        with os.scandir(place) as found:
            for item in found:
                extension = os.path.splitext(item.name)[1].lower()
                if item.name.startswith(".") or item.name.lower() in LITTER:
                    continue
                if item.is_dir():
                    real = os.path.realpath(item.path) if item.is_symlink() else item.path
                    if real not in seen:
                        pending.append(item.path)
                        seen.update({real} if item.is_symlink() else ())
                elif extension in EXTENSIONS:
                    counts[place] += 1
                elif extension in CONTAINERS:
                    containers[item.path] = _images_within(item.path)
    if entry.format == "objectnet":
        counts = Counter(
            {place: count for place, count in counts.items() if os.path.basename(place) in objectnet.CLASSES}
        )
    return Tally(dict(counts), {path: containers[path] for path in of_own_split(name, list(containers))})


def _roots(entry: FileSet, folder: Path) -> Iterable[Path]:
    """The folders that the reader of a format looks into."""
    if entry.format == "algonauts2023":
        return [folder / "training_split" / "training_images"]
    if entry.format == "objectnet" and (folder / "images").is_dir():
        return [folder / "images"]
    if entry.format == "imagenet_c":
        corruptions, severities = entry.corruptions or CORRUPTIONS, entry.severities or SEVERITIES
        return [folder / corruption / str(severity) for corruption in corruptions for severity in severities]
    return [folder]


def _images_within(container: str) -> float:
    """Rows of a parquet file by its own account; of a tar an estimate, as counting would take reading through it."""
    if container.endswith(".parquet"):
        from pyarrow import ArrowInvalid, parquet

        with suppress(ArrowInvalid, OSError):
            rows: int = parquet.read_metadata(container).num_rows
            return rows
    return os.stat(container).st_size / IMAGE_BYTES
