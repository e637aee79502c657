"""A small world from predicted fMRI on: token stores, an encoder with random weights, and params that fit them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DELETE, randomise

from neuralood.base import paths
from neuralood.base.store import open_store
from neuralood.base.writing import write_store
from neuralood.data.manifest import Manifest, write_manifest
from neuralood.encoder.model import RoiEncoder
from neuralood.encoder.trained import save_encoder
from neuralood.fusion import train as training

CLASSES, GRID, WIDTH, CLS_WIDTH, VERTICES = 4, (2, 3), 8, 10, 30
ROI_NAMES = ("lh.V1v", "rh.V1v", "lh.EBA", "rh.EBA")
CHUNK = 16

PARAMS = {
    "synthesis.rois": "all",
    "fusion.patch": 4,
    "fusion.width": 8,
    "fusion.heads": 2,
    "fusion.depth": 1,
    "fusion.epochs": 2,
    "fusion.batch_size": 10,
    "fusion.probe_c": [0.01, 1.0],
    "cache.chunk": CHUNK,
    "cache.dtype": "float32",
    "evaluation.bootstrap": 20,
    "evaluation.ood_mean": [],
    "runtime.threads": 1,
    "runtime.device": "cpu",
    "runtime.progress": False,
}


def make_world(project, rng, train=90, val=40, **changes):
    """Stores and manifests of train and val, an encoder, and the params, which are returned."""
    others = [name for name in project.read()["sets"] if name not in ("nsd", "train", "val")]
    gone = {f"{part}.{name}": DELETE for name in others for part in ("sets", "rendered")}
    project.edit(**{**PARAMS, **gone, **changes})
    centres = rng.standard_normal((CLASSES, 1, 1, WIDTH))
    for name, images in (("train", train), ("val", val)):
        write_tokens(name, rng, images, centres)
    write_encoder(open_store(paths.tokens("train")))
    return project.load()


def write_tokens(name, rng, images, centres):
    """A set's list of images and its tokens, which say something of the class."""
    names = tuple(f"{name}/{row}.png" for row in range(images))
    labels = tuple(row % CLASSES for row in range(images))
    classes = tuple("abcdefgh"[:CLASSES])
    write_manifest(Manifest(name, "project", "none", True, classes, names, labels, names, name))
    patches = centres[list(labels)] + rng.standard_normal((images, 1, GRID[0] * GRID[1], WIDTH))
    arrays = {"cls": rng.standard_normal((images, CLS_WIDTH)), "patches": patches}
    attributes = {
        "kind": "tokens",
        "backbone": "stub",
        "weights": "0",
        "weights_source": "none",
        "preprocessing": {},
        "features": "tokens",
        "layers": [-1],
        "grid": list(GRID),
        "pool": 1,
        "dtype": "float32",
        "autocast": "none",
        "dataset": name,
        "versions": {},
    }
    write_store(paths.tokens(name), {key: one.astype(np.float32) for key, one in arrays.items()}, attributes, CHUNK)


def write_encoder(tokens, width=6):
    """An encoder of random weights: two ROIs a hemisphere, each vertex in one, the last ones in none."""
    hemi = np.repeat([0, 1], VERTICES // 2)
    place = np.arange(VERTICES) % (VERTICES // 2)
    roi = np.array([(hemi == side) & (place // 6 == number) for number in (0, 1) for side in (0, 1)])
    outside = ~roi.any(axis=0)
    membership = torch.tensor(np.concatenate([roi, [outside & (hemi == side) for side in (0, 1)]]))
    sizes = {"grid": list(GRID), "token_width": WIDTH, "width": width, "depth": 1, "heads": 2, "dropout": 0.0}
    model = randomise(RoiEncoder(membership, **sizes, positions="learned", start="queries"))
    measured = SimpleNamespace(
        source="simulated",
        subject="subj01",
        space="simulated",
        roi_names=ROI_NAMES,
        hemi=hemi,
        fsaverage_vertex=None,
    )
    save_encoder(model.eval(), tokens, measured, "none", 1)


class Interrupted(Exception):  # noqa: N818  (no error)
    """Stands for whatever ends a process."""


def train_until(monkeypatch, params, name, call):
    """train_fusion, ended by the given call of what it calls `name`."""
    real, calls = getattr(training, name), []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise Interrupted
        return real(*arguments)

    monkeypatch.setattr(training, name, failing)
    with pytest.raises(Interrupted):
        training.train_fusion(params)
    monkeypatch.setattr(training, name, real)
