"""Weights as safetensors beside a JSON record, so that nothing is ever unpickled."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuralood.base.errors import UserError
from neuralood.base.records import write_whole


def save_tensors(file: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write tensors, and texts about them, whole or not at all."""
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(file, lambda partial: save_file(ready, partial, about))


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read tensors. Raises UserError that names a missing or damaged file."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{file} is missing or damaged ({error}): run `dvc repro`, which makes it") from None
