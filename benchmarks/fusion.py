"""Fusion's training and what stands beside it: time, waiting, memory, probes, forms of predicted fMRI, a projection.

    python -m benchmarks.fusion            # tens of minutes; writes benchmarks/fusion.md and .json
    python -m benchmarks.fusion --short    # minutes; fewer images, counts of classes and runs, into build/ only

Tokens, the brain encoder and all weights are random. Stages and functions of the project itself are what runs.
"""

import shutil
import sys
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fusion_forms, fusion_memory, fusion_probes, fusion_training
from benchmarks.fusion_page import page
from benchmarks.fusion_projection import project
from benchmarks.fusion_world import FULL_SHAPES, make_project, predicted
from benchmarks.reads import clean
from benchmarks.timing import alternate
from neuralood.backbone import load_backbone
from neuralood.base import paths
from neuralood.base.console import console, note, show_progress
from neuralood.base.records import write_json, write_text
from neuralood.fusion.survey import open_features
from neuralood.plan.probe import decode_seconds, matrix_rate

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "fusion"

FULL: dict[str, Any] = {
    "images": 2_048,
    "steps": 512,
    "peaks": 256,
    "seeds": 256,
    "classes": (10, 100, 1_000),
    "forms": 256,
    "memory": (1_000, 20_000),
    "runs": 3,
    "repeats": 5,
}
SHORT: dict[str, Any] = FULL | {
    "images": 768,
    "steps": 160,
    "peaks": 96,
    "seeds": 96,
    "classes": (10, 100),
    "forms": 128,
    "runs": 1,
    "repeats": 3,
}
"""Images of the full shapes in all, and of those: in two epochs, one of them timed; in an epoch of memory and of seeds;
counts of classes; images whose logits are compared; images and runs of the small shapes; repeats."""
CPU = torch.device("cpu")

Record = dict[str, Any]


def main(*, short: bool) -> None:
    """Measure everything and write the page."""
    started, sizes = time.monotonic(), SHORT if short else FULL
    show_progress(False)
    record = measure(sizes)
    record["minutes"] = (time.monotonic() - started) / 60
    folder = SCRATCH if short else HERE
    write_json(folder / "fusion.json", record)
    text = page(record)
    write_text(folder / "fusion.md", text)
    if not short:
        shutil.rmtree(SCRATCH)
    console.print(text, markup=False)


def measure(sizes: Record) -> Record:
    """All figures, by section."""
    torch.set_num_threads(fusion_training.THREADS)
    clean(SCRATCH)
    record: Record = {"sizes": {name: list(one) if isinstance(one, tuple) else one for name, one in sizes.items()}}
    few = _project("few", max(sizes[name] for name in ("steps", "peaks", "seeds", "forms")))
    note("step")
    record["step"], training = fusion_training.measure_step(few, sizes["steps"])
    note("peak memory")
    record["peak"] = fusion_training.measure_peaks(few, sizes["peaks"])
    note("seeds")
    record["seeds"] = fusion_training.measure_seeds(few, sizes["seeds"], sizes["repeats"])
    note("forms")
    record["forms"] = fusion_forms.measure_forms(few, training, sizes["forms"], max(3, sizes["repeats"]))
    shutil.rmtree(few)
    many = _project("many", sizes["images"])
    note("probes")
    record["probes"] = fusion_probes.measure_probes(many, sizes["images"], sizes["classes"])
    record["rates"] = measure_rates(many)
    note("processes")
    record["processes"] = fusion_memory.measure_processes(many, sizes["repeats"])
    shutil.rmtree(many)
    note("memory")
    record["growth"] = fusion_memory.measure_growth(SCRATCH / "small", sizes["memory"], sizes["runs"])
    rates = record["rates"]
    record["projection"] = project(rates["decode seconds"], rates["features"], 2 * FULL_SHAPES.vertices)
    return record


def _project(name: str, images: int) -> Path:
    """At full shapes, with predicted fMRI of train."""
    folder = make_project(SCRATCH / name, FULL_SHAPES, images)
    with chdir(folder):
        predicted(store="vertices", rois="all")
    return folder


def measure_rates(folder: Path) -> Record:
    """What the projection rests on: decoding an image, reading the probe's features from memory; and products here."""
    name, size = "vit_base_patch14_dinov2", 224
    backbone = load_backbone(
        name, None, image_size=size, crop_pct=0.875, layers=(-1,), features="tokens", data_root=folder
    )
    features = open_features(folder / paths.DATA / "features.zarr")
    rows = np.arange(len(features))
    (seconds,) = alternate({"read": lambda: features[rows]}, 5).values()
    return {
        "decode seconds": decode_seconds(None, backbone, CPU),
        "features": features.dtype.itemsize * features.shape[0] * features.shape[1] / float(np.median(seconds)),
        "products": matrix_rate(CPU),
    }


if __name__ == "__main__":
    main(short="--short" in sys.argv[1:])
