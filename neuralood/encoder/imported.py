"""An encoder that was trained elsewhere, in the place of one that is trained here: no fMRI is needed."""

import shutil
from pathlib import Path
from typing import Any

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json
from neuralood.base.training import write_curve
from neuralood.config import Params
from neuralood.data.files import fingerprint_files
from neuralood.data.manifest import Manifest, write_manifest
from neuralood.data.subject import HEMISPHERES
from neuralood.encoder.exported import read_exported
from neuralood.encoder.trained import RECORD, WEIGHTS

IMPORTED = "imported"
"""What metrics call the source of fMRI that was predicted with such an encoder."""


def index_imported(params: Params) -> None:
    """The folder of fmri.imported.SUBJECT -> what later stages would read of measured fMRI, empty.

    Its files and fingerprint stand in data/manifests/fmri.json; data/manifests/nsd.json lists no image, and
    data/tokens/nsd.zarr is an empty folder. Raises UserError where the encoder is damaged or of another subject.
    """
    fmri, folder = params.fmri, _folder(params)
    model, record, _, _ = read_exported(folder)
    for key, wanted in (("subject", fmri.subject), ("space", fmri.space)):
        if record[key] != wanted:
            raise UserError(f"fmri.{key}: is {wanted}, but the encoder in {folder} is of {record[key]}")
    files = (RECORD, WEIGHTS)
    fingerprint = fingerprint_files(folder, files)
    sides = {side: record["hemi"].count(number) for number, side in enumerate(HEMISPHERES)}
    listed: dict[str, Any] = {
        "source": IMPORTED,
        "subject": fmri.subject,
        "root": "data_root",
        "folder": fmri.imported[fmri.subject].path,
        "simulated": record["trained_on"] == "simulated",
        "shapes": {side: [0, count] for side, count in sides.items()},
        "files": {name: (folder / name).stat().st_size for name in files},
        "fingerprint": fingerprint,
    }
    write_json(paths.FMRI_MANIFEST, listed)
    write_manifest(Manifest("nsd", "data_root", listed["folder"], listed["simulated"], (), (), (), (), fingerprint))
    paths.tokens("nsd").mkdir(parents=True, exist_ok=True)
    console.wrote(paths.FMRI_MANIFEST, f"imported encoder of {fmri.subject}, {model.membership.shape[1]:,} vertices")


def adopt_imported(params: Params) -> None:
    """The imported encoder -> data/models/encoder/ and metrics/encoder.json, whose `data` is `imported`.

    metrics/encoder.zarr is an empty folder: scores of single vertices stay where the encoder was trained.

    Raises UserError where its files are others than those that were listed.
    """
    folder, listed = _folder(params), read_json(paths.FMRI_MANIFEST)
    _, record, scores, threshold = read_exported(folder)
    if fingerprint_files(folder, (RECORD, WEIGHTS)) != listed["fingerprint"]:
        raise UserError(
            f"{folder} changed: run `dvc repro -f -s import_encoder@{params.fmri.subject}`, then `dvc repro`"
        )
    if threshold != params.fmri.ceiling_threshold and "fraction_of_ceiling" in scores:
        console.warn(f"the encoder's scores count vertices with a ceiling above {threshold:g}, as its maker had it")
    shutil.rmtree(paths.ENCODER, ignore_errors=True)
    paths.ENCODER.mkdir(parents=True)
    shutil.copyfile(folder / WEIGHTS, paths.ENCODER / WEIGHTS)
    write_json(paths.ENCODER / RECORD, {**record, "source": IMPORTED}, compact=True)
    write_curve(paths.encoder_curve(0), [])
    metrics = {**scores, "data": IMPORTED, "trained_on": record["trained_on"]}
    write_json(paths.ENCODER_METRICS, metrics)
    shutil.rmtree(paths.ENCODER_VERTICES, ignore_errors=True)
    paths.ENCODER_VERTICES.mkdir()
    _show(metrics, record)


def _folder(params: Params) -> Path:
    return paths.data_root() / params.fmri.imported[params.fmri.subject].path


def _show(metrics: dict[str, Any], record: dict[str, Any]) -> None:
    rows = {"trained on": record["trained_on"], "reads": record["reads"], "control": record["control"]}
    if "pearson" in metrics:
        rows["median r, as its maker scored it"] = f"{metrics['pearson']['median']:.3f}"
    console.results("Brain encoder, imported", rows)
    console.wrote(paths.ENCODER, "brain encoder")
    console.wrote(paths.ENCODER_METRICS, "scores of who trained it")
