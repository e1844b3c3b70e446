"""A search run: everything that `psvit-search` decides before it begins, and what it then does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import psvit
from psvit.architecture import ArchitectureFile
from psvit.budget import Budget
from psvit.data import Batches, ImageData, Inputs
from psvit.documents import replacing, write_atomic
from psvit.errors import InputError, UnmetBudgetError
from psvit.picture import draw
from psvit.recipe import Recipe
from psvit.run_folder import RunFolder
from psvit.search.candidates import DRAWS, Candidates
from psvit.search.evaluator import Evaluator, InheritedAccuracy
from psvit.search.indicators import DSS
from psvit.search.latency.build import LatencyPlan, build_latency_model
from psvit.search.latency.limits import Finalist, PredictedLimit, check_hopeful, first_within
from psvit.search.latency.measure import Setting, fingerprint, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.search import search
from psvit.search.searchers import make_searcher
from psvit.search.study import Study
from psvit.search.trial import Trial, best
from psvit.search_space import SearchSpace, default_space
from psvit.supernet.supernet import Supernet, read_space, supernet_digest
from psvit.supernet.train import train_supernet

SPENT = 0.9
"""A limit without a lower end is a budget to spend: the search stays in its upper tenth where that is not empty."""

BATCH_SIZE = 256
"""Images that are scored at once."""

LATENCY_SPACE = "psvit-2d-small"
"""The space for images of 224 pixels where latency alone is limited."""

IMAGE_SIZE = 224
"""For which images a network is searched where there are none."""


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What a search is of.

    Attributes:
        space: the space, with the data's classes and channels.
        budget: the limits as given.
        data: images, where candidates are scored with a supernet.
        supernet: a trained one, as its run folder or file.
        recipe: how a supernet is trained first, where none is given.
        searcher: the name of the searcher.
        trials: architectures to evaluate.
        seed: of everything random.
        device: where to compute.
        latency: files of latency models for limits on latency; for those that no file is for, a model is built first.
    """

    space: SearchSpace
    budget: tuple[str, ...]
    data: ImageData | None
    supernet: str | None
    recipe: Recipe | None
    searcher: str
    trials: int
    seed: int
    device: torch.device
    latency: tuple[Path, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the result, JSON-serialisable."""
        return {
            "budget": list(self.budget),
            "limits": Budget.parse(*self.budget, space=self.space).resolved,
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name if self.data else None,
            "supernet": supernet_digest(self.supernet) if self.supernet else None,
            "recipe": self.recipe.to_dict() if self.recipe else None,
            "searcher": self.searcher,
            "trials": self.trials,
            "seed": self.seed,
            "device": self.device.type,
            "latency": [LatencyModel.load(path).digest for path in self.latency],
        }

    @property
    def limits(self) -> Budget:
        """The limits that candidates keep: those given, spent where they leave it open."""
        given = Budget.parse(*self.budget, space=self.space)
        spent = given.spent(SPENT)
        return spent if self.space.count(spent) else given

    def latency_models(self) -> dict[str, LatencyModel]:
        """The models that were given, by the setting of the limit that each is for.

        Raises:
            InputError: one is of another space, device or version than is searched, or for no limit.
        """
        models: dict[str, LatencyModel] = {}
        settings = {Setting.of(limit): limit.setting for limit in self.limits.latencies}
        for path in self.latency:
            model = LatencyModel.load(path)
            if not settings:
                raise InputError(f"--latency {path}: there is no limit on latency, such as 5ms@cpu, for it to predict")
            wanted = model.setting if model.setting in settings else next(iter(settings))
            model.check(self.space, wanted, fingerprint(wanted), source=f"--latency {path}")
            models[settings[wanted]] = model
        return models

    def check_latencies(self) -> None:
        """Refuse what can be told of limits on latency before anything is built, trained or written.

        Raises:
            InputError: a limit that nothing can keep, a setting that cannot be measured, or a model of something else.
        """
        models = self.latency_models()
        for limit in self.limits.latencies:
            fingerprint(Setting.of(limit))
            if limit.setting in models:
                PredictedLimit(limit, models[limit.setting]).check(self.space)
            else:
                check_hopeful(limit, self.space, measure)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        file: the winner's architecture file.
        trial: the winner.
        kind: what its score is.
        trials: how many architectures were evaluated.
        latencies: of the winner, by setting: predicted and measured.
        passed_over: trials with better scores that were measured beyond a limit on latency.
    """

    file: Path
    trial: Trial
    kind: str
    trials: int
    latencies: dict[str, Any]
    passed_over: int


def choose_space(
    wanted: SearchSpace | None, supernet: str | None, data: ImageData | None, budget: tuple[str, ...]
) -> SearchSpace:
    """The space to search: the supernet's, the wanted one, or the smallest shipped one that holds the budget.

    The limits come as given, because `60%` is of what the space holds, which the data may change.

    Raises:
        InputError: the supernet belongs to another space or other images, or nothing is within the budget.
    """
    if supernet:
        space = read_space(supernet)
        if data and (len(data.classes), data.in_chans) != (space.num_classes, space.in_chans):
            raise InputError(
                f"supernet {supernet!r}: trained for {space.num_classes} classes and {space.in_chans} channels, "
                f"but {data.name!r} has {len(data.classes)} and {data.in_chans}"
            )
        if wanted and not wanted.differs_in_data_only(space):
            raise InputError(f"supernet {supernet!r}: belongs to the space {space.name}, not to {wanted.name}")
    else:
        limits = Budget.parse(*budget, space=wanted)
        space = wanted or default_space(limits, data.image_size if data else IMAGE_SIZE)
        if not wanted and not limits.limits:
            # Which spaces hold a latency would have to be measured. Where there is a choice, the middle one is taken.
            middle = SearchSpace.load(LATENCY_SPACE)
            space = middle if space.image_size == middle.image_size else space
        if data:
            space = space.with_data(len(data.classes), data.in_chans)
    space.check(Budget.parse(*budget, space=space))
    return space


def run_search(run: SearchRun, folder: RunFolder) -> Found:
    """Build and train what is missing, search, and write the winner, its weights and the history.

    A run that was interrupted continues; one that is finished is found finished.

    Raises:
        InputError: no architecture is within the budget; names the reachable range.
        NoisyMachineError: the machine was too noisy to measure latency; the same call continues.
        UnmetBudgetError: no architecture was found or measured within the limits on latency.
    """
    # Before a supernet is trained, because a limit that nothing can keep shows here.
    latencies = _predicted_limits(run, folder)
    candidates = Candidates(run.space, run.limits, latencies)
    supernet = _supernet(run, folder) if run.data else None
    evaluator: Evaluator
    if supernet and run.data:
        inputs = Inputs.of(run.data, run.space.image_size)
        evaluator = InheritedAccuracy(supernet, Batches(run.data.search, inputs, BATCH_SIZE, run.device))
    else:
        evaluator = DSS(run.space, run.seed, run.device)
    study = Study(run.space, folder / "study.journal")
    searcher = make_searcher(run.searcher)
    for _ in search(candidates, searcher, evaluator, study, trials=run.trials, seed=run.seed):
        pass
    write_atomic(folder / "history.csv", study.to_csv())
    if not study.history:
        raise UnmetBudgetError(
            f"budget: of {DRAWS:,} architectures drawn, none is predicted to keep {run.limits}; "
            f"{'; '.join(latency.reach(run.space) for latency in latencies)}"
        )
    finalist = (
        first_within(study.history, latencies, folder / "finalists.journal", measure)
        if latencies
        else Finalist(trial=best(study.history)[0], latencies={}, passed_over=0)
    )
    description = evaluator.describe()
    file = _write_winner(run, folder, finalist, description, len(study.history), supernet)
    return Found(
        file=file,
        trial=finalist.trial,
        kind=description["kind"],
        trials=len(study.history),
        latencies=finalist.latencies,
        passed_over=finalist.passed_over,
    )


def _predicted_limits(run: SearchRun, folder: RunFolder) -> list[PredictedLimit]:
    """The limits on latency with their models, built inside the run where none was given."""
    models = run.latency_models()
    limits = []
    for number, limit in enumerate(run.limits.latencies, start=1):
        model = models.get(limit.setting)
        if model is None:
            plan = LatencyPlan.of(run.space, Setting.of(limit), run.seed)
            model, _ = build_latency_model(plan, folder / f"latency-{number}.yaml", measure)
        limits.append(PredictedLimit(limit, model))
    return limits


def _supernet(run: SearchRun, folder: RunFolder) -> Supernet:
    """The supernet that scores candidates, trained inside the run where none was given."""
    path = run.supernet
    if path is None:
        assert run.data is not None
        assert run.recipe is not None
        file = train_supernet(
            run.space, run.data, run.recipe, seed=run.seed, device=run.device, folder=folder / "supernet"
        )
        path = str(file)
    return Supernet.load(path, run.device)


def _write_winner(
    run: SearchRun,
    folder: RunFolder,
    finalist: Finalist,
    description: dict[str, Any],
    trials: int,
    supernet: Supernet | None,
) -> Path:
    """Write `best.yaml`, its picture and, where there is a supernet, its weights.

    Equal searches write equal bytes, except for measured latencies.
    """
    file = folder / "best.yaml"
    winner = finalist.trial
    digest = None
    if supernet is not None:
        digest = supernet_digest(run.supernet or folder / "supernet")
        with replacing(file.with_suffix(".safetensors")) as temporary:
            save_file(supernet.extract(winner.arch).cpu().state_dict(), temporary, {"format": "pt"})
    title = f"Found for {' and '.join(run.budget) or 'any budget'} in {run.space.name}"
    write_atomic(file.with_suffix(".svg"), draw(winner.arch, titles=[title]))
    ArchitectureFile(
        arch=winner.arch,
        score={"value": winner.score, **description},
        latency=finalist.latencies,
        budget=run.budget,
        provenance={
            "space": run.space.name,
            "space_digest": run.space.digest,
            "supernet_digest": digest,
            "data": run.data.describe() if run.data else None,
            "searcher": run.searcher,
            "trials": trials,
            "trial": winner.number,
            "seed": run.seed,
            "limits": run.limits.resolved,
            "versions": {"psvit": psvit.__version__, "torch": torch.__version__},
        },
    ).save(file)
    return file
