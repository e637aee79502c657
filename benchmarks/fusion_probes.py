"""Ten linear probes from one pass over the tokens, beside one probe and beside ten passes: from tokens to solutions."""

import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.fusion_training import train_labels, unscaled_training_of
from benchmarks.timing import alternate
from neuralood.base import paths
from neuralood.base.store import Array, Rows
from neuralood.fusion.probe import Split, _Problem, _Task, fit_probes
from neuralood.fusion.survey import SeedScales, open_features, survey
from neuralood.plan.times import PROBE_STEPS

PENALTIES = tuple(float(value) for value in np.logspace(-4, 2, 10))
"""The inverse strengths of ten probes: the span of the paper's profile."""
PASSES, PASS_REPEATS = PROBE_STEPS, 3
"""Passes over the features that a probe is taken to need where there are many more images; repeats of timing one."""
CPU = torch.device("cpu")

Record = dict[str, Any]


def measure_probes(folder: Path, images: int, classes: tuple[int, ...]) -> Record:
    """Seconds of the pass over the tokens, and by count of classes those of solving ten probes together and alone.

    The classes of a smaller count are unions of those that the tokens know.
    """
    with chdir(folder):
        seconds, scales = _survey_seconds(images)
        labels, known = train_labels()[:images], int(train_labels().max()) + 1
        found = {str(count): _solve(images, labels * count // known, scales, seconds) for count in classes}
    return {"images": images, "penalties": list(PENALTIES), "survey": seconds, "classes": found}


def _survey_seconds(images: int) -> tuple[float, SeedScales]:
    """Of the pass that writes features and finds all scales; the tokens, just written, are in the page cache."""
    training = unscaled_training_of(images, batch=32, epochs=1)
    member = np.ones((1, images), bool)
    started = time.perf_counter()
    (scales,) = survey(training.data, training.models, member, paths.DATA / "features.zarr")
    return time.perf_counter() - started, scales


def _solve(images: int, labels: Array, scales: SeedScales, survey_seconds: float) -> Record:
    """Ten probes side by side, then each by itself, then what one pass of the solver takes for ten and for one."""
    split = _split(images, labels, scales)
    together, passes = _timed(labels, split, PENALTIES)
    alone = [_timed(labels, split, (c,)) for c in PENALTIES]
    each = [seconds for seconds, _ in alone]
    one, ten = survey_seconds + float(np.mean(each)), survey_seconds + together
    of_ten, of_one = _pass_seconds(labels, split)
    return {
        "together": together,
        "alone": each,
        "passes together": passes,
        "passes alone": [count for _, count in alone],
        "one probe": one,
        "ten probes": ten,
        "ten over one": ten / one,
        "ten passes over one pass": (len(PENALTIES) * survey_seconds + sum(each)) / ten,
        "reading's share of one probe": survey_seconds / one,
        "pass of ten": of_ten,
        "pass of one": of_one,
        "ten over one at usual passes": (survey_seconds + PASSES * of_ten) / (survey_seconds + PASSES * of_one),
    }


def _split(images: int, labels: Array, scales: SeedScales) -> Split:
    """A tenth held out, in which no class is whole."""
    first = np.unique(labels, return_index=True)[1]
    rest = np.setdiff1d(np.arange(images), first)
    holdout = np.sort(np.random.default_rng(0).permutation(rest)[: images // 10])
    return Split(np.setdiff1d(np.arange(images), holdout), holdout, *scales.features)


def _timed(labels: Array, split: Split, strengths: tuple[float, ...]) -> tuple[float, int]:
    """Seconds from features to chosen probes, and passes over the features that it took."""
    passes = 0
    answers = _Problem.answers

    def counted(*given: Any) -> Any:
        nonlocal passes
        passes += 1
        return answers(*given)

    with mock.patch.object(_Problem, "answers", counted):
        started = time.perf_counter()
        fit_probes(_features(), labels, [split], strengths, CPU)
        return time.perf_counter() - started, passes


def _pass_seconds(labels: Array, split: Split) -> tuple[float, float]:
    """Of one pass over the features for ten probes, and for one."""
    problem = _Problem(_features(), labels, [split], CPU)
    tasks = [_Task(0, c) for c in PENALTIES]
    point = torch.zeros(problem.classes * (problem.features.shape[1] + 1), dtype=torch.float64)
    cases: dict[str, Callable[[], object]] = {
        "ten": lambda: problem.answers(tasks, {number: point for number in range(len(tasks))}),
        "one": lambda: problem.answers(tasks, {0: point}),
    }
    seconds = alternate(cases, PASS_REPEATS)
    return float(np.median(seconds["ten"])), float(np.median(seconds["one"]))


def _features() -> Rows:
    return open_features(paths.DATA / "features.zarr")
