"""Small JSON records, written whole or not at all."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neuralood.base.errors import UserError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as .npz, whole or not at all; equal arrays give equal bytes."""

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    write_whole(path, write)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_whole(path, write)


def write_json(path: Path, record: dict[str, Any], *, compact: bool = False) -> None:
    """Write `record` as JSON with sorted keys; `compact` drops the indentation of long listings.

    Raises ValueError for a number that is not finite: NaN is not JSON.
    """
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    write_text(path, json.dumps(record, sort_keys=True, allow_nan=False, **layout) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError, naming the file, where it is missing or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro`, which makes it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `dvc repro`") from None
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged (not a JSON object): delete it and run `dvc repro`")
    return record


def rounded(value: float, digits: int = 6) -> float:
    """A finite float rounded for a metrics file, so that a difference of 1e-12 shows no row in a diff."""
    if not math.isfinite(value):
        raise ValueError(f"metrics must be finite, got {value}")
    return round(float(value), digits) + 0.0  # + 0.0 turns -0.0 into 0.0
