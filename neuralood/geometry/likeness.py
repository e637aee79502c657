"""How like people's a model's dissimilarities are, and how like them anybody's can be: rsatoolbox has the measures."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from neuralood.base.errors import UserError
from neuralood.base.store import Array

MEASURES = {"spearman": "spearman", "tau_a": "tau-a", "whitened": "corr_cov"}
"""Our names of the measures, and rsatoolbox's.

`whitened`: Pearson correlation, weighted by how pairs that share an image vary together (Diedrichsen et al. 2021).
"""


@cache
def rsatoolbox_compare() -> Callable[..., Any]:
    """rsatoolbox's comparison of dissimilarities. Raises UserError where it is not installed."""
    try:
        from rsatoolbox.rdm.compare import compare  # takes seconds to import
    except ImportError as error:
        raise UserError(f"brain geometry needs rsatoolbox ({error}): pip install 'neuralood[rsa]'") from None
    return compare


def likeness(models: Array, people: Array) -> dict[str, Array]:
    """Dissimilarities of M models and of P people, M x pairs and P x pairs -> of each measure M x P.

    0 where a model's, or a person's, are all equal.
    """
    compare = rsatoolbox_compare()
    return {name: np.asarray(compare(models, people, method=method)) for name, method in MEASURES.items()}


def noise_ceiling(people: Array) -> dict[str, dict[str, float]]:
    """Between what a model of the people can reach, by measure, from their dissimilarities P x pairs, P > 1.

    `lower`: each person against the mean of the others; `upper`: against the mean of all; both the mean over people
    (Nili et al. 2014). Means are those of the dissimilarities as they are, not of their ranks.
    """
    others = np.stack([np.delete(people, one, axis=0).mean(axis=0) for one in range(len(people))])
    everybody = people.mean(axis=0, keepdims=True)
    lower, upper = likeness(others, people), likeness(everybody, people)
    return {
        name: {"lower": float(np.diagonal(lower[name]).mean()), "upper": float(upper[name].mean())} for name in MEASURES
    }
