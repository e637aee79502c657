"""What the report shows, read from the outputs of the stages before it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralood.base import paths
from neuralood.base.records import read_json
from neuralood.base.training import Epoch
from neuralood.config import Params
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.encoder.trained import RECORD as ENCODER_RECORD
from neuralood.predictions import Predictions, read_predictions


@dataclass(frozen=True)
class SetResult:
    """One scored set: its CELL of metrics/classification.json, its images, and what was predicted for them."""

    name: str
    role: str
    cell: dict[str, Any]
    manifest: Manifest
    predictions: Predictions


@dataclass(frozen=True)
class Outputs:
    """The metrics files, the record of the brain encoder, and the scored sets: val first, then params' order."""

    classification: dict[str, Any]
    encoder: dict[str, Any]
    encoder_ood: dict[str, Any]
    encoder_record: dict[str, Any]
    study: dict[str, Any]
    """{} where `neuralood study` was never run."""
    robustness: dict[str, Any]
    humans: dict[str, Any]
    geometry: dict[str, Any]
    sets: tuple[SetResult, ...]

    @property
    def fmri_simulated(self) -> bool:
        """Whether the fMRI is, or that which an imported encoder was trained on."""
        return bool(self.encoder_record["trained_on"] == "simulated")

    @property
    def simulated_sets(self) -> tuple[str, ...]:
        """Scored sets whose images are drawn by the demo."""
        return tuple(one.name for one in self.sets if one.manifest.simulated)


def read_outputs(params: Params) -> Outputs:
    """Read the outputs. Raises UserError, naming the file, where one is missing or damaged."""
    classification = read_json(paths.CLASSIFICATION_METRICS)
    cells = {**classification["id"], **classification["ood"]}
    names = sorted((name for name in params.sets if name in cells), key=lambda name: params.sets[name].role != "val")
    return Outputs(
        classification=classification,
        encoder=read_json(paths.ENCODER_METRICS),
        encoder_ood=_if_there("encoder_ood"),
        encoder_record=read_json(paths.ENCODER / ENCODER_RECORD),
        study=_if_there("study"),
        robustness=_if_there("robustness"),
        humans=_if_there("humans"),
        geometry=_if_there("geometry"),
        sets=tuple(_read_set(name, params.sets[name].role, cells[name]) for name in names),
    )


def read_curve(file: Path) -> list[Epoch]:
    """A training curve; empty where nothing was trained."""
    if not file.exists():
        return []
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    return [Epoch(int(epoch), float(train), float(validation)) for epoch, train, validation in rows]


def _if_there(name: str) -> dict[str, Any]:
    """metrics/NAME.json; {} where there is no such file."""
    file = paths.METRICS / f"{name}.json"
    return read_json(file) if file.exists() else {}


def _read_set(name: str, role: str, cell: dict[str, Any]) -> SetResult:
    return SetResult(name, role, cell, read_manifest(name), read_predictions(paths.evaluation(name)))
