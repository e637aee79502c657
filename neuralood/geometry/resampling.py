"""Bootstrap over images and people of the Spearman correlation between dissimilarities.

A resample of the images has pair (i, j) as often as c_i c_j says, c being how often each image was drawn; pairs of an
image with itself are dropped, as rsatoolbox does. Ranks then follow from one sorted order by sums of these counts, so
that nothing is sorted again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuralood.base.console import track
from neuralood.base.store import Array

BLOCK_NUMBERS = 60_000
"""Pairs times resamples that are worked on at a time: as many as a processor's cache holds."""


@dataclass(frozen=True)
class Resamples:
    """How often each of B resamples has each image, B I, and each person, B P."""

    images: Array
    people: Array


def draw_resamples(images: int, people: int, count: int, rng: np.random.Generator) -> Resamples:
    """As many images, and as many people, as there are, with replacement, independently."""
    return Resamples(
        rng.multinomial(images, np.full(images, 1 / images), size=count),
        rng.multinomial(people, np.full(people, 1 / people), size=count),
    )


def resampled_spearman(models: Mapping[str, Sequence[Array]], people: Array, resamples: Resamples) -> dict[str, Array]:
    """Of each model, in each resample, the mean over its versions and the people of Spearman's correlation: B.

    A model has a few versions, such as seeds, each of them pairs; people P x pairs.
    """
    first, second = np.triu_indices(resamples.images.shape[1], 1)
    of_people = [_Order.of(person) for person in people]
    of_models = {name: [_Order.of(version) for version in versions] for name, versions in models.items()}
    found: dict[str, list[Array]] = {name: [] for name in models}
    size = max(1, BLOCK_NUMBERS // len(first))
    starts = range(0, len(resamples.images), size)
    for start in track(starts, f"resamples (blocks of {size:,})", len(starts)):
        images = resamples.images[start : start + size].astype(np.float64)
        weights = images.take(first, axis=1) * images.take(second, axis=1)  # B' pairs
        root, drawn = np.sqrt(weights), resamples.people[start : start + size] / len(people)
        ranked = [order.standard_ranks(weights, root) for order in of_people]
        for name, versions in of_models.items():
            scores = [_scores(order.standard_ranks(weights, root), ranked, drawn) for order in versions]
            found[name].append(np.mean(scores, axis=0))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@dataclass(frozen=True)
class _Order:
    """Pairs in ascending order: `order` of them, `starts` of the groups of equal ones in it, each pair's `group`."""

    order: Array
    starts: Array
    group: Array

    @classmethod
    def of(cls, values: Array) -> "_Order":
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        return cls(np.argsort(group, kind="stable"), np.cumsum(counts) - counts, group)

    def standard_ranks(self, weights: Array, root: Array) -> Array:
        """Centred mean ranks of pairs that occur `weights` times (B pairs), times the root of that, of norm 1: B pairs.

        The inner product of two such rows is Spearman's correlation over all that occur. 0 where all are tied.
        """
        of_group = weights.take(self.order, axis=1)
        if len(self.starts) < len(self.order):
            of_group = np.add.reduceat(of_group, self.starts, axis=1)
        ranks = np.cumsum(of_group, axis=1)
        ranks -= ranks[:, -1:] / 2 + of_group / 2
        standard: Array = ranks.take(self.group, axis=1)
        standard *= root
        norm = np.linalg.norm(standard, axis=1, keepdims=True)
        standard /= np.where(norm > 0, norm, 1)
        return standard


def _scores(model: Array, people: Sequence[Array], drawn: Array) -> Array:
    """Mean over the people drawn (B P) of the correlation with a model, all as standard ranks: B."""
    by_person = [np.einsum("bp,bp->b", model, person) for person in people]
    scores: Array = (np.stack(by_person, axis=1) * drawn).sum(axis=1)
    return scores
