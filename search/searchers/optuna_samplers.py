"""Optuna's samplers as searchers.

A sampler of Optuna's proposes a value for every gene, knowing neither which rows of genes encode an architecture nor
what one costs. A row that encodes none or exceeds a limit is told to it as infeasible, with the share of the excess.

Searchers keep no state, and a sampler has some: so every batch is asked of a new sampler, seeded for it, on a study in
memory that is made from the history. Architectures that were given up early are not in it, because their scores are
not whole. What a sampler stores beside a trial (the generation, in NSGA-II) comes back with
the trial. That costs time for long histories, and makes a continued search equal to one that was never interrupted.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from psvit.arch.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.optuna_constraints import LIST, SAMPLER_OPTIONS, create_trial, set_constraints
from psvit.search.proposal import UNIFORM, Proposal
from psvit.search.searchers.base import Searcher
from psvit.search.study_records import GENERATION
from psvit.space.search_space import SearchSpace

ATTEMPTS = 50
"""Rows asked of a sampler for each architecture that is wanted before one is drawn from the candidates instead."""


class OptunaSampler(Searcher):
    """A searcher that asks a sampler of Optuna's.

    Args:
        name: of the searcher.
        make: the sampler's class, or what else makes one from `seed` and the options.
        options: JSON-serialisable.
        batch_size: architectures that are asked for before any of them is evaluated.
        attempts: rows that are asked for each of them; what takes a sampler seconds is not asked 50 times.
        keeps: what of a trial's attributes the sampler has to find again.
        knows_genes: whether the sampler is told what is sampled together, or finds out as it is used to.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., BaseSampler],
        options: dict[str, Any] | None = None,
        *,
        batch_size: int,
        attempts: int = ATTEMPTS,
        keeps: Callable[[str], bool] = lambda key: key.endswith(GENERATION),
        knows_genes: bool = True,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self._make = make
        self._options = options or {}
        self._attempts = attempts
        self._keeps = keeps
        self._knows_genes = knows_genes

    @property
    def parameters(self) -> dict[str, Any]:
        """The options of the sampler, and how it is asked."""
        asked = {"batch_size": self.batch_size, "attempts": self._attempts}
        return {**asked, "sampler": self._make.__name__, **self._options}

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """Proposals of the sampler. If it finds nothing that may be evaluated, an architecture is drawn instead."""
        space, seen = candidates.space, Seen(history)
        genes: dict[str, BaseDistribution] = {
            gene: IntDistribution(0, values - 1) for gene, values in space.genes.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._make(seed=int(rng.integers(2**31)), **self._options, **SAMPLER_OPTIONS)
            if self._knows_genes:
                _know_genes(sampler, genes)
            study = _study(sampler, history, genes)
            worst = _worst(history, len(study.directions))
            proposals: list[Proposal] = []
            for _ in range(n):
                attrs: dict[str, Any] = {}
                for _ in range(self._attempts):
                    trial = study.ask(genes)
                    attrs = self._kept(study.get_trials(deepcopy=False)[trial.number].system_attrs)
                    row = space.encoding.canonical([trial.params[gene] for gene in genes])
                    arch = member(space, row)
                    if arch is None:
                        proposal = candidates.outside(row, self.name, attrs)
                    else:
                        (proposal,) = candidates.propose([arch], self.name, attrs)
                    if not proposal.is_feasible:
                        set_constraints(trial, proposal.constraints)
                        study.tell(trial, worst)
                        proposals.append(proposal)
                        continue
                    assert arch is not None
                    if arch in seen:
                        study.tell(trial, state=TrialState.FAIL)
                        continue
                    seen.add(arch)
                    proposals.append(proposal)
                    break
                else:
                    new = candidates.draw_unseen(1, seen, rng)
                    proposals += candidates.propose(new, UNIFORM, attrs)
                    if not new:
                        break
        return proposals

    def _kept(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The attributes that the sampler has to find again. The values that it drew stand in the row."""
        return {key: value for key, value in attrs.items() if self._keeps(key)}


def of_sampler(sampler: BaseSampler) -> Searcher:
    """A searcher that asks a copy of a sampler for every batch, its random numbers seeded for that batch.

    What a sampler keeps in itself between trials is therefore lost; what it writes into their attributes is kept, as
    CMA-ES does. It finds out by itself what is sampled together.
    """
    kind = type(sampler)
    pristine = copy.deepcopy(sampler)

    def make(seed: int, **options: Any) -> BaseSampler:
        made = copy.deepcopy(pristine)
        _seed(made, np.random.default_rng(seed), set())
        return made

    make.__name__ = f"{kind.__module__}.{kind.__qualname__}"
    simple = (bool, int, float, str, type(None))
    options = {name.lstrip("_"): value for name, value in vars(sampler).items() if isinstance(value, simple)}
    return OptunaSampler(
        kind.__name__,
        make,
        # A seed of its own is not used.
        {name: value for name, value in sorted(options.items()) if name != "seed"},
        batch_size=8,
        attempts=10,
        keeps=lambda key: not key.startswith(LIST),
        knows_genes=False,
    )


def _seed(part: Any, rng: np.random.Generator, seen: set[int]) -> None:
    """Seed every source of random numbers in a sampler, in what it is made of, and in samplers that it asks."""
    for name, value in sorted(getattr(part, "__dict__", {}).items()):
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.random.Generator):
            setattr(part, name, np.random.default_rng(int(rng.integers(2**31))))
        elif isinstance(value, np.random.RandomState | random.Random):
            value.seed(int(rng.integers(2**31)))
        elif isinstance(lazy := getattr(value, "rng", None), np.random.RandomState):
            lazy.seed(int(rng.integers(2**31)))
        elif isinstance(value, BaseSampler) or type(value).__module__.startswith("optuna."):
            _seed(value, rng, seen)


def tpe() -> Searcher:
    """The tree-structured Parzen estimator; what is being evaluated counts as bad, or it would be proposed again."""
    return OptunaSampler("optuna-tpe", TPESampler, {"multivariate": True, "constant_liar": True}, batch_size=8)


def nsga2() -> Searcher:
    """NSGA-II as Optuna has it."""
    return OptunaSampler("optuna-nsga2", NSGAIISampler, {"population_size": 32}, batch_size=32)


def gp() -> Searcher:
    """Bayesian optimisation with a Gaussian process."""
    return OptunaSampler("optuna-gp", GPSampler, {"deterministic_objective": True}, batch_size=4, attempts=5)


def member(space: SearchSpace, row: Sequence[int]) -> Architecture | None:
    """The architecture that a row encodes, if it encodes one: genes have the range of the stage with most choices."""
    try:
        arch = space.decode(row)
        return arch if tuple(space.encode(arch).tolist()) == tuple(row) else None
    except (IndexError, ValueError):
        return None


def _study(sampler: BaseSampler, history: History, genes: dict[str, Any]) -> optuna.Study:
    """A study in memory with what the history says, every objective to be maximised."""
    objectives = max(1, history.objectives.shape[1])
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
    worst = _worst(history, objectives)
    told = [
        (trial.number, trial.row, list(trial.objectives), trial.constraints, trial.attrs) for trial in history.complete
    ]
    for rejected in history.rejected:
        proposal = rejected.proposal
        told.append((rejected.number, proposal.row, worst, proposal.constraints, proposal.attrs))
    for _, row, values, constraints, attrs in sorted(told, key=lambda record: record[0]):
        study.add_trial(
            create_trial(
                params=dict(zip(genes, row, strict=True)),
                distributions=genes,
                values=values,
                constraints=dict(sorted(constraints.items())),
                system_attrs=dict(attrs),  # the constraints are added to it
            )
        )
    if isinstance(sampler, BaseGASampler):
        # Parents of a generation are chosen from those before it, by recursion; from the first on, it has no depth.
        generations = [value for *_, attrs in told for key, value in attrs.items() if key.endswith(GENERATION)]
        for generation in range(1, 1 + max(generations, default=0)):
            sampler.get_parent_population(study, generation)
    return study


def _know_genes(sampler: BaseSampler, genes: dict[str, BaseDistribution]) -> None:
    """Tell a sampler what is sampled together: every gene that has a choice, in the order that it would have found.

    It would look for what all trials have in common, at every row through all that came after the first unfinished
    one, and those are many: the rows of a batch are unfinished until all of it is asked for.
    """
    together = {gene: values for gene, values in sorted(genes.items()) if not values.single()}
    sampler.infer_relative_search_space = lambda study, trial: dict(together)  # type: ignore[method-assign]


def _worst(history: History, objectives: int) -> list[float]:
    """The value that infeasible rows are told with. Samplers want one, but never compare feasible rows with it."""
    return history.objectives.min(axis=0).tolist() if history.complete else [0.0] * objectives
