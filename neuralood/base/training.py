"""One plain training loop for every model: AdamW, warm-up and cosine, the best epoch by validation loss."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.base.records import write_text
from neuralood.base.store import Array

T = TypeVar("T")

WARMUP_SHARE = 0.05
"""Share of all steps in which the learning rate climbs linearly to its value; a cosine to 0 follows."""

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `lr` is the peak."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Epoch:
    """What one epoch left: numbers, 1-based."""

    epoch: int
    train_loss: float
    validation_loss: float


def fit(
    model: nn.Module,
    images: int,
    epochs: Iterator[Iterable[tuple[Array, T]]],
    loss_of: Callable[[T], Tensor],
    validate: Callable[[], float],
    schedule: Schedule,
    description: str,
    stop_after: int | None = None,
) -> list[Epoch]:
    """Train `model` in place on `images` images an epoch and leave it at its best epoch.

    `epochs` gives each epoch's batches, their rows and what `loss_of` makes the loss of; `validate()` the validation
    loss after an epoch, ties going to the earlier one. With `stop_after`, the same schedule ends after that many
    epochs and the last one is kept. Raises UserError at the first epoch whose loss is not finite.
    """
    optimizer = torch.optim.AdamW(_decay_groups(model, schedule.weight_decay), lr=schedule.lr)
    steps = schedule.epochs * math.ceil(images / schedule.batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    history: list[Epoch] = []
    best: dict[str, Tensor] | None = None
    last = stop_after or schedule.epochs
    for epoch in console.track(range(1, last + 1), description, last):
        model.train()
        total = 0.0
        for rows, batch in next(epochs):
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            rate.step()
            total += loss.item() * len(rows)
        train_loss = total / images
        _require_finite(train_loss, description, epoch, schedule.lr)
        validation_loss = _validation_loss(model, validate)
        _require_finite(validation_loss, description, epoch, schedule.lr)
        if stop_after or not history or validation_loss < min(past.validation_loss for past in history):
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        history.append(Epoch(epoch, train_loss, validation_loss))
    assert best is not None
    model.load_state_dict(best)
    model.eval()
    return history


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then a cosine to 0."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def best_epoch(history: list[Epoch]) -> int:
    """Number of the epoch with the lowest validation loss, the earlier of equals."""
    return min(history, key=lambda one: (one.validation_loss, one.epoch)).epoch


def write_curve(file: Path, history: list[Epoch]) -> None:
    """Write the training curve as TSV, for `dvc plots`."""
    lines = [f"{one.epoch}\t{one.train_loss:.6f}\t{one.validation_loss:.6f}" for one in history]
    write_text(file, "\n".join(["epoch\ttrain_loss\tvalidation_loss", *lines]) + "\n")


def _validation_loss(model: nn.Module, validate: Callable[[], float]) -> float:
    model.eval()
    with torch.inference_mode():
        return validate()


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only, not for biases, norms and single vectors."""
    trained = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in trained if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
    ]


def _require_finite(loss: float, description: str, epoch: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise UserError(f"{description}: the loss is {loss} in epoch {epoch}; lower its lr ({lr}) in params.yaml")
