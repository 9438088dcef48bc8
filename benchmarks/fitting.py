"""Least squares in pure Python: Levenberg-Marquardt on logarithms, and quantiles in which every source weighs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["fit", "median", "solve", "weighted_quantile"]


_BOUND = 0.15
"""Residuals beyond this count in proportion, not squared."""
_NUDGE = 1e-3
"""Step of the numeric derivatives."""
_STUCK = 1e4
"""Damping at which no step helps any more."""


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """A small dense linear system, by elimination with pivoting."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda index: abs(rows[index][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for index in range(column + 1, size):
            factor = rows[index][column] / rows[column][column]
            rows[index] = [a - factor * b for a, b in zip(rows[index], rows[column], strict=True)]
    answer = [0.0] * size
    for index in reversed(range(size)):
        known = sum(rows[index][other] * answer[other] for other in range(index + 1, size))
        answer[index] = (rows[index][size] - known) / rows[index][index]
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """What is minimised: Huber's loss of the residuals, and the squared distance from the start in `sigma`."""

    residuals: Callable[[Sequence[float]], list[float]]
    weights: Sequence[float]
    start: Sequence[float]
    sigma: Sequence[float]

    def cost(self, errors: Sequence[float], here: Sequence[float]) -> float:
        huber = sum(
            w * (e * e if abs(e) <= _BOUND else _BOUND * (2 * abs(e) - _BOUND))
            for w, e in zip(self.weights, errors, strict=True)
        )
        return huber + sum(((a - b) / s) ** 2 for a, b, s in zip(here, self.start, self.sigma, strict=True))

    def equations(self, here: Sequence[float], errors: Sequence[float]) -> tuple[list[list[float]], list[float]]:
        """The normal equations of a Gauss-Newton step."""
        columns = []
        for index in range(len(here)):
            moved = list(here)
            moved[index] += _NUDGE
            columns.append([(a - b) / _NUDGE for a, b in zip(self.residuals(moved), errors, strict=True)])
        effective = [w * min(1.0, _BOUND / max(abs(e), 1e-12)) for w, e in zip(self.weights, errors, strict=True)]
        normal = [[sum(w * a * b for w, a, b in zip(effective, x, y, strict=True)) for y in columns] for x in columns]
        right = [-sum(w * a * e for w, a, e in zip(effective, x, errors, strict=True)) for x in columns]
        for index, sigma in enumerate(self.sigma):
            normal[index][index] += 1.0 / sigma**2
            right[index] -= (here[index] - self.start[index]) / sigma**2
        return normal, right


def fit(
    residuals: Callable[[Sequence[float]], list[float]],
    weights: Sequence[float],
    start: Sequence[float],
    *,
    prior_sigma: Sequence[float],
    rounds: int = 12,
) -> list[float]:
    """Log-parameters that minimise the weighted squares (Huber beyond 0.15) and the distance from `start`.

    `prior_sigma`: how far, in logarithms, each parameter may easily move from its start.
    """
    problem = _Problem(residuals=residuals, weights=weights, start=start, sigma=prior_sigma)
    here, damping = list(start), 1e-3
    errors = residuals(here)
    cost = problem.cost(errors, here)
    for _ in range(rounds):
        normal, right = problem.equations(here, errors)
        new_cost, tried, new_errors = cost, here, errors
        while new_cost >= cost and damping < _STUCK:
            damped = [
                [value * (1.0 + damping * (i == j)) for j, value in enumerate(row)] for i, row in enumerate(normal)
            ]
            tried = [a + max(-0.7, min(0.7, b)) for a, b in zip(here, solve(damped, right), strict=True)]
            new_errors = residuals(tried)
            new_cost = problem.cost(new_errors, tried)
            damping *= 8
        if new_cost >= cost:
            break
        done = cost - new_cost < 1e-5 * cost
        here, errors, cost, damping = tried, new_errors, new_cost, max(1e-4, damping / 32)
        if done:
            break
    return here


def median(values: Sequence[float]) -> float:
    """Of a list that is not empty."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def weighted_quantile(values: Sequence[tuple[float, float]], part: float) -> float:
    """Of (value, weight), interpolated between the midpoints of the weights."""
    ordered = sorted(values)
    total = sum(weight for _, weight in ordered)
    before, last = 0.0, None
    for value, weight in ordered:
        at = (before + weight / 2) / total
        if at >= part:
            if last is None:
                return value
            return last[1] + (value - last[1]) * (part - last[0]) / (at - last[0])
        last = (at, value)
        before += weight
    assert last is not None
    return last[1]
