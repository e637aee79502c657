"""What smaller tokens cost: linear-probe accuracy and encoder r with int8, pooled and several layers' tokens.

Each world's tokens are computed once, in float32 and of all layers in question; the variants are made of them by the
function that the token cache itself uses.
"""

import shutil
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from neuralood.base import paths
from neuralood.base.console import note
from neuralood.base.reading import PREDICT_BATCH, batches, patch_batch
from neuralood.base.records import read_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array, Store, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, write_rows
from neuralood.config import Cache, Params, load_params
from neuralood.data.fmri import prepare_fmri
from neuralood.data.index import index_set
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.data.splits import stratified_holdout
from neuralood.demo.drawing import render_set
from neuralood.demo.subject import simulate_subject
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.train import train_encoder
from neuralood.fusion.probe import Split, fit_probes
from neuralood.tokens.extract import stored_form
from stages.cache_tokens import main as cache_tokens

CPU = torch.device("cpu")
SCENES = 600
"""Scenes that the encoder of the photos' world learns from: ViT-S/14 makes tokens of some eight images a second."""


@dataclass(frozen=True)
class Variant:
    """How tokens are stored: dtype, pooling, and which of the world's layers."""

    dtype: Literal["float16", "float32", "int8"] = "float16"
    pool: int = 1
    layers: tuple[int, ...] = (-1,)


def variants(layers: int) -> dict[str, Variant]:
    """The ones compared; the first is the reference."""
    return {
        "float16": Variant(),
        "float32": Variant(dtype="float32"),
        "int8": Variant(dtype="int8"),
        "float16, pool 2": Variant(pool=2),
        "int8, pool 2": Variant(dtype="int8", pool=2),
        f"float16, {layers} layers": Variant(layers=tuple(range(layers))),
    }


def demo_world(params: Params) -> Params:
    """The demo (SIMULATED), with three feature maps of one size."""
    layers = ("blocks.4.0", "blocks.4.1", "blocks.4.2")
    backbone = replace(params.backbone, layers=layers)
    return replace(_quick(params), backbone=backbone)


def photos_world(profile: Path) -> Params:
    """PACS photos through ViT-S/14; its encoder learns SIMULATED fMRI of the demo's scenes."""
    params = load_params(profile, check_paths=False)
    weights = "weights/vit_small_patch14_dinov2.saliency_tuned.fp16.safetensors"
    backbone = replace(params.backbone, weights=weights, layers=(5, 8, 11))
    rendered = {name: replace(one, n=SCENES) for name, one in params.rendered.items()}
    return replace(_quick(params), backbone=backbone, rendered=rendered)


def _quick(params: Params) -> Params:
    encoder = replace(params.encoder, ridge_components=20)  # the ridge baseline is not looked at
    return replace(params, encoder=encoder, cache=replace(params.cache, dtype="float32"))


def measure(folder: Path, params: Params) -> dict[str, dict[str, float]]:
    """For each variant: bytes an image, top-1 (%) of the linear probe on val and mean OOD, median r of the encoder."""
    folder.mkdir(parents=True)
    with chdir(folder):
        for name in params.sets:
            if name in params.rendered:
                render_set(params, name)
            else:
                write_manifest(index_set(name, params))
            cache_tokens(params, name)
        simulate_subject(params, params.fmri.subject)
        prepare_fmri(params)
        full = paths.DATA / "tokens-of-all-layers"
        (paths.DATA / "tokens").rename(full)
        found = {}
        for name, variant in variants(len(params.backbone.layers)).items():
            note(f"smaller tokens: {name}")
            found[name] = _measure_variant(params, full, variant)
        shutil.rmtree(paths.DATA)
        return found


def _measure_variant(params: Params, full: Path, variant: Variant) -> dict[str, float]:
    for name in params.sets:
        _derive(open_store(full / f"{name}.zarr"), paths.tokens(name), params.cache, variant)
    fit_baselines(params)
    train_encoder(params)
    accuracy = _probe_accuracy(params)
    ood = [name for name, one in params.sets.items() if one.role == "ood"]
    store = open_store(paths.tokens("train"))
    return {
        "kB an image": sum(array.dtype.itemsize * np.prod(array.shape[1:]) for array in _tokens_of(store)) / 1e3,
        "probe val": accuracy["val"],
        "probe mean OOD": float(np.mean([accuracy[name] for name in ood])),
        "encoder r": read_json(paths.ENCODER_METRICS)["pearson"]["median"],
    }


def _derive(full: Store, path: Path, settings: Cache, variant: Variant) -> None:
    """The store of a variant, made of float32 tokens of all layers."""
    chosen = replace(settings, dtype=variant.dtype, pool=variant.pool)
    grid = full.attributes["grid"]
    count, partial = len(full["cls"]), path.with_name("partial.zarr")
    specs: dict[str, ArraySpec] = {}
    for rows in batches(np.arange(count), settings.chunk):
        cls, patches = (torch.from_numpy(full[name][rows]) for name in ("cls", "patches"))
        tokens = stored_form(cls, patches[:, list(variant.layers)], (grid[0], grid[1]), chosen)
        arrays = {name: values.numpy() for name, values in tokens.items()}
        if not specs:
            specs = {
                name: ArraySpec((count, *values.shape[1:]), str(values.dtype), settings.chunk)
                for name, values in arrays.items()
            }
            kept = {key: value for key, value in full.attributes.items() if key not in ("complete", "contents")}
            create_store(partial, specs, kept | {"grid": [side // variant.pool for side in grid], "pool": variant.pool})
        for name, values in arrays.items():
            write_rows(partial, name, specs[name], int(rows[0]), values)
    complete_store(partial, path)


def _probe_accuracy(params: Params) -> dict[str, float]:
    train = read_manifest("train")
    labels, features = np.asarray(train.labels), _features("train")
    rows, holdout = stratified_holdout(labels, params.fusion.holdout, generator(params.seed, "holdout"))
    taught = torch.from_numpy(features[rows]).double()
    scale = taught.mean(0).float(), taught.std(0, correction=0).float()
    (probe,) = fit_probes(features, labels, [Split(rows, holdout, *scale)], params.fusion.probe_c, CPU)
    accuracy = {}
    for name, one in params.sets.items():
        if one.role in ("val", "ood"):
            manifest = read_manifest(name)
            columns = [train.classes.index(label) for label in manifest.classes]
            best = probe.logits(_features(name))[:, columns].argmax(axis=1)
            accuracy[name] = 100 * float((best == np.asarray(manifest.labels)).mean())
    return accuracy


def _features(set_name: str) -> Array:
    """concat([CLS], GAP of patches), I F: what the linear probe reads."""
    store = open_store(paths.tokens(set_name))
    parts = []
    for rows in batches(np.arange(len(store["cls"])), PREDICT_BATCH):
        mean = patch_batch(store, rows, CPU).mean(dim=1).numpy()
        parts.append(np.concatenate([store["cls"][rows].astype(np.float32), mean], axis=1))
    return np.concatenate(parts)


def _tokens_of(store: Store) -> list[Any]:
    return [store[name] for name in ("cls", "patches", "patches_scale") if name in store]
