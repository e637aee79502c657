"""Images inside one large file, written PATH::MEMBER wherever else the path of an image stands.

    nsd_stimuli.hdf5::2950                  row of the array imgBrick, counted from 0
    val-00000.parquet::17                   row of the column `image`, counted from 0 over all row groups
    train-0000.tar::OFFSET+SIZE/NAME        these bytes of the tar; NAME is for people

Nothing is ever extracted to disk, and nothing in a container can name another file.
"""

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError

MEMBER = re.compile(r"(.+?\.(?:hdf5|h5|tar|parquet))::(.+)", re.DOTALL)
TAR_MEMBER = re.compile(r"(\d{1,18})\+(\d{1,18})(?:/.*)?", re.DOTALL)
ROW = re.compile(r"\d{1,18}")

BRICK = "imgBrick"
"""Array of nsd_stimuli.hdf5: images H W 3 of 8 bits."""

MOST_OPEN = 8
"""Containers that one process keeps open."""

MOST_PADDING = 2**20
"""Bytes that may follow the last member of a tar: more are a hole, as half a download has that was made full size."""

REMEDY = "download or copy it again"

Pixels = npt.NDArray[np.uint8]


class TarMember(NamedTuple):
    """One file of a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int

    def within(self, tar: str) -> str:
        """How a manifest names it: `tar` is the path of the tar below the set's folder."""
        return f"{tar}::{self.offset}+{self.size}/{self.name}"


class _Container(Protocol):
    def __init__(self, file: Path) -> None: ...

    def read(self, member: str) -> bytes | Pixels | None:
        """The member's bytes, or pixels H W 3; None where there is no such member."""

    def close(self) -> None: ...


def split_member(file: Path) -> tuple[Path, str] | None:
    """PATH::MEMBER as its two halves; None for the path of an ordinary file."""
    text = str(file)
    match = MEMBER.fullmatch(text) if "::" in text else None
    return (Path(match[1]), match[2]) if match else None


def container_of(file: Path) -> Path:
    """The file on disk that an image lies in, which is most often the image itself."""
    halves = split_member(file)
    return halves[0] if halves else file


def stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of the file on disk that an image lies in; zeros where it is gone.

    Equal stamps, same image.
    """
    try:
        found = container_of(file).stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def stem_of(path: str) -> str:
    """What to call something made from an image: its file name without extension, for a row `FILE-ROW`."""
    halves = split_member(Path(path))
    if halves and ROW.fullmatch(halves[1]):
        return f"{halves[0].stem}-{halves[1]}"
    return Path(path).stem


def read_member(file: Path) -> bytes | Pixels:
    """The bytes of an encoded image, or its pixels H W 3, of a path PATH::MEMBER.

    Raises UserError, naming the container and the member, where either is not there, empty or damaged.
    """
    halves = split_member(file)
    if halves is None:
        raise ValueError(f"{file} is no member of a container")
    container, member = halves
    try:
        content = _opened(container).read(member)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise UserError(f"{file} cannot be read ({_reason(error)}): {REMEDY}") from None
    if content is None:
        raise UserError(f"{file}: {container.name} has no such member: make the list of images again")
    if not len(content):
        raise UserError(f"{file} is empty (0 bytes): {REMEDY}")
    return content


def member_bytes(file: Path) -> bytes:
    """The same as bytes, pixels row after row."""
    content = read_member(file)
    return content if isinstance(content, bytes) else content.tobytes()


def tar_members(file: Path) -> Iterator[TarMember]:
    """The regular files of an uncompressed tar, in order; only headers are read.

    Raises UserError for links and devices, for names that are absolute or contain `..`, and for a tar that is
    compressed, damaged or cut short.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            for info in tar:
                _require_harmless(file, info)
                if info.isreg():
                    yield TarMember(info.name, info.offset_data, info.size)
            end = tar.offset
        with file.open("rb") as stream:
            stream.seek(end)
            whole = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        whole = whole and file.stat().st_size - end <= MOST_PADDING
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{file} is no uncompressed tar, or damaged ({_reason(error)}): {REMEDY}") from None
    if not whole:  # tarfile takes a broken header for the end
        raise UserError(f"{file} breaks off at byte {end}, where no end of a tar should be: {REMEDY}")


def read_columns(file: Path, columns: Sequence[str]) -> Any:
    """Columns of a parquet file as a pyarrow Table; `image.path` is a field of a column of structs.

    Raises UserError where the file is damaged or has no such column.
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            there = _leaves(opened)
            missing = [name for name in columns if not any(f"{leaf}.".startswith(f"{name}.") for leaf in there)]
            if missing:
                raise UserError(f"{file} has no column {', '.join(missing)}; it has {', '.join(there)}")
            return opened.read(columns=list(columns), use_threads=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no parquet file, or damaged ({_reason(error)}): {REMEDY}") from None


def _leaves(opened: Any) -> list[str]:
    schema = opened.metadata.schema
    return [schema.column(index).path for index in range(len(schema))]


class _Tar:
    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._size = os.fstat(self._descriptor).st_size

    def read(self, member: str) -> bytes | None:
        place = TAR_MEMBER.fullmatch(member)
        if not place:
            return None
        offset, size = int(place[1]), int(place[2])
        return os.pread(self._descriptor, size, offset) if offset + size <= self._size else None

    def close(self) -> None:
        os.close(self._descriptor)


class _Parquet:
    """Keeps the row group that was read last, so that rows in order are each read once."""

    def __init__(self, file: Path) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(file)
        if "image.bytes" not in _leaves(self._file):
            raise ValueError(f"no column image.bytes; it has {', '.join(_leaves(self._file))}")
        groups = range(self._file.metadata.num_row_groups)
        self._starts = np.cumsum([0, *(self._file.metadata.row_group(group).num_rows for group in groups)])
        self._held, self._images = -1, cast(Any, None)

    def read(self, member: str) -> bytes | None:
        row = _row(member, int(self._starts[-1]))
        if row is None:
            return None
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._held:
            self._images = None  # before the next is read: both need not fit
            self._images = self._file.read_row_group(group, columns=["image.bytes"], use_threads=False)["image"]
            self._held = group
        image: dict[str, bytes | None] | None = self._images[row - int(self._starts[group])].as_py()
        content = image and image["bytes"]
        return content or b""

    def close(self) -> None:
        self._file.close()


class _Hdf5:
    def __init__(self, file: Path) -> None:
        import h5py

        self._file = h5py.File(file, "r", locking="best-effort")  # some network disks know no locks
        if BRICK not in self._file:
            raise ValueError(f"no array {BRICK}; it has {', '.join(self._file) or 'none'}")
        self._images = self._file[BRICK]
        if self._images.ndim != 4 or self._images.shape[3] != 3 or self._images.dtype != np.uint8:
            raise ValueError(f"{BRICK} is {self._images.dtype} {self._images.shape}, expected uint8 (I, H, W, 3)")

    def read(self, member: str) -> Pixels | None:
        row = _row(member, len(self._images))
        return None if row is None else np.asarray(self._images[row])

    def close(self) -> None:
        self._file.close()


KINDS: dict[str, type[_Container]] = {".tar": _Tar, ".parquet": _Parquet, ".hdf5": _Hdf5, ".h5": _Hdf5}

_kept: dict[tuple[int, Path, int, int], _Container] = {}
"""What this process has open; the process id is in the key, as a handle that was inherited is of no use."""


def _opened(file: Path) -> _Container:
    """The container, opened in this process, and again where it changed on disk."""
    stat = file.stat()
    key = (os.getpid(), file, stat.st_size, stat.st_mtime_ns)
    if key not in _kept:
        opened = KINDS[file.suffix](file)
        while len(_kept) >= MOST_OPEN:
            _kept.pop(next(iter(_kept))).close()
        _kept[key] = opened
    return _kept[key]


def _row(member: str, rows: int) -> int | None:
    return int(member) if ROW.fullmatch(member) and int(member) < rows else None


def _require_harmless(file: Path, info: tarfile.TarInfo) -> None:
    outside = info.name.startswith("/") or ".." in info.name.split("/")
    if outside or not (info.isreg() or info.isdir()) or info.issparse():
        why = "leads out of the archive" if outside else "is neither a file nor a folder (a link, say)"
        raise UserError(f"{file}: its member {info.name!r} {why}; take the set from its publisher")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
