"""Caching tokens: its rate over the bare forward pass, its memory, and what training from the cache saves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.reads import BATCH, CHUNK, TOKENS, WIDTH, clean, random_store
from benchmarks.timing import PeakAnonymous, Ratio, alternate, ratio
from neuralood.backbone import FrozenBackbone, Preprocessing, load_backbone
from neuralood.base import paths
from neuralood.base.console import show_progress
from neuralood.base.reading import HostPatches, batches, host_patches, training_epochs
from neuralood.base.store import Array, Store, open_store
from neuralood.config import Cache
from neuralood.data.images import read_image
from neuralood.data.manifest import Manifest
from neuralood.tokens.cache import cache_tokens
from neuralood.tokens.extract import TokenEncoder

CPU = torch.device("cpu")
CLASSES = 7
VIT = {"name": "vit_small_patch14_dinov2", "image_size": 224, "crop_pct": None, "layers": (-1,), "features": "tokens"}
PHOTO_BATCH = 32
SETTINGS = Cache(dtype="float16", pool=1, autocast="none", compile=False, batch_size=PHOTO_BATCH, chunk=64)


def measure_caching(folder: Path, real: Path | None, images: int, repeats: int) -> dict[str, Ratio]:
    """Caching over the bare forward pass of ViT-S/14 at 224 px on decoded photos, one decoding process."""
    torch.set_num_threads(2)
    manifest = _photos(folder, real, images)
    backbone = _vit(real)
    pixels = _decoded(manifest, backbone, PHOTO_BATCH)
    encode = TokenEncoder(backbone, SETTINGS, CPU)

    def bare() -> None:
        for _ in range(images // PHOTO_BATCH):
            encode(pixels)

    def caching() -> None:
        with chdir(folder):
            cache_tokens(manifest, "vit", backbone, SETTINGS, CPU, workers=1)

    seconds = alternate({"bare": bare, "caching": caching}, repeats, warm_up=False)
    rate = images / float(np.median(seconds["bare"]))
    found = {
        "caching over the bare forward pass": ratio(seconds, "caching", "bare"),
        "images/s of the bare forward pass": Ratio(rate, rate, rate),
    }
    return found | _measure_probe(folder, backbone, pixels, images, repeats)


def _measure_probe(
    folder: Path, backbone: FrozenBackbone, pixels: Tensor, images: int, repeats: int
) -> dict[str, Ratio]:
    """An epoch of the linear probe from the cache over one with the backbone in the loop, timed on one batch."""
    store = open_store(folder / paths.tokens("photos"))
    loop = PHOTO_BATCH / images
    model = Probe(store)

    def in_loop() -> None:
        cls, patches = backbone.tokens(pixels)
        model.step(cls, patches[:, 0], torch.zeros(len(pixels), dtype=torch.long))

    seconds = alternate({"cache": lambda: probe_epoch(model, store), "in the loop": in_loop}, repeats)
    return {"probe epoch from the cache over the backbone in the loop": ratio(seconds, "cache", "in the loop", loop)}


class Probe(nn.Module):
    """Linear classifier on [CLS] (where the store has it) and the mean patch, trained by SGD."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        width = store["patches"].shape[3] + (store["cls"].shape[1] if "cls" in store else 0)
        self.classify = nn.Linear(width, CLASSES)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def step(self, cls: Tensor | None, patches: Tensor, labels: Tensor) -> None:
        """cls B D', patches B N D, labels B."""
        mean = patches.mean(dim=1)
        loss = F.cross_entropy(self.classify(mean if cls is None else torch.cat([cls, mean], dim=1)), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def probe_epoch(model: Probe, store: Store) -> None:
    """One epoch in training order."""
    rows = np.arange(len(store["patches"]))
    labels = torch.from_numpy(rows % CLASSES)

    def load(chosen: Array) -> tuple[Tensor | None, HostPatches, Tensor]:
        cls = torch.from_numpy(store["cls"][chosen]).float() if "cls" in store else None
        return cls, host_patches(store, chosen, pin=False), labels[chosen]

    epochs = training_epochs((store["patches"],), rows, 4 * CHUNK, BATCH, load, np.random.default_rng(0))
    for _, (cls, patches, truth) in next(epochs):
        model.step(cls, patches.on(CPU), truth)


def measure_memory(folder: Path, counts: tuple[int, ...], runs: int) -> dict[str, dict[int, float]]:
    """Peak anonymous memory (MB) of caching and of an epoch from the cache, the highest of `runs` processes.

    How many batches are alive at once is chance, and a short run has fewer chances to meet the most.
    """
    found: dict[str, dict[int, float]] = {"caching": {}, "training epoch": {}}
    for count in counts:
        for what in found:
            peaks: list[float] = []
            for _ in range(runs):
                command = [sys.executable, "-m", "benchmarks.writes", what, str(count), str(clean(folder / "memory"))]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                peaks.append(json.loads(done.stdout)["peak_mb"])
            found[what][count] = max(peaks)
    return found


def _peak(what: str, count: int, folder: Path) -> float:
    show_progress(False)
    torch.set_num_threads(2)
    work = _cache_random_tokens(count, folder) if what == "caching" else _train_on_random_tokens(count, folder)
    with PeakAnonymous() as memory:
        work()
    return memory.peak_mb


def _cache_random_tokens(count: int, folder: Path) -> Callable[[], object]:
    """The real writer with a backbone that makes random tokens of ViT-S/14's shape."""
    image = folder / "one.png"
    Image.new("RGB", (16, 16)).save(image)
    for row in range(count):
        (folder / f"{row}.png").hardlink_to(image)
    manifest = _manifest("random", folder, [f"{row}.png" for row in range(count)])
    settings = replace(SETTINGS, batch_size=BATCH, chunk=CHUNK)

    def work() -> None:
        with chdir(folder):
            cache_tokens(manifest, "random", RandomTokens(), settings, CPU, workers=1)

    return work


def _train_on_random_tokens(count: int, folder: Path) -> Callable[[], object]:
    store = open_store(random_store(folder, count, TOKENS - 1, WIDTH))
    return lambda: probe_epoch(Probe(store), store)


class RandomTokens(FrozenBackbone):
    """Random tokens of ViT-S/14's shape at 224 px, for any image."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layers, self.features = (-1,), "tokens"
        self.preprocessing = Preprocessing(16, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
        self.shape = _vit(None, pretrained=False).shape
        self.model = nn.Linear(1, 1)
        self.random = torch.Generator().manual_seed(0)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W -> random [CLS] B D' and patches B 1 N D."""
        shape = (len(images), 1, self.shape.patches, self.shape.width)
        return torch.rand(shape[0], shape[3], generator=self.random), torch.rand(shape, generator=self.random)


def _vit(real: Path | None, *, pretrained: bool = True) -> FrozenBackbone:
    """ViT-S/14, with trained weights where the sample of real data is at hand, else random: speed is the same."""
    if real is not None and pretrained:
        weights = "weights/vit_small_patch14_dinov2.saliency_tuned.fp16.safetensors"
        return load_backbone(**VIT, weights=weights, data_root=real)  # type: ignore[arg-type]
    import timm

    model = timm.create_model(str(VIT["name"]), img_size=VIT["image_size"], num_classes=0)
    return FrozenBackbone(model, (-1,), "tokens", Preprocessing(224, 0.95, "bicubic", (0.5,) * 3, (0.5,) * 3))


def _photos(folder: Path, real: Path | None, images: int) -> Manifest:
    """PACS photos where they are at hand, else noise of their size as JPEG."""
    if real is not None:
        photos = real / "pacs" / "photo"
        names = sorted(str(file.relative_to(photos)) for file in photos.glob("*/*.jpg"))
        return _manifest("photos", photos.resolve(), [names[row % len(names)] for row in range(images)])
    rng = np.random.default_rng(0)
    for row in range(images):
        noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((227, 227), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg")
    return _manifest("photos", folder.resolve(), [f"{row}.jpg" for row in range(images)])


def _manifest(name: str, folder: Path, files: list[str]) -> Manifest:
    labels = tuple(row % CLASSES for row in range(len(files)))
    classes = tuple(str(label) for label in range(CLASSES))
    return Manifest(name, "project", str(folder.resolve()), True, classes, tuple(files), labels, tuple(files), name)


def _decoded(manifest: Manifest, backbone: FrozenBackbone, count: int) -> Tensor:
    transform = backbone.preprocessing.transform()
    return torch.stack([transform(read_image(file)) for file in manifest.image_files()[:count]])


def class_sorted_accuracy(images_per_class: int, epochs: int, seed: int) -> dict[str, float]:
    """Top-1 (%) of a linear probe by SGD on features sorted by class, for three orders of reading.

    1,000 Gaussian classes; chunks of a fifth of a class and a buffer of 64 of them, as ImageNet-1k with chunks of 256
    images and `shuffle_buffer: 16384` has.
    """
    rng = np.random.default_rng(seed)
    classes, width, chunk = 1_000, 128, images_per_class // 5
    centres = rng.standard_normal((classes, width), dtype=np.float32)
    labels = np.repeat(np.arange(classes), images_per_class)
    features = torch.from_numpy(centres[labels] + 2.2 * rng.standard_normal((len(labels), width), dtype=np.float32))
    test_labels = np.repeat(np.arange(classes), 10)
    test = torch.from_numpy(
        centres[test_labels] + 2.2 * rng.standard_normal((len(test_labels), width), dtype=np.float32)
    )
    rows = np.arange(len(labels))
    orders: dict[str, Callable[[np.random.Generator], Iterator[Array]]] = {
        "full shuffle": lambda rng: _orders(rows, chunk, len(rows), rng),
        "training order": lambda rng: _orders(rows, chunk, 64 * chunk, rng),
        "as stored": lambda rng: iter([rows] * epochs),
    }
    found = {}
    for name, order in orders.items():
        torch.manual_seed(seed)
        model = _sgd(features, torch.from_numpy(labels), order(np.random.default_rng(seed)), classes, epochs)
        with torch.inference_mode():
            right = model(test).argmax(dim=1) == torch.from_numpy(test_labels)
        found[name] = 100 * float(right.float().mean())
    return found


def _orders(rows: Array, chunk: int, buffer: int, rng: np.random.Generator) -> Iterator[Array]:
    from neuralood.base.reading import training_orders

    return training_orders(rows, chunk, buffer, rng)


def _sgd(features: Tensor, labels: Tensor, orders: Iterator[Array], classes: int, epochs: int) -> nn.Linear:
    model = nn.Linear(features.shape[1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    steps = epochs * -(-len(labels) // 512)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in batches(next(orders), 512):
            loss = F.cross_entropy(model(features[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"peak_mb": _peak(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))}))
