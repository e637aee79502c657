"""The training loop: its schedule, which epoch is kept, equal weights of equal seeds, interrupted or not."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from torch import nn

from neuralood.base.errors import UserError
from neuralood.base.reading import batches
from neuralood.base.resuming import Checkpoint
from neuralood.base.training import (
    Epoch,
    Loss,
    Schedule,
    best_epoch,
    fit,
    fit_together,
    learning_rate_factor,
    write_curve,
)

ROWS = np.arange(20)
SCHEDULE = Schedule(epochs=4, batch_size=6, lr=0.05, warmup=0.05, weight_decay=0.1)


def shuffled(seed, size=SCHEDULE.batch_size):
    """What gives endless epochs of ROWS in random order, without the steps done: a batch is its rows."""

    def epochs():
        rng = np.random.default_rng(seed)
        while True:
            yield [(rows, rows) for rows in batches(rng.permutation(ROWS), size)]

    def epochs_after(steps):
        past, done = divmod(steps, math.ceil(len(ROWS) / size))
        for epoch in islice(epochs(), past, None):
            yield epoch[done:]
            done = 0

    return epochs_after


def test_learning_rate_warms_up_then_falls_by_a_cosine_to_nearly_0():
    factors = [learning_rate_factor(step, 200, 0.05) for step in range(201)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)  # 5 % of 200
    assert factors[10] == 1.0
    assert factors[105] == pytest.approx(0.5)
    assert factors[200] == pytest.approx(0.0, abs=1e-12)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert factors[10 + 19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))


@pytest.mark.parametrize("steps", [1, 2, 3, 19])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_short_schedules_have_a_rate_above_0_at_every_step(steps, warmup):
    assert all(0 < learning_rate_factor(step, steps, warmup) <= 1 for step in range(steps))


def test_without_warmup_training_starts_at_the_peak():
    assert learning_rate_factor(0, 200, 0.0) == 1.0
    assert learning_rate_factor(0, 200, 0.5) == 0.01


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
    run = Run(schedule=Schedule(3, 6, 1e-12, 0.05, 0.0))  # nothing moves
    expected = float((run.model(run.x) - run.y).square().mean().detach())
    assert [one.train_loss for one in run.history] == pytest.approx([expected] * 3, rel=1e-4)


def test_training_learns():
    run = Run(schedule=Schedule(60, 6, 0.1, 0.05, 0.0))
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

    schedule = Schedule(1, 20, 0.1, 0.05, 0.5)
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


# Several models on the same batches, running averages


class Pair:
    """Two regressions from other weights on the same batches; the second learns from even rows only."""

    def __init__(self, schedule, alone=None):
        source = np.random.default_rng(0)
        self.x = torch.from_numpy(source.standard_normal((20, 3))).float()
        self.y = self.x.sum(1, keepdim=True)
        self.models = [nn.Linear(3, 1), nn.Linear(3, 1)]
        with torch.no_grad():
            for number, model in enumerate(self.models):
                model.weight.fill_(0.1 * (number + 1))
                model.bias.zero_()
        self.chosen = [0, 1] if alone is None else [alone]
        self.steps, self.validated = [], []
        self.trained = fit_together(
            [self.models[number] for number in self.chosen],
            len(ROWS),
            shuffled(3),
            self.losses_of,
            self.validate,
            schedule,
            "pair",
        )

    def losses_of(self, rows):
        self.steps.append([model.weight.detach().clone() for model in self.models])
        return [self.loss_of(number, rows) for number in self.chosen]

    def loss_of(self, number, rows):
        own = rows[rows % 4 == 0] if number else rows  # of some batches, no row
        if not len(own):
            return None
        return Loss((self.models[number](self.x[own]) - self.y[own]).square().mean(), len(own))

    def validate(self):
        self.validated.append(self.models[self.chosen[0]].weight.detach().clone())
        return [float((self.models[number](self.x) - self.y).square().mean()) for number in self.chosen]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_models_trained_together_end_as_they_would_alone(ema):
    schedule = replace(SCHEDULE, batch_size=3, ema=ema)
    together = Pair(schedule)
    for number in (0, 1):
        alone = Pair(schedule, alone=number)
        assert torch.equal(alone.models[number].weight, together.models[number].weight)
        assert alone.trained[0].history == together.trained[number].history


def test_the_running_average_is_what_is_validated_and_kept():
    """Against the definition: average <- d average + (1 - d) weights after each step, d = min(ema, t / (t + 9))."""
    pair = Pair(replace(SCHEDULE, ema=0.8), alone=0)
    average = pair.steps[0][0].double()
    for step, (weight, _) in enumerate(pair.steps[1:], start=1):
        decay = min(0.8, step / (step + 9))
        average = decay * average + (1 - decay) * weight.double()
        if step % 4 == 0:
            torch.testing.assert_close(pair.validated[step // 4 - 1].double(), average, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(weight.double(), average, rtol=1e-3)
    best = best_epoch(pair.trained[0].history)
    assert torch.equal(pair.models[0].weight, pair.validated[best - 1])
    assert torch.equal(pair.trained[0].last["weight"], pair.validated[-1])


def test_an_average_of_decay_near_0_is_the_weights():
    schedule = replace(SCHEDULE, ema=1e-9)
    averaged, plain = Pair(schedule, alone=0), Pair(SCHEDULE, alone=0)
    torch.testing.assert_close(averaged.models[0].weight, plain.models[0].weight)


# Interrupted trainings

STEPS = 16  # 4 epochs of 4
FALLING, RISING = [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]


class Interrupted(Exception):  # noqa: N818  (no error)
    """Stands for whatever ends a process."""


class Dropping:
    """A regression with dropout, so that each step draws: trained, and interrupted at a step where one is given."""

    def __init__(self, checkpoint=None, validation=None, stop_at=None, seed=0, stop_after=None):
        torch.manual_seed(seed)
        source = np.random.default_rng(0)
        self.x = torch.from_numpy(source.standard_normal((20, 3))).float()
        self.y = self.x.sum(1, keepdim=True)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.steps, self.stop_at = 0, stop_at
        self.validation = validation
        self.checkpoint, self.stop_after = checkpoint, stop_after

    def train(self):
        self.history = fit(
            self.model,
            len(ROWS),
            shuffled(7),
            self.loss_of,
            self.validate,
            SCHEDULE,
            "test model",
            self.checkpoint,
            self.stop_after,
        )
        return self

    def loss_of(self, rows):
        if self.steps == self.stop_at:
            raise Interrupted
        self.steps += 1
        return (self.model(self.x[rows]) - self.y[rows]).square().mean()

    def validate(self):
        loss = float((self.model(self.x) - self.y).square().mean())
        return loss if self.validation is None else loss * 1e-3 + next(self.validation)

    def same_as(self, other):
        weights, others = self.model.state_dict(), other.model.state_dict()
        return self.history == other.history and all(torch.equal(weights[name], others[name]) for name in weights)


def at(folder, identity="this training", every_s=0):
    return Checkpoint(folder / "unfinished.safetensors", identity, every_s)


def validations(values, past=0):
    return None if values is None else iter(values[past:])


@pytest.mark.parametrize("values", [None, FALLING, RISING], ids=["measured", "falling", "rising"])
@pytest.mark.parametrize("stop_at", range(STEPS))
def test_a_run_stopped_at_any_step_ends_as_if_it_was_not(tmp_path, stop_at, values):
    whole = Dropping(validation=validations(values)).train()
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path), validations(values), stop_at).train()
    torch.rand(100)  # the next process's random state is another
    again = Dropping(at(tmp_path), validations(values, stop_at // 4), seed=5).train()
    assert again.steps == STEPS - stop_at
    assert again.same_as(whole) == (stop_at > 0)  # where nothing was kept, the other seed starts anew
    assert not again.model.training


@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_a_run_of_fewer_epochs_goes_on_to_the_same_one(tmp_path, stop_at):
    whole = Dropping(validation=validations(RISING), stop_after=2).train()
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path), validations(RISING), stop_at, stop_after=2).train()
    again = Dropping(at(tmp_path), validations(RISING, stop_at // 4), seed=5, stop_after=2).train()
    assert again.steps == 8 - stop_at
    assert again.same_as(whole)


@pytest.mark.parametrize("past", [0, 1, 3])
def test_a_run_stopped_while_it_validates_ends_as_if_it_was_not(tmp_path, past):
    def until_stopped():
        yield from FALLING[:past]
        raise Interrupted

    whole = Dropping(validation=validations(FALLING)).train()
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path), until_stopped()).train()
    assert Dropping(at(tmp_path), validations(FALLING, past), seed=5).train().same_as(whole)


def test_a_run_stopped_at_every_step_ends_as_if_it_was_not(tmp_path):
    whole = Dropping().train()
    for _ in range(1, STEPS):
        with pytest.raises(Interrupted):
            Dropping(at(tmp_path), stop_at=1).train()
    assert Dropping(at(tmp_path), seed=5).train().same_as(whole)


def test_a_run_without_interruption_is_not_changed_by_its_checkpoint(tmp_path):
    assert Dropping(at(tmp_path)).train().same_as(Dropping().train())


def test_a_finished_run_trains_no_more_and_leaves_its_best_epoch(tmp_path):
    whole = Dropping(at(tmp_path), validations(RISING)).train()
    again = Dropping(at(tmp_path), seed=5).train()
    assert again.steps == 0
    assert again.same_as(whole)
    assert not again.model.training


def test_the_checkpoint_is_written_when_its_time_has_come_and_at_the_end(tmp_path, monkeypatch):
    writes, now = [], [0.0]
    monkeypatch.setattr("neuralood.base.training.save_state", lambda _c, _m, _o, state: writes.append(state.step))
    monkeypatch.setattr("neuralood.base.training.time.monotonic", lambda: now[0])
    run = Dropping(at(tmp_path, every_s=10))
    loss_of = run.loss_of

    def timed(rows):
        now[0] += 3
        return loss_of(rows)

    run.loss_of = timed
    run.train()
    assert writes == [4, 8, 12, 16]  # each fourth step, 12 s
    writes.clear()
    Dropping(at(tmp_path, every_s=1000)).train()
    assert writes == [16]


@pytest.mark.parametrize("damage", ["cut", "other bytes", "empty"])
def test_a_damaged_checkpoint_is_said_and_training_starts_anew(tmp_path, capsys, damage):
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path), stop_at=9).train()
    file = at(tmp_path).file
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-100], "other bytes": b"\xff" * 500, "empty": b""}[damage])
    again = Dropping(at(tmp_path)).train()
    said = "".join(capsys.readouterr())
    assert "unfinished.safetensors is damaged: what it held is made anew" in " ".join(said.split())
    assert again.steps == STEPS
    assert again.same_as(Dropping().train())


def test_a_checkpoint_of_another_training_is_ignored(tmp_path):
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path, "another training"), stop_at=9, seed=3).train()
    again = Dropping(at(tmp_path)).train()
    assert again.steps == STEPS
    assert again.same_as(Dropping().train())


def test_going_on_is_said(tmp_path, capsys):
    with pytest.raises(Interrupted):
        Dropping(at(tmp_path), stop_at=9).train()
    Dropping(at(tmp_path)).train()
    assert "going on with an interrupted training at step 9" in " ".join("".join(capsys.readouterr()).split())


KILLED = """
import sys
import time
from pathlib import Path
sys.path[:0] = sys.argv[2:4]
import torch
from safetensors.torch import save_file
from test_training import Dropping, at
torch.set_num_threads(1)
run = Dropping(at(Path(sys.argv[1])))
loss_of, hang_at = run.loss_of, int(sys.argv[4])
def hanging(rows):
    if run.steps == hang_at:
        time.sleep(300)
    return loss_of(rows)
run.loss_of = hanging
run.train()
save_file(run.model.state_dict(), Path(sys.argv[1]) / "weights.safetensors")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
@pytest.mark.timeout(300)
def test_a_killed_process_ends_as_if_it_was_not(tmp_path, one_thread):
    """SIGKILL, once the checkpoint is there; another process goes on."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(ROOT), str(ROOT / "tests")]
    process = subprocess.Popen([*command, "6"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not at(tmp_path).file.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, "-1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on with an interrupted training" in done.stdout + done.stderr
    expected = Dropping().train().model.state_dict()
    found = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
