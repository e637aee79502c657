"""The encoder's training at NSD's shapes: ours beside the reference, from cached tokens beside the ViT in the loop.

    python -m benchmarks.encoder            # minutes; writes benchmarks/encoder.md and .json
    python -m benchmarks.encoder --short    # fewer repeats, into build/ only

Tokens, fMRI, ROIs and weights are random: what is timed does not depend on them. Ours has the reference's weights.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.dense_encoder import DenseEncoder, as_roi_encoder
from benchmarks.reads import clean, random_store
from benchmarks.timing import PeakAnonymous, PeakTensors, Ratio, alternate, ratio
from neuralood.backbone import FrozenBackbone, Preprocessing
from neuralood.base.console import console, note
from neuralood.base.reading import HostPatches, host_patches, training_epochs
from neuralood.base.records import write_json, write_text
from neuralood.base.store import Array, Store, open_store

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "encoder"

IMAGES, VERTICES, LH_VERTICES = 9_841, 39_548, 19_004
GRID, WIDTH, PIXELS = (31, 31), 768, 434
"""ViT-B/14 at 434 px."""
FAMILIES = {"streams": 7, "prf-visualrois": 7, "floc-bodies": 3, "floc-faces": 3, "floc-places": 3, "floc-words": 2}
"""ROIs of each Algonauts family in a hemisphere of one subject; every vertex is in a stream."""
IN_ANOTHER = 0.5
"""Share of the vertices that are in a ROI of another family too."""
BATCH, THREADS, DROPOUT = 32, 2, 0.1
REFERENCE, OURS, FEWER_HEADS = "reference, 16 heads", "ours, 16 heads", "ours, 8 heads"

FULL = {"repeats": 7, "batches": 4, "images": 4}
SHORT = {"repeats": 3, "batches": 2, "images": 2}
"""Repeats; batches of an epoch from the cache, and images through the ViT, that are timed."""

CPU = torch.device("cpu")
Record = dict[str, Any]


def main(*, short: bool) -> None:
    """Measure everything and write the page."""
    started, sizes = time.monotonic(), SHORT if short else FULL
    clean(SCRATCH)
    record = measure(sizes)
    folder = SCRATCH if short else HERE
    write_json(folder / "encoder.json", record)
    text = page(record, sizes, time.monotonic() - started)
    write_text(folder / "encoder.md", text)
    console.print(text, markup=False)


def measure(sizes: Record) -> Record:
    """All figures, by section."""
    torch.set_num_threads(THREADS)
    record: Record = {"pairs": int(membership().sum())}
    note("peak memory")
    record["peak"] = {name: _peak_of_process(name) for name in (REFERENCE, OURS, FEWER_HEADS)}
    models: dict[str, Any] = {name: build(name) for name in (REFERENCE, OURS, FEWER_HEADS)}
    _require_equal(models[REFERENCE], models[OURS])
    note("readout")
    record |= measure_readout(models[REFERENCE].readout, models[OURS].readout, sizes["repeats"])
    note("step")
    record["step"], record["seconds"] = measure_step(models, sizes["repeats"])
    note("epoch")
    record["epoch"] = measure_epoch(models[OURS], sizes)
    clean(SCRATCH)
    return record


def membership(vertices_in_all: int = VERTICES, lh_vertices: int = LH_VERTICES) -> Tensor:
    """Queries Q V: in each hemisphere every vertex in one stream, half of them in a ROI of another family too."""
    rng, streams, rois = np.random.default_rng(0), FAMILIES["streams"], sum(FAMILIES.values())
    member = np.zeros((2 * rois, vertices_in_all), bool)
    for first, vertices in ((0, np.arange(lh_vertices)), (rois, np.arange(lh_vertices, vertices_in_all))):
        member[first + rng.integers(0, streams, len(vertices)), vertices] = True
        inside = vertices[rng.random(len(vertices)) < IN_ANOTHER]
        member[first + rng.integers(streams, rois, len(inside)), inside] = True
    return torch.from_numpy(member)


def build(name: str) -> nn.Module:
    """The reference, or ours with its weights."""
    torch.manual_seed(0)
    reference = DenseEncoder(
        membership(),
        lh_vertices=LH_VERTICES,
        grid=GRID,
        width=WIDTH,
        depth=1,
        heads=8 if name == FEWER_HEADS else 16,
        dropout=DROPOUT,
        positions="sine",
    )
    return reference if name == REFERENCE else as_roi_encoder(reference)


def random_batch() -> tuple[Tensor, Tensor]:
    """Tokens B N W and fMRI B V."""
    source = torch.Generator().manual_seed(1)
    tokens = torch.randn(BATCH, GRID[0] * GRID[1], WIDTH, generator=source)
    return tokens, torch.randn(BATCH, VERTICES, generator=source)


def training_step(model: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """What `fit` does with a batch of tokens and fMRI."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)

    def step(tokens: Tensor, fmri: Tensor) -> None:
        loss = F.mse_loss(model(tokens), fmri)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def measure_readout(reference: nn.Module, ours: nn.Module, repeats: int) -> Record:
    """Seconds forward and backward, and the most memory of its tensors (MB), weights and their gradients left out."""
    source = torch.Generator().manual_seed(2)
    roi_tokens = torch.randn(BATCH, 2 * sum(FAMILIES.values()), WIDTH, generator=source, requires_grad=True)
    upstream = torch.randn(BATCH, VERTICES, generator=source)

    def pass_of(readout: nn.Module) -> Callable[[], None]:
        def both_ways() -> None:
            readout.zero_grad(set_to_none=True)
            roi_tokens.grad = None
            readout(roi_tokens).backward(upstream)

        return both_ways

    cases = {REFERENCE: pass_of(reference), OURS: pass_of(ours)}
    memory = {}
    for name, readout in ((REFERENCE, reference), (OURS, ours)):
        with PeakTensors() as forward:
            _kept = readout(roi_tokens)
        with PeakTensors() as both:
            cases[name]()
        gradients = [value.grad for value in readout.parameters()]
        memory[name] = {"forward": forward.peak_mb(), "forward and backward": both.peak_mb(without=gradients)}
    seconds = alternate(cases, repeats)
    return {
        "readout": asdict(ratio(seconds, OURS, REFERENCE)),
        "readout seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "readout memory": memory,
    }


def measure_step(models: dict[str, nn.Module], repeats: int) -> tuple[Record, Record]:
    """Ratios of the whole step over the reference's, and the median seconds of each."""
    batch = random_batch()
    steps = {name: training_step(model) for name, model in models.items()}
    cases = {name: lambda step=step: step(*batch) for name, step in steps.items()}
    seconds = alternate(cases, repeats)
    ratios = {name: asdict(ratio(seconds, name, REFERENCE)) for name in (OURS, FEWER_HEADS)}
    return ratios, {name: float(np.median(values)) for name, values in seconds.items()}


def measure_epoch(model: nn.Module, sizes: Record) -> Record:
    """An epoch from cached tokens beside the same with the frozen ViT before each step; a part timed of both."""
    images = sizes["batches"] * BATCH
    store = open_store(random_store(clean(SCRATCH / "tokens"), images, GRID[0] * GRID[1], WIDTH))
    step, backbone = training_step(model), _vit()
    pixels = torch.randn(sizes["images"], 3, PIXELS, PIXELS)
    cases = {"cache": lambda: _epoch(step, store), "ViT": lambda: backbone.tokens(pixels)}
    seconds = {name: np.array(values) for name, values in alternate(cases, sizes["repeats"]).items()}
    cached, vit = seconds["cache"] / images, seconds["ViT"] / sizes["images"]  # an image
    each = (cached + vit) / cached
    return {
        "ratio": asdict(Ratio(float(np.median(each)), float(each.min()), float(each.max()))),
        "minutes": {
            "from the cache": IMAGES * float(np.median(cached)) / 60,
            "with the ViT in the loop": IMAGES * float(np.median(cached + vit)) / 60,
        },
    }


def _epoch(step: Callable[[Tensor, Tensor], None], store: Store) -> None:
    """One epoch through the reader, as the encoder is trained."""
    array = store["patches"]
    target = torch.randn(len(array), VERTICES)

    def load(rows: Array) -> tuple[HostPatches, Tensor]:
        return host_patches(store, rows, pin=False), target[rows]

    epochs = training_epochs((array,), np.arange(len(array)), len(array), BATCH, load, np.random.default_rng(0))
    for _, (patches, fmri) in next(epochs):
        step(patches.on(CPU), fmri)


def _vit() -> FrozenBackbone:
    model = timm.create_model("vit_base_patch14_dinov2", img_size=PIXELS, num_classes=0)
    return FrozenBackbone(model, (-1,), "tokens", Preprocessing(PIXELS, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3))


@torch.inference_mode()
def _require_equal(reference: nn.Module, ours: nn.Module) -> None:
    tokens = random_batch()[0][:2]
    torch.testing.assert_close(ours.eval()(tokens), reference.eval()(tokens), rtol=0, atol=1e-4)


def _peak_of_process(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.encoder", "--peak", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(json.loads(done.stdout)["peak_mb"])


def _peak(name: str) -> float:
    """Of two steps (the optimizer's moments come with the first), MB."""
    torch.set_num_threads(THREADS)
    step, batch = training_step(build(name)), random_batch()
    with PeakAnonymous() as memory:
        for _ in range(2):
            step(*batch)
    return memory.peak_mb


def page(record: Record, sizes: Record, seconds: float) -> str:
    """The Markdown page."""
    memory, minutes = record["readout memory"], record["epoch"]["minutes"]
    share = {what: memory[OURS][what] / memory[REFERENCE][what] for what in memory[OURS]}
    lines = [
        "# The encoder's training: what it costs",
        "",
        f"Written by `python -m benchmarks.encoder`, on {THREADS} threads, float32. A ratio above 1 means that ours",
        f"is faster; it is the median of {sizes['repeats']} alternating repeats, its range in brackets. Tokens, fMRI,",
        "ROIs and weights are random; outputs of ours and the reference are compared before they are timed.",
        "",
        f"NSD's shapes: {GRID[0] * GRID[1]} patch tokens of width {WIDTH} (ViT-B/14 at {PIXELS} px), {VERTICES:,}",
        f"vertices (lh {LH_VERTICES:,}), {2 * sum(FAMILIES.values())} ROI queries, {record['pairs']:,} pairs",
        f"of a query and a vertex of its ROI. One decoder layer, sine positions, dropout {DROPOUT}, batches of",
        f"{BATCH}, gradients clipped, AdamW.",
        "",
        "The reference (benchmarks/dense_encoder.py) is the ROI-query transformer of Adeli et al. (2023, 2025) on",
        "`nn.MultiheadAttention`; it reads every vertex of a hemisphere from all its ROI tokens, then masks and sums.",
        "",
        "| what | ours | reference | ratio |",
        "|---|---|---|---|",
        _times("readout, forward and backward", record["readout seconds"], OURS, record["readout"]),
        _times("whole step, 16 heads", record["seconds"], OURS, record["step"][OURS]),
        _times("whole step, ours with 8 heads", record["seconds"], FEWER_HEADS, record["step"][FEWER_HEADS]),
        "",
        "## Memory",
        "",
        "Readout: the most that the tensors it makes take at once; weights and their gradients are left out. Whole:",
        "peak anonymous memory (RssAnon) of a process that trains two steps, PyTorch and the batch included.",
        "",
        "| MB | ours | reference | share |",
        "|---|---|---|---|",
        *(
            f"| readout, {what} | {memory[OURS][what]:.1f} | {memory[REFERENCE][what]:.1f} | {share[what]:.2f} |"
            for what in share
        ),
        *(
            f"| whole, {name} | {record['peak'][name]:,.0f} | {record['peak'][REFERENCE]:,.0f} | "
            f"{record['peak'][name] / record['peak'][REFERENCE]:.2f} |"
            for name in (OURS, FEWER_HEADS)
        ),
        "",
        "## An epoch",
        "",
        f"{IMAGES:,} images, extrapolated: from the cache (float16, page cache warm, through our reader)",
        f"{sizes['batches']} batches are timed, of the frozen ViT-B/14 {sizes['images']} images; with it in the loop",
        "its time is added to the other's, decoding of images left out.",
        "",
        "| from the cache | with the ViT in the loop | ratio |",
        "|---|---|---|",
        f"| {minutes['from the cache']:.1f} min | {minutes['with the ViT in the loop']:.0f} min | "
        f"{Ratio(**record['epoch']['ratio'])} |",
        "",
        f"{seconds / 60:.1f} minutes on {os.cpu_count()} cores, {platform.machine()}, PyTorch {torch.__version__}.",
        "",
    ]
    return "\n".join(lines)


def _times(what: str, seconds: Record, ours: str, found: Record) -> str:
    return f"| {what} | {seconds[ours]:.3f} s | {seconds[REFERENCE]:.3f} s | {Ratio(**found)} |"


if __name__ == "__main__":
    if "--peak" in sys.argv:
        sys.stdout.write(json.dumps({"peak_mb": _peak(sys.argv[-1])}))
    else:
        main(short="--short" in sys.argv[1:])
