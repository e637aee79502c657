"""BMFL against every other arm: differences with intervals over images and over seeds, tests, effect sizes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from neuralood.base.records import rounded
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.statistics import (
    bootstrap_means,
    bootstrap_p,
    cohens_h,
    holm,
    mcnemar,
    percentile_interval,
    seed_interval,
)
from neuralood.study.results import OOD_MEAN, Result, paired


class Resampling(NamedTuple):
    """How the images are resampled behind each interval: `seed` and two arms' names fix the draws."""

    resamples: int
    seed: int


class Difference(NamedTuple):
    """One arm minus another on the mean over some sets, in percentage points: of each seed, and in each resample."""

    name: str
    per_seed: Array
    means: Array

    @property
    def point(self) -> float:
        """Mean over seeds."""
        return float(self.per_seed.mean())

    def record(self) -> dict[str, Any]:
        """For study.json: both intervals are 95 %."""
        over_seeds = seed_interval(self.per_seed.tolist())
        return {
            "name": self.name,
            "difference": rounded(self.point),
            "per_seed": [rounded(one) for one in self.per_seed],
            "image_interval": _interval(percentile_interval(self.means)),
            "seed_interval": None if over_seeds is None else _interval(over_seeds),
        }


def difference(one: Result, other: Result, sets: Sequence[str], how: Resampling) -> Difference:
    """One minus other on the unweighted mean over sets; versions of one source image are resampled together."""
    rng = generator(how.seed, "study", one.name, other.name, *sets)
    means = bootstrap_means({name: paired(one, other, name) for name in sets}, how.resamples, rng)
    return Difference(f"{one.name} - {other.name}", one.top1(sets) - other.top1(sets), means)


def compare(
    main: Result, others: Sequence[Result], sets: Mapping[str, Sequence[str]], how: Resampling
) -> list[dict[str, Any]]:
    """The main arm minus each other one, on mean OOD, val and each OOD set. sets: name -> the sets that it averages.

    `holm_p` is corrected over the single OOD sets of a pair.
    """
    return [row for other in others for row in _corrected([_row(main, other, name, sets, how) for name in sets])]


def _row(main: Result, other: Result, name: str, sets: Mapping[str, Sequence[str]], how: Resampling) -> dict[str, Any]:
    found = difference(main, other, sets[name], how)
    ours, theirs = (one.top1(sets[name]).mean() / 100 for one in (main, other))
    row = {
        "arm": main.name,
        "other": other.name,
        "set": name,
        **found.record(),
        "p": rounded(bootstrap_p(found.means)),
        "cohens_h": rounded(cohens_h(ours, theirs)),
    }
    if len(sets[name]) == 1:
        row["mcnemar"] = _mcnemar(main, other, *sets[name])
    return row


def _mcnemar(main: Result, other: Result, set_name: str) -> list[dict[str, Any]]:
    """Of each seed: images of different seeds are the same ones, so they cannot be pooled."""
    pairs = zip(main.correct[set_name], other.correct[set_name], strict=True)
    tests = [mcnemar(ours, theirs) for ours, theirs in pairs]
    return [{"only_arm": test.only_one, "only_other": test.only_other, "p": float(f"{test.p:.6g}")} for test in tests]


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put `holm_p` into the rows of one pair that are of a single OOD set."""
    single = [row for row in rows if "mcnemar" in row and row["set"] != "val"]
    for row, p in zip(single, holm([row["p"] for row in single]), strict=True):
        row["holm_p"] = rounded(p)
    return rows


def _interval(ends: tuple[float, float]) -> list[float]:
    return [rounded(one) for one in ends]


def compared_sets(ood: Sequence[str], ood_mean: Sequence[str]) -> dict[str, Sequence[str]]:
    """What is compared, and the sets that each averages: mean OOD, val, each OOD set."""
    return {OOD_MEAN: list(ood_mean), "val": ["val"], **{name: [name] for name in ood}}
