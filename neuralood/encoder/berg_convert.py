"""BERG's pickled .npy files -> one safetensors file. A program of its own, which `berg` starts: it imports nothing of
this project, and the project never imports it.

    python -I berg_convert.py WEIGHTS.npy METADATA.npy OUT.safetensors

Even here nothing is unpickled but what plain arrays and numbers need; a file that wants anything else is refused.
"""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}
"""All that pickles of arrays and NumPy's numbers name."""


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before NumPy 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read_pickled(file: Path) -> dict[str, Any]:
    """The dict that `numpy.save` pickled into a .npy file. Raises where it holds more than arrays and numbers."""
    with file.open("rb") as stream:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(stream)]
        shape, _, dtype = read_header(stream)
        if shape != () or not dtype.hasobject:
            raise ValueError(f"it is an array of {dtype}, {shape}, not a pickled dict")
        content = _Arrays(stream).load().item()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dict")
    return content


def flat(content: dict[Any, Any], above: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Arrays and numbers of nested dicts, each with the keys above it joined by slashes; anything else is left out."""
    for key, value in content.items():
        name = f"{above}/{key}"
        if isinstance(value, dict):
            yield from flat(value, name)
        elif isinstance(value, (int, float, np.generic, np.ndarray)):
            array = np.asarray(value)
            if array.dtype.kind in "biuf":
                yield name, np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def main(weights: str, metadata: str, out: str) -> None:
    """Convert both files of a subject."""
    arrays = dict(flat(read_pickled(Path(weights)), "weights"))
    arrays |= dict(flat(read_pickled(Path(metadata)), "metadata"))
    save_file(arrays, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
