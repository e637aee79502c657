"""BMFL against classifiers without a brain: the best of them, and the line that they lie on."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuralood.base.errors import UserError
from neuralood.base.records import rounded
from neuralood.robustness import baseline_line, smoothed
from neuralood.study.results import OOD_MEAN, Result


def best_baseline(results: Sequence[Result]) -> Result:
    """The baseline of lowest cross-entropy on the holdout, never on an OOD set; the first of equals."""
    return min((one for one in results if one.kind == "baseline"), key=lambda one: one.holdout)


def effective_robustness(results: Sequence[Result], sets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Of each arm, points of mean OOD above the line that the baselines lie on against val (`baseline_line`).

    `arms` is empty, and `reason` says why, where there is no such line: fewer than two baselines differ on val.
    """
    n_id, n_ood = (results[0].images(sets[name]) for name in ("val", OOD_MEAN))
    points = {one.name: tuple(float(one.top1(sets[name]).mean()) for name in ("val", OOD_MEAN)) for one in results}
    x, y = zip(*(points[one.name] for one in results if one.kind == "baseline"), strict=True)
    try:
        line = baseline_line(x, y, n_id=n_id, n_ood=n_ood)
    except UserError as error:
        return {"arms": {}, "reason": str(error)}
    above = {
        name: rounded(float(smoothed(ood_top1, n_ood) - line.at(smoothed(id_top1, n_id))))
        for name, (id_top1, ood_top1) in points.items()
    }
    return {"slope": rounded(line.slope), "intercept": rounded(line.intercept), "arms": above}
