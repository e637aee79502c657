"""Baselines that no step of training makes: neighbours to compare with, and linear heads made of solved probes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralood.base import collectives
from neuralood.base.resuming import Trained
from neuralood.base.store import Array, Rows
from neuralood.fusion.baselines import LinearHead
from neuralood.fusion.neighbours import NearestNeighbours, choose_neighbours, write_neighbours
from neuralood.fusion.probe import Probe, Split, holdout_losses
from neuralood.fusion.probe_ensemble import mean_of
from neuralood.fusion.trained import Classifier
from neuralood.fusion.wise import interpolated

Choice = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """What is kept of one seed: its model, what it chose on the holdout, and the cross-entropy there.

    `trained` is None where the model was solved.
    """

    model: Classifier
    choice: Choice
    holdout: float
    trained: Trained | None = None


@dataclass(frozen=True)
class Features:
    """What the linear probe reads of every image, I F, their labels I, each seed's split, and where to compute."""

    rows: Rows
    labels: Array
    splits: Sequence[Split]
    device: torch.device

    def holdout_loss(self, number: int, probe: Probe) -> float:
        """Cross-entropy of a probe of all features on a seed's holdout."""
        return holdout_losses([probe], self.rows, self.labels, self.splits[number], self.device)[0]


def neighbours(models: Sequence[NearestNeighbours], features: Features) -> list[Kept]:
    """Variant `knn`: the store that all seeds compare with is written first."""
    first, kept = models[0], []
    collectives.broadcast(lambda: write_neighbours(features.rows, first.sizes.cls_width, first.store))
    for model, split in zip(models, features.splits, strict=True):
        k, loss = choose_neighbours(model, features.rows, features.labels, split.rows, split.holdout)
        kept.append(Kept(model, {"k": k}, loss))
    return kept


def weight_averages(models: Sequence[LinearHead], features: Features, probes: Sequence[Probe]) -> list[Kept]:
    """Variant `wise`, from the seeds' linear probes."""
    found = [
        interpolated(probe, features.rows, features.labels, split, features.device)
        for probe, split in zip(probes, features.splits, strict=True)
    ]
    return _heads(models, features, found)


def probe_ensembles(
    models: Sequence[LinearHead], features: Features, solve: Callable[[str, slice], list[Probe]]
) -> list[Kept]:
    """Variant `probe_ensemble`. `solve(name, columns)` gives each seed's probe on some of the features."""
    width = models[0].sizes.cls_width
    pairs = zip(solve("probes_cls", slice(width)), solve("probes_gap", slice(width, None)), strict=True)
    return _heads(models, features, [(mean_of(pair), {"c": [probe.c for probe in pair]}) for pair in pairs])


def _heads(models: Sequence[LinearHead], features: Features, found: Sequence[tuple[Probe, Choice]]) -> list[Kept]:
    kept = []
    for number, (model, (probe, choice)) in enumerate(zip(models, found, strict=True)):
        model.take(probe)
        kept.append(Kept(model, choice, features.holdout_loss(number, probe)))
    return kept
