"""psvit finds the best vision transformer for a budget.

The names below load what they need when they are first used, so that a command's `--help` waits for no deep-learning
library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from psvit.arch.architecture import Architecture as Architecture
    from psvit.arch.architecture import Stage as Stage
    from psvit.arch.costs import Cost as Cost
    from psvit.arch.costs import cost as cost
    from psvit.classifier import Classifier as Classifier
    from psvit.data import ImageData as ImageData
    from psvit.errors import DivergedError as DivergedError
    from psvit.errors import InputError as InputError
    from psvit.errors import LostWorkersError as LostWorkersError
    from psvit.errors import MismatchError as MismatchError
    from psvit.errors import NoisyMachineError as NoisyMachineError
    from psvit.errors import RunError as RunError
    from psvit.errors import UnmetBudgetError as UnmetBudgetError
    from psvit.model import PSViT as PSViT
    from psvit.model import create_model as create_model
    from psvit.nn.picture import draw as draw
    from psvit.nn.registration import register_pooling as register_pooling
    from psvit.nn.registration import register_stem as register_stem
    from psvit.retrain.comparison import Comparison as Comparison
    from psvit.retrain.comparison import compare as compare
    from psvit.retrain.delivery.export import Exported as Exported
    from psvit.retrain.delivery.export import export_network as export_network
    from psvit.retrain.result import RetrainedNetwork as RetrainedNetwork
    from psvit.retrain.result import RetrainedNetworks as RetrainedNetworks
    from psvit.retrain.run import retrain_network as retrain_network
    from psvit.retrain.run import retrain_networks as retrain_networks
    from psvit.search.candidates import Candidates as Candidates
    from psvit.search.estimate import Estimate as Estimate
    from psvit.search.evaluator import Evaluator as Evaluator
    from psvit.search.evaluator import ScoringFunction as ScoringFunction
    from psvit.search.fidelity.run import MeasuredFidelity as MeasuredFidelity
    from psvit.search.fidelity.run import measure_fidelity as measure_fidelity
    from psvit.search.history import History as History
    from psvit.search.history import Seen as Seen
    from psvit.search.latency.measure import Latency as Latency
    from psvit.search.latency.run import BuiltLatencyModel as BuiltLatencyModel
    from psvit.search.latency.run import build_latency_model as build_latency_model
    from psvit.search.latency.run import measure_latency as measure_latency
    from psvit.search.objectives import Objective as Objective
    from psvit.search.proposal import Proposal as Proposal
    from psvit.search.result import SearchResult as SearchResult
    from psvit.search.run import estimate_search as estimate_search
    from psvit.search.run import run_search as run_search
    from psvit.search.searchers import Searcher as Searcher
    from psvit.search.trial import Score as Score
    from psvit.space.budget import Budget as Budget
    from psvit.space.search_space import SearchSpace as SearchSpace
    from psvit.supernet.run import TrainedSupernet as TrainedSupernet
    from psvit.supernet.run import train_supernet as train_supernet
    from psvit.train.original import Original as Original
    from psvit.train.read_original import read_original as read_original

_PUBLIC = {
    "Architecture": "psvit.arch.architecture",
    "Budget": "psvit.space.budget",
    "BuiltLatencyModel": "psvit.search.latency.run",
    "Candidates": "psvit.search.candidates",
    "Classifier": "psvit.classifier",
    "Comparison": "psvit.retrain.comparison",
    "Cost": "psvit.arch.costs",
    "DivergedError": "psvit.errors",
    "Estimate": "psvit.search.estimate",
    "Evaluator": "psvit.search.evaluator",
    "Exported": "psvit.retrain.delivery.export",
    "History": "psvit.search.history",
    "ImageData": "psvit.data",
    "InputError": "psvit.errors",
    "Latency": "psvit.search.latency.measure",
    "LostWorkersError": "psvit.errors",
    "MeasuredFidelity": "psvit.search.fidelity.run",
    "MismatchError": "psvit.errors",
    "NoisyMachineError": "psvit.errors",
    "Objective": "psvit.search.objectives",
    "Original": "psvit.train.original",
    "PSViT": "psvit.model",
    "Proposal": "psvit.search.proposal",
    "RetrainedNetwork": "psvit.retrain.result",
    "RetrainedNetworks": "psvit.retrain.result",
    "RunError": "psvit.errors",
    "Score": "psvit.search.trial",
    "ScoringFunction": "psvit.search.evaluator",
    "SearchResult": "psvit.search.result",
    "SearchSpace": "psvit.space.search_space",
    "Searcher": "psvit.search.searchers",
    "Seen": "psvit.search.history",
    "Stage": "psvit.arch.architecture",
    "TrainedSupernet": "psvit.supernet.run",
    "UnmetBudgetError": "psvit.errors",
    "build_latency_model": "psvit.search.latency.run",
    "compare": "psvit.retrain.comparison",
    "cost": "psvit.arch.costs",
    "create_model": "psvit.model",
    "draw": "psvit.nn.picture",
    "estimate_search": "psvit.search.run",
    "export_network": "psvit.retrain.delivery.export",
    "measure_fidelity": "psvit.search.fidelity.run",
    "measure_latency": "psvit.search.latency.run",
    "read_original": "psvit.train.read_original",
    "register_pooling": "psvit.nn.registration",
    "register_stem": "psvit.nn.registration",
    "retrain_network": "psvit.retrain.run",
    "retrain_networks": "psvit.retrain.run",
    "run_search": "psvit.search.run",
    "train_supernet": "psvit.supernet.run",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'psvit' has no attribute {name!r}; it offers {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
