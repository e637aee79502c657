"""An encoder on its way from one person to another: a folder of weights (safetensors) and what they are (JSON).

It holds no fMRI and no image, and nothing in it is a pickle.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from neuralood.base import console, paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json
from neuralood.base.weights import fingerprint
from neuralood.config import Params
from neuralood.encoder.image_model import NETWORKS
from neuralood.encoder.trained import IMAGES, RECORD, TOKENS, WEIGHTS, EncoderModel, empty_encoder, load_encoder

FORMAT = "neuralood brain encoder"
VERSION = 2
"""Raised when a reader of this version could not make sense of a folder any more."""

TERMS = (
    "Weights, scores, and which vertex lies in which ROI: no image and no fMRI is in this folder. Whoever shares it "
    "sees to it that the terms of the data that it was trained on, such as those of the Natural Scenes Dataset, allow "
    "that, and cites them."
)

CHECKSUM = "checksum"
"""Key of encoder.json: SHA-256 over all others."""
OF_EXPORT = ("format", "version", "terms", "scores", "ceiling_threshold", CHECKSUM)
"""Keys that encoder.json has in an exported folder only."""

KEYS: dict[str, type] = {
    "reads": str,
    "control": str,
    "trained_on": str,
    "subject": str,
    "space": str,
    "fingerprint": str,
    "epochs": int,
    "roi_names": list,
    "hemi": list,
    "scores": dict,
    "ceiling_threshold": float,
}
KEYS_OF: dict[str, dict[str, type]] = {
    TOKENS: {"sizes": dict, "tokens": dict},
    IMAGES: {"network": str, "preprocessing": dict},
}
"""Keys that encoder.json must have, all encoders and by what they read."""

REMEDY = "copy the whole folder again from where it was exported"

Read = TypeVar("Read")


class Exported(NamedTuple):
    """An exported encoder that was checked: eval mode, its record, and metrics/encoder.json of who trained it."""

    model: EncoderModel
    record: dict[str, Any]
    scores: dict[str, Any]
    ceiling_threshold: float


def export_encoder(folder: Path, params: Params) -> None:
    """data/models/encoder/ and metrics/encoder.json -> a folder that `fmri.imported` can name elsewhere.

    Raises UserError where the folder exists already, and where encoder and metrics are of two runs.
    """
    model, record = load_encoder()
    write_exported(folder, model, record, read_scores(model, record), params.fmri.ceiling_threshold, TERMS)
    console.wrote(folder, f"brain encoder of {record['subject']}, control {record['control']}: weights, no data")


def read_scores(model: EncoderModel, record: dict[str, Any]) -> dict[str, Any]:
    """metrics/encoder.json. Raises UserError where it is of another encoder than data/models/encoder/."""
    scores = read_json(paths.ENCODER_METRICS)
    if (scores.get("n_vertices"), scores.get("subject")) != (model.membership.shape[1], record["subject"]):
        raise UserError(f"{paths.ENCODER_METRICS} and {paths.ENCODER} are of different encoders: run `dvc repro`")
    return scores


def write_exported(
    folder: Path,
    model: EncoderModel,
    record: dict[str, Any],
    scores: dict[str, Any],
    ceiling_threshold: float,
    terms: str,
) -> None:
    """Write an exported folder, whole or not at all. Raises UserError where there is something already."""
    about = {"format": FORMAT, "version": VERSION, "terms": terms}
    of_scores = {"scores": scores, "ceiling_threshold": float(ceiling_threshold)}
    whole = {**record, **about, **of_scores}
    with whole_folder(folder) as partial:
        save_tensors(partial / WEIGHTS, model.state_dict())
        write_json(partial / RECORD, {**whole, CHECKSUM: record_digest(whole)}, compact=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill, which takes its name at the end: nobody sees half of one.

    Raises UserError where there is something already.
    """
    require_free(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def record_digest(record: dict[str, Any]) -> str:
    """SHA-256 (hex) over a record, its own checksum left out."""
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def require_free(folder: Path) -> None:
    """Raise UserError where a folder that is to be written exists."""
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or choose another name")


def read_exported(folder: Path) -> Exported:
    """Read and check an exported folder.

    Raises UserError, one line, where something is missing, damaged, of another version, or contradicts the rest.
    """
    file = folder / RECORD
    record = _readable(read_json, file)
    _require_keys(file, record)
    weights = _readable(load_tensors, folder / WEIGHTS)
    _require_fit(folder, record, weights)
    model, _ = load_encoder(folder)
    if fingerprint(model) != record["fingerprint"]:
        raise UserError(f"{folder / WEIGHTS} has other weights than {RECORD} says: {REMEDY}")
    kept = {key: value for key, value in record.items() if key not in OF_EXPORT}
    return Exported(model, kept, record["scores"], record["ceiling_threshold"])


def _readable(read: Callable[[Path], Read], file: Path) -> Read:
    """What `read` returns, its advice replaced: `dvc repro` does not make what came from elsewhere."""
    if not file.is_file():
        raise UserError(f"{file} is missing: fmri.imported wants the folder that `neuralood export-encoder` wrote")
    try:
        return read(file)
    except UserError:
        raise UserError(f"{file} is damaged: {REMEDY}") from None


def _require_keys(file: Path, record: dict[str, Any]) -> None:
    otherwise = "is of no exported encoder: fmri.imported wants what `neuralood export-encoder` wrote"
    require_sealed(file, record, FORMAT, VERSION, otherwise)
    if record.get("reads") not in KEYS_OF:
        raise UserError(f"{file}: `reads` is {record.get('reads')!r}, wants {' or '.join(KEYS_OF)}: {REMEDY}")
    for key, kind in {**KEYS, **KEYS_OF[record["reads"]]}.items():
        if not isinstance(record.get(key), kind):
            raise UserError(f"{file}: `{key}` is missing, or no {kind.__name__}: {REMEDY}")


def require_sealed(file: Path, record: dict[str, Any], of_format: str, version: int, otherwise: str) -> None:
    """Raise UserError unless a record is as it was written, of this version and format; else `otherwise` is said."""
    if record.get("format") != of_format:
        raise UserError(f"{file} {otherwise}")
    if record.get("version") != version:
        raise UserError(
            f"{file} has version {record.get('version')}, this program reads {version}: update it, or export again"
        )
    if record.get(CHECKSUM) != record_digest(record):
        raise UserError(f"{file} was edited or is damaged (its checksum does not fit): {REMEDY}")


def _require_fit(folder: Path, record: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Weights, sizes, ROI names and hemispheres are of one encoder; nothing large is built to find that out."""
    if record["reads"] == IMAGES and record["network"] not in NETWORKS:
        raise UserError(f"{folder / RECORD}: no network {record['network']}, known are {', '.join(NETWORKS)}")
    try:
        if record["reads"] == TOKENS:
            _require_sizes(record["sizes"], weights)
        empty_encoder(record, weights).load_state_dict(weights, assign=True)
        queries, vertices = weights["membership"].shape
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, ArithmeticError):
        raise UserError(f"{folder / WEIGHTS} does not fit the sizes in {RECORD}: {REMEDY}") from None
    names, hemi = record["roi_names"], record["hemi"]
    named = len(names) <= queries and all(str(name).startswith(("lh.", "rh.")) for name in names)
    if not named or len(hemi) != vertices or not _left_then_right(hemi):
        raise UserError(f"{folder / RECORD}: its ROI names or hemispheres do not fit {WEIGHTS}: {REMEDY}")


def _require_sizes(sizes: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Raise ValueError for what the shapes of weights cannot tell, or would take forever to find."""
    if not 0 < sizes["depth"] <= len(weights) or sizes["heads"] < 1 or sizes["width"] % sizes["heads"]:
        raise ValueError("depth or heads")


def _left_then_right(hemi: list[Any]) -> bool:
    return all(side in (0, 1) for side in hemi) and hemi == sorted(hemi)
