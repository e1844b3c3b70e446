"""psvit finds the best vision transformer for a budget.

The names below load what they need when they are first used, so that a command's `--help` waits for no deep-learning
library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from psvit.architecture import Architecture as Architecture
    from psvit.architecture import Stage as Stage
    from psvit.budget import Budget as Budget
    from psvit.classifier import Classifier as Classifier
    from psvit.costs import Cost as Cost
    from psvit.costs import cost as cost
    from psvit.data import ImageData as ImageData
    from psvit.errors import InputError as InputError
    from psvit.model import PSViT as PSViT
    from psvit.model import create_model as create_model
    from psvit.picture import draw as draw
    from psvit.registration import register_pooling as register_pooling
    from psvit.registration import register_stem as register_stem
    from psvit.search_space import SearchSpace as SearchSpace

_PUBLIC = {
    "Architecture": "psvit.architecture",
    "Budget": "psvit.budget",
    "Classifier": "psvit.classifier",
    "Cost": "psvit.costs",
    "ImageData": "psvit.data",
    "InputError": "psvit.errors",
    "PSViT": "psvit.model",
    "SearchSpace": "psvit.search_space",
    "Stage": "psvit.architecture",
    "cost": "psvit.costs",
    "create_model": "psvit.model",
    "draw": "psvit.picture",
    "register_pooling": "psvit.registration",
    "register_stem": "psvit.registration",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'psvit' has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
