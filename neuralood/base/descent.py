"""L-BFGS (Nocedal & Wright 2006, algorithm 7.4) for smooth convex functions, many of them side by side.

Each function is minimised by a coroutine that asks for its value and gradient at a point. Whoever runs them answers
all that still ask at once, so that one pass over the data serves every function.
"""

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
    point, curvature = start, _Curvature(start)
    value, gradient = yield point
    for _ in range(most):
        if float(gradient.abs().max()) <= tolerance:
            return point, True
        direction = -curvature.inverse_times(gradient)
        slope = float(direction @ gradient)
        length = 1.0 if curvature.known else min(1.0, 1 / float(gradient.norm()))
        for _ in range(LONGEST_SEARCH):
            trial = point + length * direction
            new_value, new_gradient = yield trial
            new_slope = float(direction @ new_gradient)
            if new_slope <= -OVERSHOOT * slope and new_value <= value + ROUNDING * abs(value):
                break
            length *= min(0.5, max(0.1, slope / (slope - new_slope))) if new_slope > 0 else 0.5
        else:
            return point, False
        curvature.learn(trial - point, new_gradient - gradient)
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


class _Curvature:
    """The last M steps and how the gradient changed over each, and the inverse Hessian that they speak of.

    The two-loop recursion on coefficients: all inner products it needs are taken at once, as products of matrices, in
    place of 4 M passes over single vectors (Chen et al. 2014, 'Large-scale L-BFGS using MapReduce').
    """

    def __init__(self, like: Tensor) -> None:
        """like: P, whose dtype and device all have."""
        self.known = 0
        self.steps = like.new_zeros(MEMORY, len(like))  # M P, in a ring
        self.changes = like.new_zeros(MEMORY, len(like))
        self.order: list[int] = []  # rows, oldest first
        self.step_change = torch.zeros(MEMORY, MEMORY, dtype=torch.float64)  # M M
        self.change_change = torch.zeros(MEMORY, MEMORY, dtype=torch.float64)

    def learn(self, step: Tensor, change: Tensor) -> None:
        """Take in a step P and the change of the gradient P; one without positive curvature is rounding, and is not."""
        if float(step @ change) <= 0:
            return
        row = self.known % MEMORY
        self.known += 1
        self.order = [*(one for one in self.order if one != row), row]
        self.steps[row], self.changes[row] = step, change
        self.step_change[:, row] = (self.steps @ change).cpu()
        self.step_change[row] = (self.changes @ step).cpu()
        self.change_change[row] = self.change_change[:, row] = (self.changes @ change).cpu()

    def inverse_times(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian times gradient P: P."""
        if not self.order:
            return gradient.clone()
        along_steps, along_changes = ((one @ gradient).cpu().double() for one in (self.steps, self.changes))
        of_changes, of_steps = (torch.zeros(MEMORY, dtype=torch.float64) for _ in range(2))
        curvatures = self.step_change.diagonal()
        for row in reversed(self.order):
            of_changes[row] = -(along_steps[row] + self.step_change[row] @ of_changes) / curvatures[row]
        newest = self.order[-1]
        scale = curvatures[newest] / self.change_change[newest, newest]
        for row in self.order:
            along = scale * (along_changes[row] + self.change_change[row] @ of_changes)
            along += self.step_change[:, row] @ of_steps
            of_steps[row] = -of_changes[row] - along / curvatures[row]
        of_changes *= scale
        result: Tensor = float(scale) * gradient
        result += of_changes.to(self.changes) @ self.changes
        result += of_steps.to(self.steps) @ self.steps
        return result


def wide(device: torch.device) -> torch.dtype:
    """The widest floats of a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
