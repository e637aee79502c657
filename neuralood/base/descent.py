"""L-BFGS (Nocedal & Wright 2006, algorithm 7.4) for smooth convex functions, many of them side by side.

Each function is minimised by a coroutine that asks for its value and gradient at a point. Whoever runs them answers
all that still ask at once, so that one pass over the data serves every function.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

MEMORY = 10
"""Past steps from which the curvature is known, as in SciPy and scikit-learn."""
OVERSHOOT = 0.5
"""A step may end where the function rises along it, at up to this share of the slope at which it fell before."""
ROUNDING = 1e-7
"""Share of its value by which the function may seem to rise over a step: float32 sums are no better."""
LONGEST_SEARCH = 20
"""Lengths of one step that are tried before rounding is taken to hide the rest of the way."""

Answer = tuple[float, Tensor]
"""Value and gradient P."""
Descent = Generator[Tensor, Answer, tuple[Tensor, bool]]
"""Asks at points P; returns the minimum, and whether it was reached."""


def descend(start: Tensor, tolerance: float, most: int) -> Descent:
    """Minimise from `start` P until no derivative is above `tolerance`, in `most` steps or fewer.

    A step's length is judged by the slope at its end, which for a convex function tells more than its value does: the
    value drowns in rounding first.
    """
    point, pairs = start, deque[tuple[Tensor, Tensor]](maxlen=MEMORY)
    value, gradient = yield point
    for _ in range(most):
        if float(gradient.abs().max()) <= tolerance:
            return point, True
        direction = -_times_inverse_hessian(gradient, pairs)
        slope = float(direction @ gradient)
        length = 1.0 if pairs else min(1.0, 1 / float(gradient.norm()))
        for _ in range(LONGEST_SEARCH):
            trial = point + length * direction
            new_value, new_gradient = yield trial
            new_slope = float(direction @ new_gradient)
            if new_slope <= -OVERSHOOT * slope and new_value <= value + ROUNDING * abs(value):
                break
            length *= min(0.5, max(0.1, slope / (slope - new_slope))) if new_slope > 0 else 0.5
        else:
            return point, False
        step, change = trial - point, new_gradient - gradient
        if float(step @ change) > 0:
            pairs.append((step, change))
        point, value, gradient = trial, new_value, new_gradient
    return point, float(gradient.abs().max()) <= tolerance


def side_by_side(
    descents: Sequence[Descent], answer: Callable[[dict[int, Tensor]], dict[int, Answer]]
) -> list[tuple[Tensor, bool]]:
    """Run all to their ends: `answer` gives value and gradient at the points of those, by number, that still ask."""
    asking = {number: next(descent) for number, descent in enumerate(descents)}
    ended: dict[int, tuple[Tensor, bool]] = {}
    while asking:
        answers, points, asking = answer(asking), asking, {}
        for number in points:
            try:
                asking[number] = descents[number].send(answers[number])
            except StopIteration as end:
                ended[number] = end.value
    return [ended[number] for number in range(len(descents))]


def _times_inverse_hessian(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion: gradient P, (step P, change of the gradient P) oldest first -> P."""
    result, shares = gradient.clone(), []
    for step, change in reversed(pairs):
        share = (step @ result) / (step @ change)
        shares.append(share)
        result -= share * change
    if pairs:
        step, change = pairs[-1]
        result *= (step @ change) / (change @ change)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        result += (share - (change @ result) / (step @ change)) * step
    return result


def wide(device: torch.device) -> torch.dtype:
    """The widest floats of a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
