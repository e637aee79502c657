"""The list of a set's images: what every later stage depends on, wherever the images come from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from neuralood.base import paths
from neuralood.base.records import read_json, write_json

UNLABELLED = -1
"""Label of an image without a class."""


@dataclass(frozen=True)
class Manifest:
    """Images of one set in a fixed order; row i of every store of the set is image i.

    `root` says what `folder` is relative to: the project, or the user's data root. `labels` index `classes`.
    `sources` name the image that each one is a version of: versions of one image are resampled together.
    `fingerprint` is a hash of what the images are; a store made from others is refused.
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

    def __len__(self) -> int:
        return len(self.paths)

    def image_files(self) -> list[Path]:
        """Where the images lie, in order."""
        base = (Path() if self.root == "project" else paths.data_root()) / self.folder
        return [base / path for path in self.paths]


def write_manifest(manifest: Manifest) -> Path:
    """Write a set's manifest to its place, and return that."""
    file = paths.manifest(manifest.set_name)
    write_json(file, asdict(manifest), compact=True)
    return file


def read_manifest(set_name: str) -> Manifest:
    """Read a set's manifest. Raises UserError where it is missing or damaged."""
    record: dict[str, Any] = read_json(paths.manifest(set_name))
    for name in ("classes", "paths", "labels", "sources"):
        record[name] = tuple(record[name])
    return Manifest(**record)
