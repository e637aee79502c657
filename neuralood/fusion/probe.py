"""The linear probe: multinomial logistic regression on the same tokens, as strong as its penalty can make it.

Solved by L-BFGS on all training images, read batch by batch: one pass gives value and gradient of every probe, of all
penalties and seeds, that is not solved yet. Same objective and stopping rule as scikit-learn's LogisticRegression.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.base import collectives, console, ranks
from neuralood.base.descent import Answer, descend, side_by_side, wide
from neuralood.base.store import Array, Rows

MAX_ITERATIONS = 2_000
TOLERANCE = 1e-5
"""Largest derivative of the mean loss at which a probe is taken to be solved."""
BATCH = 2_048
"""Images in a batch of features."""
SD_FLOOR = 1e-6


@dataclass(frozen=True)
class Probe:
    """features I F -> logits: standardised by `mean` and `sd` (F), times `weight` (C F), plus `bias` (C)."""

    mean: Array
    sd: Array
    weight: Array
    bias: Array
    c: float

    def logits(self, features: Array) -> Array:
        """features I F -> I C."""
        scaled: Array = ((features - self.mean) / self.sd) @ self.weight.T + self.bias
        return scaled


@dataclass(frozen=True)
class Split:
    """Training rows and holdout of one seed, ascending, and mean and sd of the features (F) over the training rows."""

    rows: Array
    holdout: Array
    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class _Task:
    """One probe to solve: its seed's split, and the inverse strength of its penalty."""

    split: int
    c: float


def fit_probes(
    features: Array | Rows,
    labels: Array,
    splits: Sequence[Split],
    strengths: Sequence[float],
    device: torch.device,
    columns: slice = slice(None),
) -> list[Probe]:
    """For each split the probe whose inverse penalty in `strengths` has the lowest cross-entropy on the holdout.

    Of equals the stronger penalty wins. features I F, of which probes and splits have the given columns, labels I;
    every class has a training row in each split.
    """
    tasks = [_Task(split, c) for split in range(len(splits)) for c in sorted(strengths)]
    problem = _Problem(features, labels, splits, device, columns)
    width = problem.classes * (len(splits[0].mean) + 1)
    start = torch.zeros(width, dtype=wide(device), device=device)
    descents = [descend(start, TOLERANCE, MAX_ITERATIONS) for _ in tasks]
    solved = side_by_side(descents, lambda points: problem.answers(tasks, points))
    if not all(reached for _, reached in solved):
        console.warn(f"a linear probe stopped before its gradient was below {TOLERANCE}")
    losses = problem.holdout_losses(tasks, [point for point, _ in solved])
    chosen = []
    for split in range(len(splits)):
        own = [number for number, task in enumerate(tasks) if task.split == split]
        best = min(own, key=lambda number: losses[number])  # the first of equals: the stronger penalty
        chosen.append(problem.probe(tasks[best], solved[best][0]))
    return chosen


def holdout_losses(
    probes: Sequence[Probe], features: Array | Rows, labels: Array, split: Split, device: torch.device
) -> list[float]:
    """Cross-entropy on the holdout of probes that scale their features as the split does."""
    problem = _Problem(features, labels, [split], device)
    points = [np.column_stack([probe.weight, probe.bias]).astype(np.float32) for probe in probes]
    tasks = [_Task(0, probe.c) for probe in probes]
    return problem.holdout_losses(tasks, [torch.from_numpy(point).to(device).flatten() for point in points])


class _Problem:
    """The data that probes are solved on, and what a pass over it gives."""

    def __init__(
        self,
        features: Array | Rows,
        labels: Array,
        splits: Sequence[Split],
        device: torch.device,
        columns: slice = slice(None),
    ) -> None:
        self.features, self.labels, self.splits, self.device, self.columns = features, labels, splits, device, columns
        self.classes = int(labels.max()) + 1
        self.member = np.zeros((len(splits), len(labels)), bool)  # S I: whether a row trains the split's probes
        for number, split in enumerate(splits):
            self.member[number, split.rows] = True

    def answers(self, tasks: Sequence[_Task], points: dict[int, Tensor]) -> dict[int, Answer]:
        """Objective and gradient at each point P: mean cross-entropy + ||weights||^2 / (2 c n), as scikit-learn's."""
        value = {number: torch.zeros((), dtype=wide(self.device), device=self.device) for number in points}
        gradient = {number: torch.zeros_like(point) for number, point in points.items()}
        for rows in ranks.share(_batches(len(self.labels))):
            for split, numbers in self._by_split(tasks, points).items():
                own = rows[self.member[split, rows]]
                if not len(own):
                    continue
                inputs, truth = self._inputs(own, split)
                log_odds = self._log_softmax(inputs, [points[number] for number in numbers])  # B A C
                right = truth[:, None, None].expand(-1, len(numbers), 1)
                losses = -log_odds.gather(2, right).squeeze(2).to(wide(self.device)).sum(0)  # A
                residual = log_odds.exp_().scatter_add_(2, right, torch.full_like(right, -1, dtype=inputs.dtype))
                slope = residual.flatten(1).T @ inputs  # AC F+1
                for number, loss, part in zip(numbers, losses, slope.chunk(len(numbers)), strict=True):
                    value[number] += loss
                    gradient[number] += part.flatten()
        for sums in (*value.values(), *gradient.values()):
            collectives.sum_over(sums)
        return {
            number: self._penalised(tasks[number], point, value[number], gradient[number])
            for number, point in points.items()
        }

    def holdout_losses(self, tasks: Sequence[_Task], points: Sequence[Tensor]) -> list[float]:
        """Mean cross-entropy of each solved probe on its holdout."""
        total = [0.0] * len(tasks)
        numbered = dict(enumerate(points))
        for split, numbers in self._by_split(tasks, numbered).items():
            holdout = self.splits[split].holdout
            for rows in np.split(holdout, range(BATCH, len(holdout), BATCH)):
                inputs, truth = self._inputs(rows, split)
                log_odds = self._log_softmax(inputs, [points[number] for number in numbers])
                losses = -log_odds.gather(2, truth[:, None, None].expand(-1, len(numbers), 1)).squeeze(2)
                for number, loss in zip(numbers, losses.to(wide(self.device)).sum(0).tolist(), strict=True):
                    total[number] += loss / len(holdout)
        return total

    def probe(self, task: _Task, point: Tensor) -> Probe:
        """The probe that a solution P is."""
        weight, split = point.view(self.classes, -1).float().cpu().numpy(), self.splits[task.split]
        return Probe(split.mean.numpy(), _sd(split).numpy(), weight[:, :-1], weight[:, -1], task.c)

    def _penalised(self, task: _Task, point: Tensor, value: Tensor, gradient: Tensor) -> Answer:
        images = len(self.splits[task.split].rows)
        c = task.c / 2 if self.classes == 2 else task.c  # scikit-learn gives two classes one vector, +w/2 and -w/2 here
        weight = point.view(self.classes, -1).clone()
        weight[:, -1] = 0.0  # biases are free
        penalty = weight.square().sum() / (2 * c * images)
        return float(value / images + penalty), gradient / images + weight.flatten() / (c * images)

    def _inputs(self, rows: Array, split: int) -> tuple[Tensor, Tensor]:
        """Standardised features and a 1 for the bias, B F+1, and labels B, of some rows."""
        mean, sd = self.splits[split].mean.to(self.device), _sd(self.splits[split]).to(self.device)
        values = torch.from_numpy(np.ascontiguousarray(self.features[rows][:, self.columns])).to(self.device)
        truth = torch.from_numpy(self.labels[rows].astype(np.int64)).to(self.device)
        return F.pad((values - mean) / sd, (0, 1), value=1.0), truth

    def _log_softmax(self, inputs: Tensor, points: Sequence[Tensor]) -> Tensor:
        """inputs B F+1, A points P -> log-probabilities B A C."""
        weights = torch.cat([point.view(self.classes, -1) for point in points]).to(inputs.dtype)  # AC F+1
        return (inputs @ weights.T).view(len(inputs), len(points), self.classes).log_softmax(-1)

    @staticmethod
    def _by_split(tasks: Sequence[_Task], points: dict[int, Tensor]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number in points:
            found.setdefault(tasks[number].split, []).append(number)
        return found


def _sd(split: Split) -> Tensor:
    return split.sd.clamp_min(SD_FLOOR)


def _batches(images: int) -> list[Array]:
    return [np.arange(start, min(start + BATCH, images)) for start in range(0, images, BATCH)]
