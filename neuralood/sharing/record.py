"""What an exported model says of itself: model.json, and the files beside it, checked before anything is built."""

import json
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from neuralood.base.errors import UserError
from neuralood.base.records import read_json
from neuralood.config import STRICT, Positive, Variant
from neuralood.encoder import trained
from neuralood.encoder.exported import CHECKSUM, REMEDY, record_digest, require_sealed
from neuralood.fusion.model import FusionSizes
from neuralood.fusion.trained import FUSION, PROBE, seed_folder

MODEL = "model.json"
ENCODER = Path("encoder")
"""The brain encoder, laid out as `neuralood export-encoder` does it."""

FORMAT = "neuralood fusion model"
VERSION = 1
"""Raised when a reader of this version could not make sense of a folder any more."""


@dataclass(frozen=True, config=STRICT)
class WeightsFile:
    """The file below NEURALOOD_DATA that the backbone's weights were taken from."""

    name: str
    sha256: str


@dataclass(frozen=True, config=STRICT)
class ModelRecord:
    """model.json without its format, version and checksum.

    `classes` are named as in training (folders or wnids), `names` as people call them. `weights_file` is None where the
    backbone's weights come from the hub or a package. `files` are those of the folder but model.json and the card,
    each with its SHA-256. `classification` is metrics/classification.json, `provenance` what the model was made of.
    """

    variant: Variant
    seeds: Positive
    sizes: FusionSizes
    classes: tuple[str, ...]
    names: tuple[str, ...]
    weights_file: WeightsFile | None
    files: dict[str, str]
    classification: dict[str, Any]
    provenance: dict[str, Any]


def as_json(record: ModelRecord) -> dict[str, Any]:
    """All of model.json."""
    whole = {**asdict(record), "format": FORMAT, "version": VERSION}
    return {**whole, CHECKSUM: record_digest(whole)}


def files_of(seeds: int) -> list[str]:
    """Files of an exported model of so many seeds, model.json and the card left out."""
    encoder = [ENCODER / name for name in (trained.RECORD, trained.WEIGHTS)]
    models = [seed_folder(number, Path()) / name for number in range(seeds) for name in (FUSION, PROBE)]
    return [path.as_posix() for path in (*encoder, *models)]


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, hex."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def read_record(folder: Path) -> ModelRecord:
    """Read model.json. Raises UserError, one line, where it or a file that it lists is missing, edited or damaged."""
    file = folder / MODEL
    if not file.is_file():
        raise UserError(f"{folder} holds no exported model ({MODEL}): name a folder that `neuralood export` wrote")
    record = _validated(file, _unsealed(file))
    if len(record.files) != len(files_of(0)) + 2 * record.seeds or set(record.files) != set(files_of(record.seeds)):
        raise UserError(f"{file} lists other files than {record.seeds} seed(s) have: {REMEDY}")
    for name, digest in record.files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {REMEDY}")
        if sha256_of(folder / name) != digest:
            raise UserError(f"{folder / name} was edited or is damaged (its SHA-256 does not fit {MODEL}): {REMEDY}")
    return record


def _unsealed(file: Path) -> dict[str, Any]:
    """model.json without format, version and checksum, which are those that this program writes."""
    try:
        record = read_json(file)
    except UserError:
        raise UserError(f"{file} is damaged: {REMEDY}") from None
    otherwise = "is of no exported model: name a folder that `neuralood export` wrote"
    require_sealed(file, record, FORMAT, VERSION, otherwise)
    return {key: value for key, value in record.items() if key not in ("format", "version", CHECKSUM)}


def _validated(file: Path, record: dict[str, Any]) -> ModelRecord:
    try:
        checked = TypeAdapter(ModelRecord).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {where}: {first['msg']}: {REMEDY}") from None
    alike = len(checked.classes) == len(checked.names) == checked.sizes.classes
    if not alike or checked.variant != checked.sizes.variant:
        raise UserError(f"{file}: its classes, names, variant and sizes contradict each other: {REMEDY}")
    return checked
