"""Which images of a set the page shows: by rule, so that nobody picks them."""

from itertools import chain, zip_longest

import numpy as np

from neuralood.base.store import Array
from neuralood.predictions import Predictions
from neuralood.report.attention import spread

CATEGORIES = ("only fusion right", "only linear right", "both right", "both wrong")


def by_category(predictions: Predictions) -> dict[str, Array]:
    """Indices of the images of each category, by the first seed's models."""
    fusion, linear = (predictions.correct(model)[0] for model in ("fusion", "linear"))
    masks = (fusion & ~linear, linear & ~fusion, fusion & linear, ~fusion & ~linear)
    return {name: np.flatnonzero(mask) for name, mask in zip(CATEGORIES, masks, strict=True)}


def chosen_samples(categories: dict[str, Array], limit: int) -> list[int]:
    """At most `limit` images: one of each category in turn, evenly spread within it, in the categories' order."""
    spread_out = [[int(rows[index]) for index in spread(len(rows), limit)] for rows in categories.values()]
    shares = [0] * len(spread_out)
    for turn in chain.from_iterable(zip_longest(*([number] * len(rows) for number, rows in enumerate(spread_out)))):
        if turn is not None and sum(shares) < limit:
            shares[turn] += 1
    return [
        int(rows[index])
        for rows, share in zip(categories.values(), shares, strict=True)
        for index in spread(len(rows), share)
    ]
