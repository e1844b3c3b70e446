"""The best of n random draws: what a search has to beat, as an expectation instead of one lucky or unlucky order.

From m architectures that were drawn uniformly and scored, n are drawn without replacement; the distribution of the
greatest of their scores is known exactly. With the scores in ascending order, the greatest of n is the i-th of m with
probability C(i - 1, n - 1) / C(m, n), and at most the i-th with probability C(i, n) / C(m, n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""By how much, relatively, a probability that was reached may fall short of itself in floating point."""


@dataclass(frozen=True, kw_only=True)
class BestOfDraws:
    """The best of n draws, for several n.

    Attributes:
        draws: n, (k,).
        expected: the mean of the best of n, (k,).
        lower: its quantile at `band[0]`: the least score that the best does not exceed with this probability, (k,).
        upper: its quantile at `band[1]`, (k,).
        band: the two probabilities.
    """

    draws: NDArray[np.int64]
    expected: Floats
    lower: Floats
    upper: Floats
    band: tuple[float, float]


def best_of_draws(
    scores: Sequence[float], draws: Sequence[int] | NDArray[np.int64], band: tuple[float, float] = (0.05, 0.95)
) -> BestOfDraws:
    """The exact distribution of the best of n scores drawn without replacement, for every n in `draws`.

    Raises:
        ValueError: more draws than there are scores, or fewer than one.
    """
    ascending = np.sort(np.asarray(scores, dtype=np.float64))
    numbers = np.asarray(draws, dtype=np.int64)
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(ascending):
        raise ValueError(f"draws must be 1 to the number of scores {len(ascending)}, received {numbers.tolist()}")
    rows = [_best_of(ascending, int(n), band) for n in numbers]
    expected, lower, upper = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return BestOfDraws(draws=numbers, expected=expected, lower=lower, upper=upper, band=band)


def _best_of(ascending: Floats, n: int, band: tuple[float, float]) -> tuple[float, float, float]:
    """Mean and two quantiles of the greatest of n."""
    m = len(ascending)
    # From the greatest down: it is among n of m with probability n / m, and the quotient of two neighbouring
    # probabilities is (i - n) / (i - 1). Binomial coefficients themselves would overflow.
    places = np.arange(m, n, -1)
    probabilities = n / m * np.cumprod(np.concatenate([[1.0], (places - n) / (places - 1)]))[::-1]
    values = ascending[n - 1 :]
    at_most = probabilities * np.arange(n, m + 1) / n
    low, high = (values[np.argmax(at_most >= probability * (1 - ROUNDING))] for probability in band)
    return float(probabilities @ values), float(low), float(high)
