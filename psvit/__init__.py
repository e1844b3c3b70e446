"""psvit finds the best vision transformer for a budget.

The names below load what they need when they are first used, so that a command's `--help` waits for no deep-learning
library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from psvit.arch.architecture import Architecture as Architecture
    from psvit.arch.architecture import Stage as Stage
    from psvit.arch.costs import Cost as Cost
    from psvit.arch.costs import cost as cost
    from psvit.classifier import Classifier as Classifier
    from psvit.data import ImageData as ImageData
    from psvit.errors import InputError as InputError
    from psvit.model import PSViT as PSViT
    from psvit.model import create_model as create_model
    from psvit.nn.picture import draw as draw
    from psvit.nn.registration import register_pooling as register_pooling
    from psvit.nn.registration import register_stem as register_stem
    from psvit.search.candidates import Candidates as Candidates
    from psvit.search.evaluator import Evaluator as Evaluator
    from psvit.search.evaluator import ScoringFunction as ScoringFunction
    from psvit.search.history import History as History
    from psvit.search.history import Seen as Seen
    from psvit.search.objectives import Objective as Objective
    from psvit.search.proposal import Proposal as Proposal
    from psvit.search.run import run_search as run_search
    from psvit.search.searchers import Searcher as Searcher
    from psvit.space.budget import Budget as Budget
    from psvit.space.search_space import SearchSpace as SearchSpace

_PUBLIC = {
    "Architecture": "psvit.arch.architecture",
    "Budget": "psvit.space.budget",
    "Candidates": "psvit.search.candidates",
    "Classifier": "psvit.classifier",
    "Cost": "psvit.arch.costs",
    "Evaluator": "psvit.search.evaluator",
    "History": "psvit.search.history",
    "ImageData": "psvit.data",
    "InputError": "psvit.errors",
    "Objective": "psvit.search.objectives",
    "PSViT": "psvit.model",
    "Proposal": "psvit.search.proposal",
    "ScoringFunction": "psvit.search.evaluator",
    "Searcher": "psvit.search.searchers",
    "SearchSpace": "psvit.space.search_space",
    "Seen": "psvit.search.history",
    "Stage": "psvit.arch.architecture",
    "cost": "psvit.arch.costs",
    "create_model": "psvit.model",
    "draw": "psvit.nn.picture",
    "register_pooling": "psvit.nn.registration",
    "register_stem": "psvit.nn.registration",
    "run_search": "psvit.search.run",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'psvit' has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
