"""Every file and folder that dvc.yaml names, relative to the project, and the root of the user's own data."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DATA = Path("data")
METRICS = Path("metrics")

ENCODER = DATA / "models" / "encoder"
FUSION = DATA / "models" / "fusion"
DEMO_FMRI = DATA / "demo" / "fmri"
FMRI_MANIFEST = DATA / "manifests" / "fmri.json"
MEASURED = DATA / "fmri" / "measured.zarr"
ENCODER_BASELINES = DATA / "encoder_baselines.zarr"
CATEGORIES = DATA / "humans" / "categories.json"
FIRST_SUBJECT = DATA / "fmri" / "more" / "first.json"
ENCODER_METRICS = METRICS / "encoder.json"
ENCODER_OOD_METRICS = METRICS / "encoder_ood.json"
GEOMETRY_METRICS = METRICS / "geometry.json"
HUMANS_METRICS = METRICS / "humans.json"
ENCODER_VERTICES = METRICS / "encoder.zarr"
CLASSIFICATION_METRICS = METRICS / "classification.json"
ROBUSTNESS_METRICS = METRICS / "robustness.json"
STUDY_METRICS = METRICS / "study.json"
REPORT = METRICS / "report.html"
REPORT_TWIN = METRICS / "report.md"
PLOTS = METRICS / "plots"

DATA_ROOT_VARIABLE = "NEURALOOD_DATA"


def data_root() -> Path:
    """Where the user's own images, fMRI and weights lie: $NEURALOOD_DATA, or data/raw where that is unset."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or DATA / "raw")


def rendered(set_name: str) -> Path:
    """Images that the demo drew for one set."""
    return DATA / "demo" / set_name


def made(set_name: str) -> Path:
    """Images made from another set by a transform."""
    return DATA / "made" / set_name


def manifest(set_name: str) -> Path:
    """The list of a set's images: what later stages depend on."""
    return DATA / "manifests" / f"{set_name}.json"


def tokens(set_name: str) -> Path:
    """[CLS] and patch tokens of one set."""
    return DATA / "tokens" / f"{set_name}.zarr"


def predicted_fmri(set_name: str) -> Path:
    """Predicted fMRI of one set."""
    return DATA / "fmri" / f"{set_name}.zarr"


def more_measured(subject: str) -> Path:
    """fMRI of a further subject, in a folder that is there without any: training depends on it."""
    return FIRST_SUBJECT.parent / f"{subject}.zarr"


def encoder_curve(member: int) -> Path:
    """Training curve of the brain encoder, or of a member of an ensemble of them, counted from 0."""
    return ENCODER / (f"curve{member}.tsv" if member else "curve.tsv")


def encoder_ood(set_name: str) -> Path:
    """Scores of the brain encoder on a set of restyled images."""
    return DATA / "encoder_ood" / set_name


def evaluation(set_name: str) -> Path:
    """Per-image predictions and scores of one set."""
    return DATA / "eval" / set_name


def geometry(set_name: str) -> Path:
    """Likeness of the models to people on one set, in a folder that is there without any: summarize depends on it."""
    return DATA / "eval" / "_geometry" / set_name


def human_comparison(set_name: str) -> Path:
    """Both models' answers to one set of stimuli, beside those of people."""
    return CATEGORIES.parent / set_name


def partial(path: Path) -> Path:
    """Where a resumable output is built before it is renamed: outside DVC's outputs, which DVC deletes."""
    return DATA / ".partial" / path.relative_to(DATA)
