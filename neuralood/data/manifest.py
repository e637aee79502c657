"""The list of a set's images: what every later stage depends on, wherever the images come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json

UNLABELLED = -1
"""Label of an image without a class."""


@dataclass(frozen=True)
class Manifest:
    """Images of one set in a fixed order; row i of every store of the set is image i.

    `root` says what `folder` is relative to: the project, or the user's data root. `labels` index `classes`.
    `sources` name the image that each one is a version of: versions of one image are resampled together.
    `fingerprint` is a hash of what the images are; a store made from others is refused.
    `members`, `answers`, `margin_px`, `cropped` and `linear` are those of neuralood.data.files.Listing.
    """

    set_name: str
    root: Literal["project", "data_root"]
    folder: str
    simulated: bool
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    sources: tuple[str, ...]
    fingerprint: str
    format: str = "folders"
    members: tuple[tuple[str, ...], ...] | None = None
    answers: tuple[tuple[int, ...], ...] | None = None
    margin_px: int = 0
    cropped: bool = False
    linear: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def image_file(self, row: int) -> Path:
        """Where one image lies; PATH::MEMBER (see neuralood.data.containers) where it is inside a container."""
        return self._base() / self.paths[row]

    def image_files(self) -> list[Path]:
        """Where the images lie, in order."""
        base = self._base()
        return [base / path for path in self.paths]

    def _base(self) -> Path:
        return (Path() if self.root == "project" else paths.data_root()) / self.folder


def own_sources(set_name: str, image_paths: Iterable[str]) -> tuple[str, ...]:
    """Sources of images that are versions of nothing but themselves."""
    return tuple(f"{set_name}/{path}" for path in image_paths)


def write_manifest(manifest: Manifest) -> Path:
    """Write a set's manifest to its place, and return that; sources that say nothing new are left out."""
    file, record = paths.manifest(manifest.set_name), dict(vars(manifest))
    if manifest.sources == own_sources(manifest.set_name, manifest.paths):
        record["sources"] = None
    write_json(file, record, compact=True)
    return file


def read_manifest(set_name: str) -> Manifest:
    """Read a set's manifest. Raises UserError where it is missing, damaged, or leads out of its folder."""
    file = paths.manifest(set_name)
    record: dict[str, Any] = read_json(file)
    try:
        if record["sources"] is None:
            record["sources"] = own_sources(record["set_name"], record["paths"])
        for name in ("classes", "paths", "labels", "sources"):
            record[name] = tuple(record[name])
        for name in ("members", "answers"):
            if record.get(name) is not None:
                record[name] = tuple(tuple(entry) for entry in record[name])
        manifest = Manifest(**record)
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and run `dvc repro`") from None
    for path in (manifest.folder, *manifest.paths):
        if path.startswith("/") or (".." in path and ".." in path.split("/")):
            raise UserError(f"{file}: {path} leads out of the set's folder: delete the file and run `dvc repro`")
    return manifest
