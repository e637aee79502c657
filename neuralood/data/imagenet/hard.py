"""ImageNet-Hard: what many classifiers get wrong in other sets, with all the labels that are right (Taesiri 2023)."""

import re
from pathlib import Path
from typing import Any

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.data.containers import read_columns
from neuralood.data.files import Listed, Listing
from neuralood.data.imagenet.expected import layout_error, shown
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.listing import Request, top_level

SHARD = re.compile(r"-(\d+)-of-(\d+)\b")
"""Number of a shard, and how many there are, in the name of its file."""


def list_images(request: Request) -> Listing:
    """Rows of the parquet files below the set's folder, in their order; `answers` has all right labels of each.

    Raises UserError where files are missing or come from two revisions, or a row has no right label.
    """
    files = _parquet_files(request)
    images: list[Listed] = []
    answers: list[tuple[int, ...]] = []
    for file in files:
        size = (request.folder / file).stat().st_size
        for row, labels in enumerate(_labels(request.folder / file)):
            path = f"{file}::{row}"
            if not request.excluded.covers(path):
                images.append(Listed(path, size, labels[0]))
                answers.append(labels)
    console.warn(
        f"{request.name}: ImageNet-Hard has {len(images):,} images here; the number moves from revision to revision "
        "(10,980 in the paper), so name yours. It is drawn from other sets (A, R, V2, Sketch, ObjectNet): a mean over "
        "it and them counts images twice"
    )
    return Listing(tuple(images), WNIDS, answers=tuple(answers))


def _parquet_files(request: Request) -> list[str]:
    """Parquet files of one revision at any depth below the folder: their paths, sorted."""
    found = sorted(file.relative_to(request.folder).as_posix() for file in request.folder.rglob("*.parquet"))
    found = [file for file in found if not request.excluded.covers(file)]
    if not found:
        folders, files = top_level(request.folder, request.excluded, request.key)
        there = shown(folders + files) or "nothing"
        raise layout_error(request, "parquet files such as data/validation-00000-of-00005.parquet", there)
    shards = {match[1]: match[2] for match in map(SHARD.search, found) if match}
    totals = sorted(set(shards.values()))
    if len(totals) > 1 or 0 < len(shards) < len(found):
        raise UserError(
            f"{request.folder} ({request.key}) holds parquet files of several revisions (of {' and of '.join(totals)}, "
            f"{len(found)} in all): keep those of one, or exclude the others"
        )
    if totals and len(shards) != int(totals[0]):
        raise UserError(
            f"{request.folder} ({request.key}) has {len(shards)} of {int(totals[0])} parquet files: download the others"
        )
    return found


def _labels(file: Path) -> list[tuple[int, ...]]:
    """The right labels of each row."""
    column = read_columns(file, ["label"])["label"]
    rows: list[Any] = column.to_pylist()
    if not all(isinstance(labels, list) for labels in rows):
        raise UserError(f"{file}: column label holds single labels; ImageNet-Hard has lists, imagenet_parquet has not")
    for row, labels in enumerate(rows):
        if not labels or not all(_is_class(label) for label in labels):
            raise UserError(f"{file}: row {row} has labels {labels}, expected class ids 0 to {len(WNIDS) - 1}")
    return [tuple(dict.fromkeys(labels)) for labels in rows]


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and 0 <= label < len(WNIDS)
