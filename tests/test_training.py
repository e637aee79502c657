"""The training loop: its schedule, which epoch is kept, and that equal seeds give equal weights."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from neuralood.base.errors import UserError
from neuralood.base.reading import batches
from neuralood.base.training import WARMUP_SHARE, Epoch, Schedule, best_epoch, fit, learning_rate_factor, write_curve

ROWS = np.arange(20)
SCHEDULE = Schedule(epochs=4, batch_size=6, lr=0.05, weight_decay=0.1)


def shuffled(seed, size=SCHEDULE.batch_size):
    """Endless epochs of ROWS in random order: a batch is its rows."""
    rng = np.random.default_rng(seed)
    while True:
        yield [(rows, rows) for rows in batches(rng.permutation(ROWS), size)]


def test_learning_rate_warms_up_then_falls_by_a_cosine_to_nearly_0():
    factors = [learning_rate_factor(step, 200) for step in range(201)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)  # 5 % of 200
    assert round(WARMUP_SHARE * 200) == 10
    assert factors[10] == 1.0
    assert factors[105] == pytest.approx(0.5)
    assert factors[200] == pytest.approx(0.0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert factors[10 + 19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))


@pytest.mark.parametrize("steps", [1, 2, 3, 19])
def test_short_schedules_have_a_rate_above_0_at_every_step(steps):
    assert all(0 < learning_rate_factor(step, steps) <= 1 for step in range(steps))


class Run:
    """A small regression, trained; what happened in it."""

    def __init__(self, validation=None, schedule=SCHEDULE, stop_after=None, seed=3, weights=0):
        source = np.random.default_rng(0)
        self.x = torch.from_numpy(source.standard_normal((20, 3))).float()
        self.y = self.x @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
        self.model = nn.Linear(3, 1)
        with torch.no_grad():
            self.model.weight.copy_(torch.full((1, 3), 0.1 * (weights + 1)))
            self.model.bias.zero_()
        self.validation = validation
        self.batches, self.after, self.modes = [], [], []
        self.history = fit(
            self.model,
            len(ROWS),
            shuffled(seed),
            self.loss_of,
            self.validate,
            schedule,
            "test model",
            stop_after=stop_after,
        )

    def loss_of(self, rows):
        self.batches.append(rows)
        self.modes.append(self.model.training)
        return (self.model(self.x[rows]) - self.y[rows]).square().mean()

    def validate(self):
        self.modes.append(self.model.training)
        self.after.append(self.weights())
        if self.validation is not None:
            return self.validation[len(self.after) - 1]
        return float((self.model(self.x) - self.y).square().mean())

    def weights(self):
        return torch.cat([value.detach().flatten() for value in self.model.parameters()]).clone()


@pytest.mark.parametrize(
    ("validation", "best"),
    [([4, 3, 2, 1], 4), ([1, 2, 3, 4], 1), ([3, 1, 1, 2], 2), ([1, 1, 1, 1], 1), ([2, 3, 1, 1], 3)],
)
def test_the_best_epoch_is_kept_the_earlier_of_equals(validation, best):
    run = Run(validation)
    assert best_epoch(run.history) == best
    assert torch.equal(run.weights(), run.after[best - 1])
    assert [one.validation_loss for one in run.history] == validation
    assert [one.epoch for one in run.history] == [1, 2, 3, 4]
    assert len({tuple(weights.tolist()) for weights in run.after}) == 4
    assert not run.model.training


def test_best_epoch_does_not_depend_on_the_order_of_the_history():
    assert best_epoch([Epoch(3, 0, 1.0), Epoch(2, 0, 1.0), Epoch(1, 0, 2.0)]) == 2


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stop_after_follows_the_same_schedule_and_keeps_the_last_epoch(stop):
    validation = [1, 2, 3, 4]  # the first would be the best
    whole, stopped = Run(validation), Run(validation, stop_after=stop)
    assert len(stopped.history) == stop
    assert torch.equal(stopped.weights(), whole.after[stop - 1])
    assert [one.train_loss for one in stopped.history] == [one.train_loss for one in whole.history[:stop]]


def test_every_epoch_sees_every_row_once_in_another_order():
    run = Run()
    per_epoch = [np.concatenate(run.batches[start : start + 4]) for start in range(0, 16, 4)]
    assert [len(batch) for batch in run.batches[:4]] == [6, 6, 6, 2]
    assert all(sorted(rows) == ROWS.tolist() for rows in per_epoch)
    assert len({tuple(rows) for rows in per_epoch}) == 4


def test_training_and_validation_are_in_their_modes():
    assert Run().modes == ([True] * 4 + [False]) * 4


def test_train_loss_is_the_mean_over_images():
    run = Run(schedule=Schedule(1, 6, 1e-12, 0.0))  # nothing moves
    expected = float((run.model(run.x) - run.y).square().mean().detach())
    assert run.history[0].train_loss == pytest.approx(expected, rel=1e-4)


def test_training_learns():
    run = Run(schedule=Schedule(60, 6, 0.1, 0.0))
    assert run.history[-1].validation_loss < 0.01 * run.history[0].validation_loss


def test_same_seed_gives_the_same_weights_bit_for_bit():
    one, same, other = Run(), Run(), Run(seed=4)
    assert torch.equal(one.weights(), same.weights())
    assert one.history == same.history
    assert not torch.equal(one.weights(), other.weights())


def test_weight_decay_is_for_matrices_only():
    """Without a gradient AdamW only decays."""
    model = nn.Linear(2, 2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def no_gradient(_rows):
        return sum((0 * value).sum() for value in model.parameters())

    schedule = Schedule(1, 20, 0.1, 0.5)
    fit(model, len(ROWS), shuffled(0, 20), no_gradient, lambda: 0.0, schedule, "decay")
    torch.testing.assert_close(model.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before["bias"])


def test_frozen_parameters_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()

    def loss_of(rows):
        return model(torch.ones(len(rows), 3)).square().mean()

    fit(model, len(ROWS), shuffled(0), loss_of, lambda: 0.0, SCHEDULE, "frozen")
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_rate(bad):
    model = nn.Linear(3, 1)
    epoch = iter([1.0] * 4 + [bad] * 4)

    def loss_of(rows):
        return model(torch.ones(len(rows), 3)).sum() * 0 + next(epoch)

    with pytest.raises(UserError, match=rf"test model: the loss is {bad} in epoch 2; lower its lr \(0\.05\)"):
        fit(model, len(ROWS), shuffled(0), loss_of, lambda: 0.0, SCHEDULE, "test model")


def test_a_validation_loss_that_is_not_finite_is_an_error():
    with pytest.raises(UserError, match=r"test model: .*nan.* epoch 1"):
        Run([float("nan")] * 4)


def test_curve_is_a_table(tmp_path):
    write_curve(tmp_path / "curve.tsv", [Epoch(1, 0.5, 0.25), Epoch(2, 0.1, 1 / 3)])
    assert (tmp_path / "curve.tsv").read_text().splitlines() == [
        "epoch\ttrain_loss\tvalidation_loss",
        "1\t0.500000\t0.250000",
        "2\t0.100000\t0.333333",
    ]
