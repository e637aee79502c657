"""One plain training loop for every model: AdamW, warm-up and cosine, the best epoch by validation loss."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from neuralood.base import collectives, console, ranks
from neuralood.base.errors import UserError
from neuralood.base.records import write_text
from neuralood.base.resuming import Checkpoint, Trained, TrainingState, fresh_state, resume, save_state
from neuralood.base.resuming import Epoch as Epoch
from neuralood.base.store import Array

T = TypeVar("T")

GRADIENT_NORM = 1.0
"""Gradients are clipped to this norm."""


@dataclass(frozen=True)
class Sgd:
    """Plain stochastic gradient descent with momentum, gradients not clipped; `rates` has each model's peak rate."""

    momentum: float
    rates: tuple[float, ...]


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
    ema: float = 0.0
    """Decay a step of the running average of the weights, which is what is validated and kept; 0 for none."""
    sgd: Sgd | None = None
    """In place of AdamW, `lr` and `weight_decay`."""


class Loss(NamedTuple):
    """The mean loss over some images, and how many they are."""

    mean: Tensor
    images: int


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

    def counted(epoch: Iterable[tuple[Array, T]]) -> Iterator[tuple[Array, tuple[Array, T]]]:
        return ((rows, (rows, batch)) for rows, batch in epoch)

    (trained,) = fit_together(
        [model],
        images,
        lambda steps: map(counted, epochs_after(steps)),
        lambda batch: [Loss(loss_of(batch[1]), len(ranks.own_rows(batch[0])))],
        lambda: [validate()],
        schedule,
        description,
        checkpoint,
        stop_after,
    )
    return trained.history


def fit_together(
    models: Sequence[nn.Module],
    images: int,
    epochs_after: Callable[[int], Iterator[Iterable[tuple[Array, T]]]],
    losses_of: Callable[[T], list[Loss | None]],
    validate: Callable[[], list[float]],
    schedule: Schedule,
    description: str,
    checkpoint: Checkpoint | None = None,
    stop_after: int | None = None,
) -> list[Trained]:
    """Train several models on the same batches, each as `fit` would alone: the data are read once for all.

    `losses_of` gives each model's loss of a batch, None where no image of it is the model's to learn from; `images` are
    those of an epoch, whichever model takes them. A model's best epoch does not depend on the others.
    """
    together = nn.ModuleList(models)
    optimizer = _optimizer(models, together, schedule)
    per_epoch = math.ceil(images / schedule.batch_size)
    steps, last = schedule.epochs * per_epoch, stop_after or schedule.epochs
    collectives.draw_apart()
    state = (resume(checkpoint, together, optimizer) if checkpoint else None) or fresh_state(models, schedule.ema)
    keep = _Keeper(checkpoint, together, optimizer, state)
    compute = collectives.distributed(_Losses(together, losses_of))
    epochs, first = epochs_after(state.step), state.step // per_epoch + 1
    for epoch in console.track(range(first, last + 1), description, last + 1 - first):
        together.train()
        for rows, batch in next(epochs):
            _set_rates(optimizer, learning_rate_factor(state.step, steps, schedule.warmup))
            losses: list[Loss | None] = compute(batch)
            if not ranks.has_part(rows):
                losses = [Loss(loss.mean, 0) if loss else None for loss in losses]
            due = _backward(losses, optimizer, keep)
            for model in models if schedule.sgd is None else ():
                nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            state.step += 1
            for one, model, loss in zip(state.models, models, losses, strict=True):
                one.count(loss)
                one.follow(model, schedule.ema, state.step)
            if due and state.step % per_epoch:
                keep.write()
        train_losses = _train_losses(state)
        validation_losses = _validation_losses(together, models, state, validate)
        for one, model, train, validation in zip(state.models, models, train_losses, validation_losses, strict=True):
            _require_finite(train, description, epoch, schedule.lr)
            _require_finite(validation, description, epoch, schedule.lr)
            one.end_epoch(Epoch(epoch, train, validation), model, keep_last=stop_after is not None)
        if keep.agreed() or epoch == last:
            keep.write()
    optimizer.zero_grad(set_to_none=True)  # room for the last weights
    for one, model in zip(state.models, models, strict=True):
        best_is_last = stop_after is not None or best_epoch(one.history) == len(one.history)
        one.last = one.best if best_is_last else one.kept_now(model)
        model.load_state_dict(one.best)
    together.eval()
    return state.models


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


class _Losses(nn.Module):
    """Models and their losses as one module, whose gradients several processes average."""

    def __init__(self, models: nn.ModuleList, losses_of: Callable[[Any], list[Loss | None]]) -> None:
        super().__init__()
        self.models = models
        self.losses_of = losses_of

    def forward(self, batch: Any) -> list[Loss | None]:
        """A batch -> each model's loss of it."""
        return self.losses_of(batch)


class _Keeper:
    """Writes the checkpoint when its time has come, which the first of several processes says."""

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        together: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
    ) -> None:
        self.checkpoint, self.together, self.optimizer, self.state = checkpoint, together, optimizer, state
        self.written = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether, by this process's clock."""
        return self.checkpoint is not None and time.monotonic() - self.written >= self.checkpoint.every_s

    def agreed(self) -> bool:
        """Whether by the clock of the first."""
        return collectives.broadcast(lambda: self.is_due)

    def write(self) -> None:
        """Write it, if there is one."""
        if self.checkpoint is not None:
            save_state(self.checkpoint, self.together, self.optimizer, self.state)
            self.written = time.monotonic()


def _backward(losses: Sequence[Loss | None], optimizer: torch.optim.Optimizer, keep: _Keeper) -> bool:
    """Gradients of the mean over the whole batch, of which each process has a part; whether a checkpoint is due.

    Processes average their gradients: each mean is weighted by its share of the images, times the processes.
    """
    optimizer.zero_grad(set_to_none=True)
    own = [loss.images if loss else 0 for loss in losses]
    if ranks.count() == 1:
        if any(own):
            torch.stack([loss.mean for loss in losses if loss]).sum().backward()  # type: ignore[no-untyped-call]
        return keep.is_due
    *images, due = collectives.sums([*own, float(ranks.is_first() and keep.is_due)])
    weights = [ranks.count() * part / max(1.0, whole) for part, whole in zip(own, images, strict=True)]
    weighted = [loss.mean * weight for loss, weight in zip(losses, weights, strict=True) if loss]
    torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
    return due > 0


def _optimizer(models: Sequence[nn.Module], together: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Each group of parameters knows its `peak`, the rate that a factor is applied to in each step."""
    if schedule.sgd is None:
        groups = [{**group, "peak": schedule.lr} for group in _decay_groups(together, schedule.weight_decay)]
        return torch.optim.AdamW(groups, lr=schedule.lr, fused=True)
    rates = zip(models, schedule.sgd.rates, strict=True)
    return torch.optim.SGD(
        [{"params": list(model.parameters()), "peak": rate} for model, rate in rates], momentum=schedule.sgd.momentum
    )


def _set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _train_losses(state: TrainingState) -> list[float]:
    """Mean loss of this epoch's images of each model, over all processes; counting begins anew."""
    totals = collectives.sums([one.total for one in state.models])
    images = collectives.sums([float(one.images) for one in state.models])
    for one in state.models:
        one.total, one.images = 0.0, 0
    return [total / max(1.0, count) for total, count in zip(totals, images, strict=True)]


def _validation_losses(
    together: nn.Module, models: Sequence[nn.Module], state: TrainingState, validate: Callable[[], list[float]]
) -> list[float]:
    """Of the weights that would be kept now: the average where there is one."""
    together.eval()
    trained = []
    if state.averages:
        trained = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
        for model, one in zip(models, state.models, strict=True):
            model.load_state_dict(one.average)
    with torch.inference_mode():
        losses = validate()
    for model, weights in zip(models, trained, strict=False):  # none where nothing was put in their place
        model.load_state_dict(weights)
    return losses


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
