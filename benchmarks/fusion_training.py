"""A step of fusion's training at full shapes: its time, its wait for data, its memory, and three seeds in one pass."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.fusion_world import here, in_a_process, open_train
from benchmarks.timing import PeakAnonymous, alternate, ratio
from neuralood.base import paths
from neuralood.base.console import show_progress
from neuralood.base.reading import training_epochs
from neuralood.base.seeding import derived_seed
from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.fusion import train
from neuralood.fusion.model import FusionClassifier
from neuralood.fusion.survey import survey
from neuralood.fusion.train import Seed, build_fusion, training_rows
from neuralood.fusion.trained import ImageData

HELD_OUT = 8
THREADS, BATCH, SMALL_BATCH, SEEDS = 2, 32, 8, 3
PROMISED = 20_000
"""MB that a step with batches of SMALL_BATCH may take."""

Record = dict[str, Any]


@dataclass
class Watch:
    """Seconds of each step of a training, from asking for its batch to asking for the next, and of its wait for it."""

    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def epochs(self, *given: Any, **named: Any) -> Iterator[Iterator[Any]]:
        """What takes the place of `training_epochs`."""
        return map(self._watched, training_epochs(*given, **named))

    def _watched(self, epoch: Iterator[Any]) -> Iterator[Any]:
        while True:
            asked = time.perf_counter()
            batch = next(epoch, None)
            if batch is None:
                return
            self.waits.append(time.perf_counter() - asked)
            yield batch
            self.steps.append(time.perf_counter() - asked)


@dataclass(frozen=True)
class Training:
    """What fusion is trained on in the working directory; `params` say how."""

    params: Params
    data: ImageData
    seeds: list[Seed]
    models: list[FusionClassifier]

    def run(self) -> None:
        """As `train_fusion` trains the models of all seeds, from what they are now."""
        shutil.rmtree(paths.DATA / ".partial", ignore_errors=True)  # an earlier run's checkpoint
        labels = train_labels()
        train._fit(self.params, self.models, self.data, labels, training_rows(self.seeds, len(labels)))

    def of_seed(self, number: int) -> "Training":
        """One seed's alone."""
        return replace(self, seeds=self.seeds[number : number + 1], models=self.models[number : number + 1])


def training_of(images: int, *, batch: int, epochs: int, seeds: int = 1, rois: str = "all") -> Training:
    """On the first `images` images, of which each seed holds out others; inputs are scaled."""
    training = unscaled_training_of(images, batch=batch, epochs=epochs, seeds=seeds, rois=rois)
    member = training_rows(training.seeds, len(training.data))
    scales = survey(training.data, training.models, member, paths.DATA / "features.zarr")
    for model, own in zip(training.models, scales, strict=True):
        own.set_on(model)
    return training


def unscaled_training_of(images: int, *, batch: int, epochs: int, seeds: int = 1, rois: str = "all") -> Training:
    """The same before the pass that finds scales."""
    params, labels = here(), train_labels()
    fusion = replace(params.fusion, batch_size=batch, epochs=epochs, seeds=seeds, rois=rois)
    params, data = replace(params, fusion=fusion), open_train()
    encoder, record = load_encoder()
    drawn = [_seed(number, images) for number in range(seeds)]
    order = train._order(fusion, encoder, record)
    classes = int(labels.max()) + 1
    models = [build_fusion(fusion, data, classes, order, encoder, one.seed) for one in drawn]
    return Training(params, data, drawn, models)


def train_labels() -> Array:
    """Of all images of train, by its manifest."""
    return np.asarray(read_manifest("train").labels)


def _seed(number: int, images: int) -> Seed:
    """Of two seeds' holdouts none is the other's."""
    held = np.arange(number * HELD_OUT, (number + 1) * HELD_OUT)
    return Seed(number, derived_seed(0, "fusion", number), np.setdiff1d(np.arange(images), held), held)


def measure_step(folder: Path, images: int) -> tuple[Record, Training]:
    """Seconds of a step and of its wait, page cache warm; and what was trained, for whoever wants a trained model."""
    with chdir(folder):
        training, watch = training_of(images, batch=BATCH, epochs=2), Watch()
        with mock.patch.object(train, "training_epochs", watch.epochs):
            training.run()
    steps, waits = (np.array(part[len(part) // 2 :]) for part in (watch.steps, watch.waits))  # the first warms up
    found = {
        "steps": len(steps),
        "seconds": float(np.median(steps)),
        "range": [float(steps.min()), float(steps.max())],
        "waiting": float(waits.sum() / steps.sum()),
        "parameters": sum(value.numel() for value in training.models[0].parameters()),
    }
    return found, training


def measure_peaks(folder: Path, images: int) -> Record:
    """The most anonymous memory of a process that trains, MB, by size of batch."""
    sizes = (SMALL_BATCH, BATCH)
    return {str(batch): in_a_process("fusion_training", folder, images, batch)["peak_mb"] for batch in sizes}


def measure_seeds(folder: Path, images: int, repeats: int) -> Record:
    """Training the models of several seeds in one pass over the data, beside a pass for each."""
    with chdir(folder):
        together = training_of(images, batch=BATCH, epochs=1, seeds=SEEDS)
        alone = [together.of_seed(number) for number in range(SEEDS)]

        def a_pass_each() -> None:
            for one in alone:
                one.run()

        cases: dict[str, Callable[[], object]] = {"one pass": together.run, "a pass each": a_pass_each}
        seconds = alternate(cases, repeats, warm_up=False)
    found = {name: float(np.median(values)) for name, values in seconds.items()}
    return {"seconds": found, "ratio": asdict(ratio(seconds, "one pass", "a pass each"))}


def _peak(folder: str, images: int, batch: int) -> float:
    show_progress(False)
    torch.set_num_threads(THREADS)
    with chdir(folder), PeakAnonymous() as memory:
        training_of(images, batch=batch, epochs=1).run()
    return memory.peak_mb


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"peak_mb": _peak(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))}))
