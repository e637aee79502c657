"""data/models/ and metrics/ -> one folder that others can predict with."""

import json
import platform
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json, write_text
from neuralood.base.store import open_store
from neuralood.config import Params
from neuralood.data.imagenet.wnids import spoken
from neuralood.data.manifest import read_manifest
from neuralood.encoder.exported import TERMS, read_scores, require_free, whole_folder, write_exported
from neuralood.encoder.trained import IMAGES, EncoderModel, load_encoder
from neuralood.fusion.model import FusionSizes
from neuralood.fusion.trained import FUSION, PROBE, load_record, load_seed, seed_folder
from neuralood.sharing.card import CARD, model_card
from neuralood.sharing.record import ENCODER, MODEL, ModelRecord, WeightsFile, as_json, files_of, sha256_of

VARIANTS = ("bmfl", "concat", "image_only", "brain_only")
"""Variants of fusion that are exported."""

PACKAGES = ("neuralood", "numpy", "safetensors", "timm", "torch")


def export_model(folder: Path, params: Params) -> None:
    """Write fusion classifiers, linear probes, brain encoder, model.json and a model card, whole or not at all.

    Raises UserError where the folder exists already, where params, models and metrics are of different runs, and for
    what cannot be shared in this form: an encoder that reads images, another variant than those of VARIANTS.
    """
    require_free(folder)
    (encoder, encoder_record), fusion = load_encoder(), load_record()
    classification, scores = read_json(paths.CLASSIFICATION_METRICS), read_scores(encoder, encoder_record)
    _require_exportable(encoder_record, fusion)
    _require_one_run(params, encoder_record, fusion, classification)
    with whole_folder(folder) as partial:
        write_exported(partial / ENCODER, encoder, encoder_record, scores, params.fmri.ceiling_threshold, TERMS)
        _copy_seeds(partial, fusion, encoder)
        record = ModelRecord(
            variant=fusion["variant"],
            seeds=fusion["seeds"],
            sizes=FusionSizes(**fusion["sizes"]),
            classes=tuple(fusion["classes"]),
            names=readable(fusion["classes"]),
            weights_file=_weights_file(encoder_record["extraction"]["weights_source"]),
            files={name: sha256_of(partial / name) for name in files_of(fusion["seeds"])},
            classification=classification,
            provenance=_provenance(params),
        )
        write_json(partial / MODEL, as_json(record))
        write_text(partial / CARD, model_card(record, encoder_record, scores))
    console.wrote(folder, f"{fusion['variant']}, {fusion['seeds']} seed(s), {len(record.classes):,} classes: no data")


def readable(classes: list[str]) -> tuple[str, ...]:
    """Classes as people call them; where two have one name, with what training calls them."""
    names = [spoken(name) for name in classes]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({own})" for name, own in zip(names, classes, strict=True))


def _require_exportable(encoder_record: dict[str, Any], fusion: dict[str, Any]) -> None:
    if encoder_record["reads"] == IMAGES:
        raise UserError(
            f"{paths.ENCODER} reads images, by a network of its own: only models with an encoder of tokens are exported"
        )
    if fusion["variant"] not in VARIANTS:
        raise UserError(f"fusion.variant: {fusion['variant']} is not exported, only {', '.join(VARIANTS)} are")


def _require_one_run(
    params: Params, encoder: dict[str, Any], fusion: dict[str, Any], classification: dict[str, Any]
) -> None:
    """Raise UserError where params.yaml, a model or a metric is newer than the others."""
    said = {
        "fusion.variant": (params.fusion.variant, fusion["variant"], classification["variant"]),
        "fusion.pcc_weight": (params.fusion.pcc_weight, fusion["pcc_weight"], classification["pcc_weight"]),
        "fusion.seeds": (params.fusion.seeds, fusion["seeds"], classification["seeds"]),
        "encoder.control": (encoder["control"], classification["control"]),
        "backbone.name": (params.backbone.name, encoder["tokens"]["backbone"], classification["backbone"]),
    }
    differing = [key for key, values in said.items() if len(set(values)) > 1]
    if differing:
        raise UserError(
            f"{paths.PARAMS}, {paths.FUSION} and {paths.CLASSIFICATION_METRICS} are not of one run "
            f"({', '.join(differing)} differ): run `dvc repro`"
        )
    predicted = paths.predicted_fmri("train")
    if predicted.exists() and open_store(predicted).attributes["encoder"] != encoder["fingerprint"]:
        raise UserError(f"{paths.FUSION} was trained on fMRI of another encoder than {paths.ENCODER}: run `dvc repro`")


def _copy_seeds(folder: Path, fusion: dict[str, Any], encoder: EncoderModel) -> None:
    """Models of every seed, which are loaded once to see that they fit. Raises UserError where one is damaged."""
    for number in range(fusion["seeds"]):
        load_seed(number, fusion, encoder)
        target = seed_folder(number, folder)
        target.mkdir()
        for name in (FUSION, PROBE):
            shutil.copyfile(seed_folder(number) / name, target / name)


def _weights_file(source: str) -> WeightsFile | None:
    """What others must find by themselves; None for `hub` and `package:NAME`, which they can name as we do."""
    if source == "hub" or source.startswith("package:"):
        return None
    file = paths.data_root() / source
    if not file.is_file():
        raise UserError(f"{file} is missing, whose SHA-256 the export records: set {paths.DATA_ROOT_VARIABLE}")
    return WeightsFile(file.name, sha256_of(file))


def _provenance(params: Params) -> dict[str, Any]:
    train = read_manifest("train")
    settings = json.loads(json.dumps(asdict(params)))
    del settings["runtime"]  # which changes no result
    return {
        "commit": _commit(),
        "params": settings,
        "train": {"images": len(train), "simulated": train.simulated, "fingerprint": train.fingerprint},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _commit() -> str | None:
    """The project's commit, `-dirty` where files differ from it; None where there is no Git or no commit."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return done.stdout.strip() if done.returncode == 0 else None
