"""What any data file can suffer from, and the fingerprints that tell whether data are the same."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from neuralood.base.errors import UserError
from neuralood.base.seeding import generator

LFS_POINTER = b"version https://git-lfs"
SAMPLED_FILES = 256
"""Files whose contents enter the fingerprint of a long list; the others count by name, size and label."""


class Listed(NamedTuple):
    """One file of a set: path below the set's folder, with forward slashes, size in bytes, and label."""

    path: str
    size: int
    label: int


def require_content(file: Path) -> None:
    """Raise UserError where a file is missing, empty, or the pointer that Git LFS leaves in its place."""
    try:
        with file.open("rb") as opened:
            head = opened.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{file} cannot be opened ({error.strerror}): put it in place, or mend its path") from None
    if not head:
        raise UserError(f"{file} is empty (0 bytes): download or copy it again")
    if head == LFS_POINTER:
        raise UserError(f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")


def fingerprint_listing(folder: Path, listed: Sequence[Listed]) -> str:
    """SHA-256 (hex) over path, size and label of all files, and over the contents of at most SAMPLED_FILES.

    The sample depends on the listing's length alone, so that no other seed makes equal data look different.
    Raises UserError where a sampled file cannot be read.
    """
    ordered = sorted(listed)
    digest = hashlib.sha256()
    for file in ordered:
        digest.update(f"{file.path}\0{file.size}\0{file.label}\n".encode(errors="surrogateescape"))
    count = min(SAMPLED_FILES, len(ordered))
    sample = generator(0, "fingerprint").choice(len(ordered), count, replace=False) if ordered else ()
    for index in sorted(sample):
        digest.update(_content_hash(folder / ordered[index].path))
    return digest.hexdigest()


def fingerprint_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 (hex) over the names, relative to `folder`, and the whole contents of a few files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + _content_hash(folder / name))
    return digest.hexdigest()


def _content_hash(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): mend or replace it") from None
