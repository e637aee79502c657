"""BMFL against classifiers without a brain: the best of them, and the line that they lie on."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuralood.base.errors import UserError
from neuralood.base.records import rounded
from neuralood.robustness import effective_robustness
from neuralood.study.results import OOD_MEAN, Result


def best_baseline(results: Sequence[Result]) -> Result:
    """The baseline of lowest cross-entropy on the holdout, never on an OOD set; the first of equals."""
    return min((one for one in results if one.kind == "baseline"), key=lambda one: one.holdout)


def above_the_line(results: Sequence[Result], sets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Effective robustness of each arm: points of mean OOD above the line that the baselines lie on against val.

    `arms` is empty, and `reason` says why, where there is no such line: fewer than two baselines differ on val.
    """
    n_id, n_ood = (results[0].images(sets[name]) for name in ("val", OOD_MEAN))
    points = {one.name: (_mean(one, sets["val"]), _mean(one, sets[OOD_MEAN])) for one in results}
    x, y = zip(*(points[one.name] for one in results if one.kind == "baseline"), strict=True)
    try:
        found = {name: effective_robustness(*point, x, y, n_id=n_id, n_ood=n_ood) for name, point in points.items()}
    except UserError as error:
        return {"arms": {}, "reason": str(error)}
    line = next(line for _, line in found.values())
    arms = {name: rounded(above) for name, (above, _) in found.items()}
    return {"slope": rounded(line.slope), "intercept": rounded(line.intercept), "arms": arms}


def _mean(result: Result, sets: Sequence[str]) -> float:
    return float(result.top1(sets).mean())
