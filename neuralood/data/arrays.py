"""Reading .npy files of numbers, never a pickle."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralood.base.errors import UserError
from neuralood.data.files import require_content

MAGIC = b"\x93NUMPY"
NUMBER_KINDS = "biuf"
"""NumPy's kinds of dtype that count as numbers: bool, int, unsigned, float."""


def read_npy(file: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read an array of real numbers; `mapped` leaves it on disk, read-only, until its rows are asked for.

    Raises UserError, naming file and remedy, where it is missing, empty, a Git LFS pointer, no .npy file,
    truncated, or an array of Python objects (a pickle could run any code).
    """
    require_content(file)
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{file} is no .npy file: write it with numpy.save, or download it again")
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "object" in str(error).lower():
            raise UserError(f"{file} holds Python objects (a pickle), not numbers: save plain numbers") from None
        raise UserError(f"{file} is truncated or damaged ({error}): download or copy it again") from None
    if array.dtype.kind not in NUMBER_KINDS:
        raise UserError(f"{file} holds {array.dtype}, not real numbers: save it as float32 or int64")
    return array
