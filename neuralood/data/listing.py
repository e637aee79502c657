"""Finds image files below a folder: quick for a million of them, and loud about whatever is no image."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import NamedTuple

from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.config import FileSet
from neuralood.data.images import EXTENSIONS, is_image

LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
"""What file managers leave behind, in lower case; hidden files are skipped as well."""

SCANNERS = 8
"""Class folders that are listed at a time: on a network disk each file's size is one answer to wait for."""

MOST_SHOWN = 200
"""Lines of one message."""


class Found(NamedTuple):
    """One image: its path with forward slashes, relative to the set's folder, and size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Request:
    """What a reader of a format is asked for: the set, its entry in `files`, and the folder that this means."""

    name: str
    entry: FileSet
    folder: Path
    excluded: "Exclusion"
    key: str
    """files.NAME.path, for messages."""


class Exclusion:
    """The `exclude` patterns of a set, which notes the ones that matched.

    Patterns are shell-style (`*` also matches slashes) and apply to the path of a file or folder relative to
    the set's folder; an excluded folder is left out with all it holds.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._compiled = {pattern: re.compile(translate(pattern.rstrip("/"))) for pattern in patterns}
        self._unused = set(patterns)

    def covers(self, path: str) -> bool:
        """Whether a path is excluded."""
        hits = {pattern for pattern, compiled in self._compiled.items() if compiled.match(path)}
        self._unused -= hits
        return bool(hits)

    @property
    def unused(self) -> list[str]:
        """Patterns that matched nothing so far, in order."""
        return [pattern for pattern in self._compiled if pattern in self._unused]


def top_level(folder: Path, excluded: Exclusion, key: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files right in `folder`, sorted as strings, without hidden files and litter."""
    entries = [entry for entry in _entries(folder, "", key) if not excluded.covers(entry.name)]
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    return folders, sorted(entry.name for entry in entries if not entry.is_dir())


def class_folders(folder: Path, excluded: Exclusion, key: str) -> list[str]:
    """Names of the class folders in `folder`, sorted as strings.

    `key` names the path in params.yaml for messages. Raises UserError where there are none, where they are
    the splits of a dataset rather than classes, or where images lie beside them.
    """
    classes, files = top_level(folder, excluded, key)
    if not classes:
        found = f"{len(files)} files such as {files[0]}" if files else "nothing"
        raise UserError(f"{folder} ({key}) holds no class folders: expected one folder a class, found {found}")
    splits = {"train", "training", "val", "valid", "validation", "test"}
    if splits.issuperset(name.lower() for name in classes):
        raise UserError(f"{folder} ({key}) holds {', '.join(classes)}, not classes: let the path go one level deeper")
    require_none_loose(folder, files, key)
    return classes


def require_none_loose(folder: Path, files: Sequence[str], key: str) -> None:
    """Raise UserError where there are images among the files beside class folders."""
    loose = [name for name in files if Path(name).suffix.lower() in EXTENSIONS]
    if loose:
        raise UserError(lines(f"{folder} ({key}): images beside the class folders, move or exclude them:", loose))


def scan_images(folder: Path, below: Sequence[str], excluded: Exclusion, key: str) -> dict[str, list[Found]]:
    """Images in each of the sub-folders `below`, at any depth, sorted by path; symbolic links are followed.

    A file with an image extension is taken as it is; any other must begin as an image does. Raises UserError
    that names every file which is no image (or a broken link), and every sub-folder without images.
    """
    found: dict[str, list[Found]] = {}
    strays: list[str] = []
    with ThreadPoolExecutor(SCANNERS) as pool:
        scans = pool.map(lambda name: _scan(folder, name, excluded, key), below)
        for name, (images, odd) in zip(below, track(scans, f"listing {folder.name}", len(below)), strict=True):
            found[name] = images
            strays += odd
    if strays:
        remedy = f"move these files away, or name them (or a pattern) in {exclude_key(key)}:"
        raise UserError(lines(f"{folder} ({key}) holds what is no image; {remedy}", sorted(strays)))
    empty = [name or "." for name, images in found.items() if not images]
    if empty:
        remedy = f"fill it, or name the folder itself in {exclude_key(key)}:"
        raise UserError(lines(f"{folder} ({key}) has a folder without images; {remedy}", empty))
    return found


def _scan(folder: Path, name: str, excluded: Exclusion, key: str) -> tuple[list[Found], list[str]]:
    """Images in one sub-folder, sorted, and what is no image."""
    images, strays = [], []
    for entry, path in _walk(folder, name, excluded, key):
        if not entry.is_file():
            strays.append(f"{path} (broken link)")
        elif os.path.splitext(path)[1].lower() in EXTENSIONS or is_image(Path(entry.path)):
            images.append(Found(path, entry.stat().st_size))
        else:
            strays.append(path)
    return sorted(images), strays


def require_used(excluded: Exclusion, folder: Path, key: str) -> None:
    """Raise UserError for patterns that left nothing out: most likely a typing error."""
    if excluded.unused:
        shown = ", ".join(excluded.unused)
        raise UserError(f"{exclude_key(key)}: {shown} matches nothing in {folder}; correct or remove it")


def _walk(folder: Path, path: str, excluded: Exclusion, key: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Every file below `folder`/`path` that is not excluded, with its path relative to `folder`."""
    pending: list[tuple[str, tuple[str, ...]]] = [(path, (os.path.realpath(folder / path),))]
    while pending:
        path, above = pending.pop()
        for entry in _entries(folder, path, key):
            below = f"{path}/{entry.name}" if path else entry.name
            if excluded.covers(below):
                continue
            if not entry.is_dir():
                yield entry, below
                continue
            real = os.path.realpath(entry.path)
            if real in above:
                raise UserError(f"{entry.path} links back to a folder above itself: exclude {below} ({key})")
            pending.append((below, (*above, real)))


def _entries(folder: Path, path: str, key: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, but for hidden files and litter."""
    try:
        with os.scandir(folder / path) as entries:
            return [entry for entry in entries if not _is_litter(entry.name)]
    except OSError as error:
        raise UserError(f"{folder / path} ({key}) cannot be listed ({error.strerror}): mend the path") from None


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def exclude_key(key: str) -> str:
    """The key in params.yaml of what is left out."""
    return f"{key.removesuffix('.path')}.exclude"


def lines(headline: str, names: Sequence[str]) -> str:
    """A message with a line for each name."""
    shown = list(names[:MOST_SHOWN])
    if len(names) > MOST_SHOWN:
        shown.append(f"... and {len(names) - MOST_SHOWN} more")
    return "\n".join([headline, *(f"  {name}" for name in shown)])
