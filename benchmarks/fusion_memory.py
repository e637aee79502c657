"""How the memory of each stage grows with the images, and a stage in two processes; each run is its own process."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.fusion_world import ROOT, SMALL_SHAPES, edit_params, here, in_a_process, make_project
from benchmarks.timing import PeakAnonymous
from neuralood.backbone import FrozenBackbone, Preprocessing, TokenShape
from neuralood.base import paths
from neuralood.base.console import show_progress
from neuralood.base.store import CONTENTS, open_store
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.evaluation import evaluate
from neuralood.fusion.train import train_fusion
from neuralood.synthesis import synthesize
from neuralood.tokens.cache import cache_tokens

SMALL_FUSION = {
    "patch": 64,
    "depth": 1,
    "heads": 4,
    "width": 32,
    "batch_size": 64,
    "epochs": 1,
    "probe_c": [0.001, 0.1, 10.0],
}
CPU = torch.device("cpu")

Record = dict[str, Any]


class SmallTokens(FrozenBackbone):
    """Random tokens of the small shapes, for any image."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layers, self.features = (-1,), "tokens"
        self.preprocessing = Preprocessing(16, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
        self.shape = TokenShape(SMALL_SHAPES.width, 1, SMALL_SHAPES.grid, SMALL_SHAPES.width)
        self.model = nn.Linear(1, 1)
        self.random = torch.Generator().manual_seed(0)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W -> random [CLS] B D' and patches B 1 N D."""
        shape = (len(images), 1, self.shape.patches, self.shape.width)
        return torch.rand(shape[0], shape[3], generator=self.random), torch.rand(shape, generator=self.random)


def _cache_tokens(params: Params) -> None:
    """Of images that are all one file, into a set of its own."""
    manifest = read_manifest("train")
    for file in manifest.image_files():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not Path("one.png").exists():
            Image.new("RGB", (16, 16)).save("one.png")
        file.hardlink_to("one.png")
    cache_tokens(manifest, "random", SmallTokens(), params.cache, CPU, workers=0)


STAGES: dict[str, Callable[[Params], None]] = {
    "synthesize": lambda params: synthesize(params, "train"),
    "train_fusion": train_fusion,
    "synthesize val": lambda params: synthesize(params, "val"),
    "evaluate": lambda params: evaluate(params, "val"),
    "cache_tokens": _cache_tokens,
}
"""In the order in which they are run; cache_tokens last, as it replaces tokens by others."""
MEASURED = ("cache_tokens", "synthesize", "train_fusion", "evaluate")


def measure_growth(folder: Path, counts: tuple[int, ...], runs: int) -> Record:
    """Peak anonymous memory of each stage, MB, by count of images: the highest of `runs` processes.

    How many batches are alive at once is chance, and a short run has fewer chances to meet the most.
    """
    found: Record = {stage: {} for stage in MEASURED}
    for count in counts:
        peaks: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for _ in range(runs):
            make_project(folder, SMALL_SHAPES, count, ("train", "val"))
            edit_params(folder, fusion=SMALL_FUSION)
            for stage in STAGES:
                peaks[stage].append(in_a_process("fusion_memory", stage, folder)["peak_mb"])
        for stage in MEASURED:
            found[stage][str(count)] = max(peaks[stage])
    shutil.rmtree(folder)
    return found


def _peak(stage: str, folder: str) -> float:
    show_progress(False)
    with chdir(folder), PeakAnonymous() as memory:
        STAGES[stage](here())
    return memory.peak_mb


PROCESSES = {"1 process, 2 threads": (1, 2), "1 process, 1 thread": (1, 1), "2 processes, 1 thread each": (2, 1)}
"""runtime.nproc and runtime.threads."""


def measure_processes(folder: Path, repeats: int) -> Record:
    """`synthesize` of train by the command of its stage: seconds, and what it wrote."""
    found: Record = {}
    for name, (nproc, threads) in PROCESSES.items():
        edit_params(folder, runtime={"nproc": nproc, "threads": threads})
        runs = [_run_stage(folder, "synthesize", "train") for _ in range(repeats)]
        with chdir(folder):
            found[name] = {
                "seconds": min(runs),
                "contents": open_store(paths.predicted_fmri("train")).attributes[CONTENTS],
            }
    edit_params(folder, runtime={"nproc": 1, "threads": 2})
    return found


def _run_stage(folder: Path, stage: str, *arguments: str) -> float:
    """Seconds of a stage's command, Python's start included."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"peak_mb": _peak(sys.argv[1], sys.argv[2])}))
