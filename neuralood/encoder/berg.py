"""Linear encoders of the Brain Encoding Response Generator (BERG, github.com/gifale95/BERG) as imported encoders.

What BERG computes, and so do we: an image is resized to 256 px on its short side (bilinear) and its central 224 px
are normalised by ImageNet's mean and sd; layers of a torchvision network (`image_model.NETWORKS`, first ImageNet-1k
weights) are flattened and joined; these features are standardised, projected onto 250 principal components, and
mapped onto each vertex by ordinary least squares. Predictions are z-scored betas, one unit an sd within a session.

BERG lists 163,842 vertices a hemisphere. We keep those that lie in an ROI that it names.
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.base.weights import fingerprint, read_file
from neuralood.data.rois import ROI_NAMES
from neuralood.data.subject import FSAVERAGE_VERTICES, HEMISPHERES
from neuralood.encoder.exported import require_free, write_exported
from neuralood.encoder.image_model import NETWORKS
from neuralood.encoder.scores import encoder_scores
from neuralood.encoder.trained import IMAGES, EncoderModel, empty_encoder

Arrays = dict[str, npt.NDArray[Any]]

SUBJECTS = tuple(str(number) for number in range(1, 9))
PIXELS = 224
PREPROCESSING = {
    "image_size": PIXELS,
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""That of torchvision's first ImageNet-1k weights of both networks."""

REPETITIONS = 3
"""Times that each of BERG's 515 test images was seen; their mean was predicted."""
CEILING_THRESHOLD = 0.2
"""Vertices with a ceiling above this count in scores that need one, as in the shipped params.yaml."""

OTHER_NAMES = {"OWFA": "OVWFA"}
"""ROIs that BERG's model cards call otherwise."""

TERMS = (
    "Converted from the Brain Encoding Response Generator (github.com/gifale95/BERG), whose terms hold: cite it, say "
    "what was changed (converted to safetensors; vertices outside every ROI left out), research and education only, "
    "share under the same terms. Trained on the Natural Scenes Dataset; holds no fMRI and no image of it."
)

USAGE = "usage: neuralood import-berg --trust FOLDER SUBJECT OUT, where FOLDER is BERG's folder of one model"
TRUST = "--trust"
WARNING = (
    "BERG's files are pickles, which can run any program on this machine when they are read: where you have them from "
    f"BERG itself, add {TRUST}, and they are read once, in a process of its own, and kept as safetensors"
)


def import_berg(arguments: Sequence[str]) -> None:
    """`--trust FOLDER SUBJECT OUT`: convert one subject's model into a folder that `fmri.imported` can name.

    FOLDER is such as encoding_models/modality-fmri/train_dataset-nsd_fsaverage/model-vit_b_32, SUBJECT 1 to 8. Takes
    about 5 GB of memory. Raises UserError without --trust, for another model, and for files that are not laid out so.
    """
    names = [argument for argument in arguments if argument != TRUST]
    if len(names) != 3:
        raise UserError(USAGE)
    if TRUST not in arguments:
        raise UserError(WARNING)
    folder, subject, out = Path(names[0]), names[1], Path(names[2])
    weights, metadata = _files(folder, subject)
    require_free(out)
    network = folder.resolve().name.removeprefix("model-")
    pretrained = read_file(_network_file(folder, network))
    arrays = _converted(weights, metadata, out)
    try:
        record, scores, model = _built(network, pretrained, arrays)
    except KeyError as error:
        raise UserError(
            f"{folder}: the files of subject {subject} have no {error.args[0]}, which BERG's have"
        ) from None
    record |= {"subject": f"subj{int(subject):02d}", "fingerprint": fingerprint(model)}
    scores |= {"data": "nsd", "subject": record["subject"]}
    write_exported(out, model, record, scores, CEILING_THRESHOLD, TERMS)
    console.wrote(out, f"BERG {network}, {record['subject']}, {len(record['hemi']):,} vertices")


def _files(folder: Path, subject: str) -> tuple[Path, Path]:
    network = folder.resolve().name.removeprefix("model-")
    if network not in NETWORKS:
        known = ", ".join(f"model-{name}" for name in NETWORKS)
        raise UserError(f"{folder} is none of the models that can be imported, whose folders are called {known}")
    if subject not in SUBJECTS:
        raise UserError(f"BERG's subjects are {SUBJECTS[0]} to {SUBJECTS[-1]}, got {subject}")
    files = (
        folder / "encoding_models_weights" / f"weights_subject-{int(subject):02d}.npy",
        folder / "metadata" / f"metadata_subject-{int(subject):02d}.npy",
    )
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing: download it from BERG's bucket, with the folder that it lies in")
    return files


def _network_file(folder: Path, network: str) -> Path:
    """torchvision's weights: beside the model's folders, or in PyTorch's cache, where they are fetched to."""
    name = NETWORKS[network].file
    url = f"https://download.pytorch.org/models/{name}"
    cached = Path(torch.hub.get_dir(), "checkpoints", name)
    file = folder / name if (folder / name).is_file() else cached
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        console.note(f"fetching {url}")
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as error:
            raise UserError(f"{url} cannot be fetched ({error}): put the file into {folder}") from None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(Path(name).stem.rpartition("-")[2]):
        raise UserError(f"{file} is damaged (its SHA-256 is {digest[:8]}...): delete it, and fetch {url}")
    return file


def _converted(weights: Path, metadata: Path, out: Path) -> Arrays:
    """What both files hold, unpickled by a process of its own, which hands over safetensors."""
    partial = out.with_name(f".{out.name}.converted")
    script = Path(__file__).with_name("berg_convert.py")
    partial.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", str(script), str(weights), str(metadata), str(partial)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"killed, status {done.returncode}: out of memory?"])[-1]
            raise UserError(f"{weights} and {metadata.name} cannot be converted ({reason}): download them again")
        return load_file(partial)
    finally:
        partial.unlink(missing_ok=True)


def _built(
    network: str, pretrained: dict[str, torch.Tensor], arrays: Arrays
) -> tuple[dict[str, Any], dict[str, Any], EncoderModel]:
    """The record, the scores and the model. Raises KeyError that names an array that is not there."""
    names, members, chosen = _rois(arrays)
    components = arrays["weights/pca_param/components_"]
    fitted = {
        "membership": members,
        "feature_mean": arrays["weights/scaler_param/mean_"],
        "project.weight": components / arrays["weights/scaler_param/scale_"],
        "project.bias": -components @ arrays["weights/pca_param/mean_"],
        "readout.weight": _of_vertices(arrays, "weights/{}_reg_param/coef_", chosen),
        "readout.bias": _of_vertices(arrays, "weights/{}_reg_param/intercept_", chosen),
    }
    weights = {name: torch.from_numpy(values) for name, values in fitted.items()}
    weights |= {f"network.model.{name}": value for name, value in pretrained.items()}
    record = {
        "reads": IMAGES,
        "network": network,
        "preprocessing": PREPROCESSING,
        "control": "none",
        "source": "nsd",
        "trained_on": "nsd",
        "origin": f"BERG fmri-nsd_fsaverage-{network}",
        "space": "fsaverage",
        "epochs": 0,
        "roi_names": names,
        "hemi": np.repeat([0, 1], [len(vertices) for vertices in chosen]).tolist(),
        "fsaverage_vertex": np.concatenate(chosen).tolist(),
    }
    model = empty_encoder(record, weights).to_empty(device="cpu").eval()
    try:
        model.load_state_dict(weights)
        with torch.inference_mode():
            model(torch.zeros(1, 3, PIXELS, PIXELS))  # BERG's features must be as many as the network's
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"weights of {network} and BERG's model do not fit each other ({reason})") from None
    return record, _scores(arrays, names, members, chosen), model


def _rois(arrays: Arrays) -> tuple[list[str], npt.NDArray[np.bool_], list[npt.NDArray[np.int64]]]:
    """ROIs that have vertices: names such as lh.V1v, membership R V, and each hemisphere's vertices, ascending."""
    of_side = {side: {name: _roi(arrays, side, name) for name in ROI_NAMES} for side in HEMISPHERES}
    for side in HEMISPHERES:
        if not any(map(len, of_side[side].values())):
            raise KeyError(f"metadata/fmri/{side}_fsaverage_rois")
    chosen = [np.unique(np.concatenate(list(of_side[side].values()))) for side in HEMISPHERES]
    hemi = np.repeat(HEMISPHERES, [len(vertices) for vertices in chosen])
    places = np.concatenate(chosen)
    members = {
        f"{side}.{name}": (hemi == side) & np.isin(places, vertices)
        for side in HEMISPHERES
        for name, vertices in of_side[side].items()
        if len(vertices)
    }
    return list(members), np.array(list(members.values())), chosen


def _roi(arrays: Arrays, side: str, name: str) -> npt.NDArray[np.int64]:
    """Vertices of an ROI on fsaverage; none where BERG's file does not name it."""
    short = name.removesuffix("-stream")
    for known in (short, OTHER_NAMES.get(short, short)):
        vertices = arrays.get(f"metadata/fmri/{side}_fsaverage_rois/{known}", np.empty(0))
        if len(vertices):
            return vertices.astype(np.int64)
    return np.empty(0, np.int64)


def _of_vertices(arrays: Arrays, name: str, chosen: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
    """Rows of the chosen vertices, lh then rh, of an array that each hemisphere has one of."""
    parts = []
    for side, vertices in zip(HEMISPHERES, chosen, strict=True):
        values = arrays[name.format(side)]
        if len(values) != FSAVERAGE_VERTICES:
            raise UserError(
                f"{name.format(side)} has {len(values)} rows, wants one of each of {FSAVERAGE_VERTICES} vertices"
            )
        parts.append(values[vertices])
    return np.concatenate(parts)


def _scores(
    arrays: Arrays, names: Sequence[str], members: npt.NDArray[np.bool_], chosen: Sequence[npt.NDArray[np.int64]]
) -> dict[str, Any]:
    """metrics/encoder.json from BERG's own correlations, where negative ones are 0; it has no ridge baseline."""
    r = np.nan_to_num(_of_vertices(arrays, "metadata/encoding_models/{}_correlation_nsdcore", chosen))
    ncsnr = np.nan_to_num(_of_vertices(arrays, "metadata/fmri/{}_ncsnr", chosen)).astype(np.float64)
    ceiling = np.sqrt(ncsnr**2 / (ncsnr**2 + 1 / REPETITIONS))
    counts = {f"n_{part}": len(arrays[f"metadata/encoding_models/{part}_img_num"]) for part in ("train", "test")}
    return encoder_scores(r, None, ceiling, CEILING_THRESHOLD, names, members) | counts
