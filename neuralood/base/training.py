"""One plain training loop for every model: AdamW, warm-up and cosine, the best epoch by validation loss."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.base.records import write_text
from neuralood.base.resuming import Checkpoint, TrainingState, resume, save_state
from neuralood.base.resuming import Epoch as Epoch
from neuralood.base.store import Array

T = TypeVar("T")

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch_size: int
    lr: float
    """The peak, where a cosine to 0 begins."""
    warmup: float
    """Share of all steps in which the learning rate climbs linearly to that peak."""
    weight_decay: float


def fit(
    model: nn.Module,
    images: int,
    epochs_after: Callable[[int], Iterator[Iterable[tuple[Array, T]]]],
    loss_of: Callable[[T], Tensor],
    validate: Callable[[], float],
    schedule: Schedule,
    description: str,
    checkpoint: Checkpoint | None = None,
    stop_after: int | None = None,
) -> list[Epoch]:
    """Train `model` in place on `images` images an epoch and leave it at its best epoch.

    `epochs_after(steps)` gives the epochs that are left after so many steps, the first of them without the batches
    done: their rows and what `loss_of` makes the loss of; `validate()` the validation loss after an epoch, ties going
    to the earlier one. With `stop_after`, the same schedule ends after that many epochs and the last one is kept.
    An interrupted run goes on at the step of its checkpoint and ends with the same weights; the checkpoint stays, for
    the caller to remove when the result is safe. Raises UserError at the first epoch whose loss is not finite.
    """
    optimizer = torch.optim.AdamW(_decay_groups(model, schedule.weight_decay), lr=schedule.lr, fused=True)
    per_epoch = math.ceil(images / schedule.batch_size)
    steps, last = schedule.epochs * per_epoch, stop_after or schedule.epochs
    state = (resume(checkpoint, model, optimizer) if checkpoint else None) or TrainingState()
    keep = _keeper(checkpoint, model, optimizer, state)
    epochs = epochs_after(state.step)
    for epoch in console.track(range(state.step // per_epoch + 1, last + 1), description, last - len(state.history)):
        model.train()
        for rows, batch in next(epochs):
            _set_rate(optimizer, schedule.lr * learning_rate_factor(state.step, steps, schedule.warmup))
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            state.total += loss.item() * len(rows)
            state.step += 1
            if state.step % per_epoch:
                keep(False)
        train_loss, state.total = state.total / images, 0.0
        _require_finite(train_loss, description, epoch, schedule.lr)
        validation_loss = _validation_loss(model, validate)
        _require_finite(validation_loss, description, epoch, schedule.lr)
        if stop_after or not state.history or validation_loss < min(one.validation_loss for one in state.history):
            state.best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        state.history.append(Epoch(epoch, train_loss, validation_loss))
        keep(epoch == last)
    model.load_state_dict(state.best)
    model.eval()
    return state.history


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up over a share of them, then a cosine to 0."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def best_epoch(history: Sequence[Epoch]) -> int:
    """Number of the epoch with the lowest validation loss, the earlier of equals."""
    return min(history, key=lambda one: (one.validation_loss, one.epoch)).epoch


def write_curve(file: Path, history: list[Epoch]) -> None:
    """Write the training curve as TSV, for `dvc plots`."""
    lines = [f"{one.epoch}\t{one.train_loss:.6f}\t{one.validation_loss:.6f}" for one in history]
    write_text(file, "\n".join(["epoch\ttrain_loss\tvalidation_loss", *lines]) + "\n")


def _keeper(
    checkpoint: Checkpoint | None, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> Callable[[bool], None]:
    """What writes the checkpoint when its time has come, or when it must."""
    written = time.monotonic()

    def keep(must: bool) -> None:
        nonlocal written
        if checkpoint is not None and (must or time.monotonic() - written >= checkpoint.every_s):
            save_state(checkpoint, model, optimizer, state)
            written = time.monotonic()

    return keep


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


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
