"""A project folder of random tokens, a random brain encoder and its predictions, on which fusion's stages run.

What is timed depends on shapes only; labels can be learned from the tokens, so that solvers take a usual number of
steps.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks.encoder import FAMILIES, membership
from neuralood.base import paths
from neuralood.base.reading import patch_batch
from neuralood.base.store import Store, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, write_rows
from neuralood.config import Params, load_params
from neuralood.data.manifest import Manifest, own_sources, read_manifest, write_manifest
from neuralood.data.rois import ROI_FAMILIES
from neuralood.encoder.model import RoiEncoder
from neuralood.encoder.trained import load_encoder, save_encoder
from neuralood.fusion.trained import ImageData, open_image_data
from neuralood.synthesis import synthesize

ROOT = Path(__file__).resolve().parents[1]
CHUNK, CENTRED = 256, 64
SIGNAL = 0.1
"""Sd of a class's mean; that of images about it is 1, and of an image's patch tokens about their mean 1 again."""


@dataclass(frozen=True)
class Shapes:
    """Of tokens, vertices, classes, and the encoder's width."""

    grid: tuple[int, int]
    width: int
    vertices: int
    lh_vertices: int
    classes: int
    encoder_width: int

    @property
    def patches(self) -> int:
        """Patch tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def token_bytes(self) -> int:
        """Of an image's float16 tokens, [CLS] included."""
        return 2 * (self.patches + 1) * self.width


FULL_SHAPES = Shapes((16, 16), 768, 39_548, 19_004, 1_000, 64)
"""ViT-B/14 at 224 px, the vertices of a subject of the Algonauts challenge, the classes of ImageNet-1k."""
SMALL_SHAPES = Shapes((4, 4), 96, 600, 290, 20, 32)
"""Of which tens of thousands of images are made in seconds."""


def make_project(folder: Path, shapes: Shapes, images: int, sets: Sequence[str] = ("train",)) -> Path:
    """params.yaml with the paper's model sizes, manifests and tokens of these sets, and an encoder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    edit_params(folder, runtime={"device": "cpu", "threads": 2, "training_threads": 2, "workers": 0, "progress": False})
    with chdir(folder):
        for seed, name in enumerate(sets):
            manifest = write_random_manifest(name, images, shapes.classes)
            write_tokens(manifest, shapes, seed)
        save_random_encoder(open_store(paths.tokens(sets[0])), shapes)
    return folder


def edit_params(folder: Path, **sections: dict[str, Any]) -> None:
    """Set keys of sections in the folder's params.yaml, which is made where it is not there."""
    file, yaml = folder / paths.PARAMS, YAML(typ="safe", pure=True)
    content = yaml.load((file if file.exists() else ROOT / "params.yaml").read_text())
    if not file.exists():
        paper = yaml.load((ROOT / "profiles" / "paper.yaml").read_text())
        content |= {section: paper[section] for section in ("cache", "encoder", "synthesis", "fusion")}
    for section, values in sections.items():
        content[section] |= values
    with file.open("w") as stream:
        yaml.dump(content, stream)


def write_random_manifest(name: str, images: int, classes: int) -> Manifest:
    """Images that are not there, sorted by class as every list of images is."""
    labels = tuple((np.arange(images) * classes // images).tolist())
    files = tuple(f"{label:04d}/{row:06d}.png" for row, label in enumerate(labels))
    sources = own_sources(name, files)
    manifest = Manifest(
        name, "project", "images", True, tuple(map(str, range(classes))), files, labels, sources, f"{name} {images}"
    )
    write_manifest(manifest)
    return manifest


def token_attributes(shapes: Shapes, dataset: str) -> dict[str, Any]:
    """What a store of tokens says of itself."""
    return {
        "kind": "tokens",
        "backbone": "random",
        "weights": "random",
        "weights_source": None,
        "preprocessing": {},
        "features": "tokens",
        "layers": [-1],
        "grid": list(shapes.grid),
        "pool": 1,
        "dtype": "float16",
        "autocast": "none",
        "dataset": dataset,
        "versions": {},
    }


def write_tokens(manifest: Manifest, shapes: Shapes, seed: int = 0) -> None:
    """Class means, the same for all sets, plus noise, as float16."""
    images, final = len(manifest), paths.tokens(manifest.set_name)
    partial = paths.partial(final)
    specs = {
        "cls": ArraySpec((images, shapes.width), "float16", CHUNK),
        "patches": ArraySpec((images, 1, shapes.patches, shapes.width), "float16", CHUNK),
    }
    means = np.random.default_rng(0).standard_normal((2, shapes.classes, shapes.width), dtype=np.float32)
    rng, labels = np.random.default_rng(1 + seed), np.array(manifest.labels)
    create_store(partial, specs, token_attributes(shapes, manifest.fingerprint))
    for start in range(0, images, CHUNK):
        own = labels[start : start + CHUNK]
        for (name, spec), mean in zip(specs.items(), means, strict=True):
            values = rng.standard_normal((len(own), shapes.width), dtype=np.float32) + SIGNAL * mean[own]
            if name == "patches":
                values = values[:, None, None] + rng.standard_normal((len(own), *spec.shape[1:]), dtype=np.float32)
            write_rows(partial, name, spec, start, values.astype(np.float16))
    complete_store(partial, final)


def save_random_encoder(tokens: Store, shapes: Shapes) -> None:
    """50 queries, random weights, one layer; predictions have mean 0, as measured fMRI does."""
    member = membership(shapes.vertices, shapes.lh_vertices)
    torch.manual_seed(0)
    model = RoiEncoder(
        member,
        grid=shapes.grid,
        token_width=shapes.width,
        width=shapes.encoder_width,
        depth=1,
        heads=8,
        dropout=0.0,
        positions="sine",
        start="queries",
    )
    with torch.no_grad():
        mean = model(patch_batch(tokens, np.arange(min(CENTRED, len(tokens["cls"]))), torch.device("cpu"))).mean(0)
        model.readout.bias.sub_(mean)
    names = [ROI_FAMILIES[family][number] for family, count in FAMILIES.items() for number in range(count)]
    measured: Any = SimpleNamespace(
        source="random",
        subject="random",
        space="fsaverage",
        roi_names=[f"{side}.{name}" for side in ("lh", "rh") for name in names],
        hemi=(np.arange(shapes.vertices) >= shapes.lh_vertices).astype(np.int8),
        fsaverage_vertex=None,
    )
    save_encoder(model, tokens, measured, "none", 0)


def here() -> Params:
    """Of params.yaml in the working directory; images need not be there."""
    return load_params(check_paths=False)


def predicted(**synthesis: Any) -> ImageData:
    """Train, in the working directory, with predicted fMRI of this form (`synthesis` of params) by the stage itself."""
    edit_params(Path(), synthesis=synthesis, fusion={"rois": synthesis["rois"]})
    synthesize(here(), "train")
    return open_train()


def open_train() -> ImageData:
    """Tokens and predicted fMRI of train in the working directory."""
    return open_image_data(read_manifest("train"), *load_encoder())


def in_a_process(module: str, *arguments: object) -> dict[str, Any]:
    """What a module of benchmarks measures in a process of its own, and prints as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
