"""What any data file can suffer from, and the fingerprints that tell whether data are the same."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.base.seeding import generator
from neuralood.data.containers import container_of, member_bytes

LFS_POINTER = b"version https://git-lfs"
SAMPLED_FILES = 256
"""Files whose contents enter the fingerprint of a long list; the others count by name, size and label."""


class Listed(NamedTuple):
    """One image of a set: path below the set's folder, with forward slashes, size in bytes, and label.

    One inside a container (see neuralood.data.containers) may have the container's size, where its own takes reading.
    """

    path: str
    size: int
    label: int


@dataclass(frozen=True)
class Listing:
    """What the reader of a format found in a set's folder."""

    images: tuple[Listed, ...]
    classes: tuple[str, ...] = ()
    members: tuple[tuple[str, ...], ...] | None = None
    """Names of the training classes that make up each class; None where each is the class of its name."""
    answers: tuple[tuple[int, ...], ...] | None = None
    """All right labels of each image, where there may be several; `images` has the first."""
    sources: tuple[str, ...] | None = None
    """The image that each is a version of; None where each is its own."""
    margin_px: int = 0
    """Pixels to cut off all four sides before anything else."""
    cropped: bool = False
    """Whether images are as the network is to see them: no crop, and no resize at their own size."""
    linear: bool = False
    """Whether pixel values are proportional to luminance; those of other images are about its root."""


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


def fingerprint_listing(folder: Path, found: Listing, *, full: bool = False) -> str:
    """SHA-256 (hex) over path, size and label of all files, and over the contents of at most SAMPLED_FILES.

    The sample depends on the listing's length alone, so that no other seed makes equal data look different; `full`
    takes the contents of all. Raises UserError where a file that is read cannot be.
    """
    order = sorted(range(len(found.images)), key=found.images.__getitem__)
    digest = hashlib.sha256()
    for row in order:
        file = found.images[row]
        digest.update(f"{file.path}\0{file.size}\0{file.label}\n".encode(errors="surrogateescape"))
    if found.margin_px or found.cropped:
        digest.update(f"margin {found.margin_px} cropped {found.cropped}\n".encode())
    if found.linear:
        digest.update(b"linear\n")
    if found.members or found.answers:
        digest.update(f"{found.members} {found.answers}\n".encode())
    sample = order if full else [order[place] for place in _sampled(len(order))]
    hashes = _content_hashes(folder, found, sample)
    for row in sample:
        digest.update(hashes[row])
    return digest.hexdigest()


def fingerprint_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 (hex) over the names, relative to `folder`, and the whole contents of a few files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + _content_hash(folder / name))
    return digest.hexdigest()


def _sampled(count: int) -> list[int]:
    """At most SAMPLED_FILES places among `count`, ascending."""
    sample = generator(0, "fingerprint").choice(count, min(SAMPLED_FILES, count), replace=False) if count else ()
    return sorted(int(place) for place in sample)


def _content_hashes(folder: Path, found: Listing, rows: Sequence[int]) -> dict[int, bytes]:
    """Hash of each row's contents, read in the order of the listing, in which containers are read once."""
    ordered = track(sorted(rows), f"hashing {folder.name}", len(rows))
    return {row: _content_hash(folder / found.images[row].path) for row in ordered}


def _content_hash(file: Path) -> bytes:
    if container_of(file) != file:
        return hashlib.sha256(member_bytes(file)).digest()
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): mend or replace it") from None
