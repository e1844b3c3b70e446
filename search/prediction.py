"""Prediction: which networks will score well, as far as the prior and the trainings of this search tell.

It is a ridge regression from a network's structure to its score, fitted anew whenever more is known, as in searches
that are guided by a predictor (arXiv 2003.12857, 2007.08668). What the prior says is one of its columns, so with few
trainings it follows the prior, and with many what it has seen: on images of another kind it unlearns the prior.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.search.candidates import Predict
from psvit.search.prior import WEIGHTS, promise, structure
from psvit.search.trial import Trial

PENALTY = 30.0
"""Of the regression, for columns of unit variance."""

TRUST = 4.0
"""The prior's column is so many times as wide as another, so that less of a penalty falls on what it says."""

ALIKE = 1e-9
"""Columns that vary less have rounding errors alone."""

FEWEST = 2
"""Scores below which the prior alone is asked."""

VERSION = hashlib.sha256(repr((WEIGHTS, PENALTY, TRUST)).encode()).hexdigest()[:8]
"""Of the prediction. A search is continued only with the same."""


def predictor(trials: Sequence[Trial], prior: Callable[[Architecture], float] = promise) -> Predict:
    """What ranks architectures that were not trained, (n,): more is better, and only differences count.

    Args:
        trials: those with a score; they are what is known.
        prior: what is thought of architectures before anything is known.
    """
    if len(trials) < FEWEST:
        return lambda archs: np.array([prior(arch) for arch in archs])

    def columns_of(archs: Sequence[Architecture]) -> NDArray[np.float64]:
        return np.array([[*structure(arch).values(), prior(arch)] for arch in archs]).reshape(len(archs), -1)

    columns, scores = columns_of([trial.arch for trial in trials]), np.array([trial.score.value for trial in trials])
    middle, spread = columns.mean(axis=0), columns.std(axis=0)
    spread[spread < ALIKE * (1 + np.abs(middle))] = np.inf  # what is alike in all tells nothing
    spread[-1] /= TRUST
    known = (columns - middle) / spread
    weights = np.linalg.solve(known.T @ known + PENALTY * np.eye(len(middle)), known.T @ (scores - scores.mean()))
    return lambda archs: np.asarray((columns_of(archs) - middle) / spread @ weights)
