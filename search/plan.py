"""SearchRun: everything that a search decides before it begins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from psvit.data import ImageData
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.finalists import brief
from psvit.search.latency.build import LatencyPlan
from psvit.search.latency.limits import PredictedLimit, check_hopeful
from psvit.search.latency.measure import Setting, fingerprint, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.objectives import ACCURACY, LATENCY
from psvit.search.racing import Race
from psvit.search.search import KEPT
from psvit.search.searchers import make_searcher
from psvit.search.storage import without_password
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace, default_space
from psvit.supernet.supernet import check_held_out, read_space, supernet_digest
from psvit.train.recipe import Recipe, default_recipe

if TYPE_CHECKING:  # it loads plotly
    pass

SPENT = 0.9
"""A limit without a lower end is a budget to spend: the search stays in its upper tenth where that is not empty."""

CONTROL_SHARE = 0.25
"""Of what was evaluated, so many are drawn uniformly for comparison where their number is not given."""

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
        device: where this process computes.
        latency: files of latency models for limits on latency; for those that no file is for, a model is built first.
        objectives: what is improved, accuracy first.
        seconds: after which no further batch is begun, of which the control gets its share of the evaluations.
        finalists: how many of the best are trained briefly before one is called the winner, where there are images.
        control: architectures drawn uniformly and scored for comparison; where not given, `CONTROL_SHARE` of what was
            evaluated by then.
        storage: where the study is kept; a journal in the run's folder by default.
        study: its name in a storage that is named.
        share_prefixes: whether candidates that begin alike are computed together.
        race: whether candidates that cannot be among the best any more are given up early.
        workers: `ray` or the address of a Ray cluster that scores and trains finalists; without it, this process does.
        worker_device: where workers compute; as this process, where it is not given.
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
    objectives: tuple[str, ...] = (ACCURACY,)
    seconds: float | None = None
    finalists: int = 0
    control: int | None = 0
    storage: str | None = None
    study: str | None = None
    share_prefixes: bool = True
    race: bool = True
    workers: str | None = None
    worker_device: torch.device | None = None

    @property
    def scoring_device(self) -> torch.device:
        """Where candidates are scored."""
        return self.worker_device or self.device

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the result, JSON-serialisable; a search may go on for longer, and elsewhere."""
        return {
            **self.scored,
            "searcher": self.searcher,
            "searcher_parameters": make_searcher(self.searcher).parameters,
            "seed": self.seed,
            "finalists": self.finalists if self.finalists_recipe else 0,
            "finalists_recipe": self.finalists_recipe.to_dict() if self.finalists_recipe else None,
        }

    @property
    def full_config(self) -> dict[str, Any]:
        """Also what may be another when a run is continued: how long, how and where it searches; no password."""
        return {
            **self.config,
            "trials": self.trials,
            "control": f"{CONTROL_SHARE:.0%} of those evaluated" if self.control is None else self.control,
            "seconds": self.seconds,
            "share_prefixes": self.share_prefixes,
            "workers": self.workers,
            "storage": self.storage and without_password(self.storage),
            "study": self.study,
        }

    @property
    def finalists_recipe(self) -> Recipe | None:
        """How finalists are trained; with several objectives or without images, none are."""
        if len(self.objectives) > 1 or not self.data or not self.finalists:
            return None
        return brief(Recipe.load(default_recipe(min(self.space.image_size), supernet=False)))

    @property
    def scored(self) -> dict[str, Any]:
        """What scores and limits depend on, which all processes that work on a study must agree on."""
        return {
            "budget": list(self.budget),
            "limits": Budget.parse(*self.budget, space=self.space).resolved,
            "objectives": list(self.objectives),
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name if self.data else None,
            "data_digest": self.data.digest if self.data else None,
            "supernet": supernet_digest(self.supernet) if self.supernet else None,
            "recipe": self.recipe.to_dict() if self.recipe else None,
            "race": asdict(self.races) if self.races else None,
            "device": self.scoring_device.type,
            "latency": [LatencyModel.load(path).digest for path in self.latency],
        }

    @property
    def keep(self) -> int:
        """How many of the best are scored on all images, whatever is raced: at least as many as there are finalists."""
        return max(KEPT, self.finalists)

    @property
    def races(self) -> Race | None:
        """When candidates are given up; never where scores rest on no images or not on accuracy alone."""
        return Race(keep=self.keep) if self.race and self.data and len(self.objectives) == 1 else None

    def control_of(self, trials: int) -> int:
        """How many are drawn for comparison with so many trials."""
        return int(CONTROL_SHARE * trials) if self.control is None else self.control

    @property
    def search_seconds(self) -> float | None:
        """After how many of the seconds the search leaves the rest to the control."""
        return self.seconds and self.seconds * self.trials / (self.trials + self.control_of(self.trials))

    @property
    def limits(self) -> Budget:
        """The limits that candidates keep: those given, spent where they leave it open."""
        given = Budget.parse(*self.budget, space=self.space)
        if len(self.objectives) > 1 or given.latencies:
            return given  # costs that are improved are not spent, and where time is limited it may be what is short
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
            if not settings and LATENCY in self.objectives:
                settings[model.setting] = str(model.setting)
            if not settings:
                raise InputError(f"--latency {path}: there is no limit on latency, such as 5ms@cpu, for it to predict")
            wanted = model.setting if model.setting in settings else next(iter(settings))
            model.check(self.space, wanted, fingerprint(wanted), source=f"--latency {path}")
            if settings[wanted] in models:
                raise InputError(f"--latency {path}: a second model of {settings[wanted]}; name one for each limit")
            models[settings[wanted]] = model
        return models

    @property
    def measured_setting(self) -> Setting:
        """Where latency is improved that no limit says how to measure.

        Raises:
            InputError: nothing can be measured there.
        """
        return Setting.from_dict({"device": str(self.device)}, source=f"--device {self.device}")

    def check_latencies(self) -> None:
        """Refuse what can be told of limits on latency before anything is built, trained or written.

        Raises:
            InputError: a limit that nothing can keep, a setting that cannot be measured, or a model of something else.
        """
        models = self.latency_models()
        limits = self.limits
        for limit in limits.latencies:
            setting = Setting.of(limit)
            fingerprint(setting)
            if limit.setting not in models:
                LatencyPlan.of(self.space, setting, self.seed)
                check_hopeful(limit, self.space, measure)
        if LATENCY in self.objectives and not limits.latencies and not models:
            LatencyPlan.of(self.space, self.measured_setting, self.seed)
        predicted = [(limit, models[limit.setting]) for limit in limits.latencies if limit.setting in models]
        Candidates(self.space, limits, [PredictedLimit(limit, model) for limit, model in predicted])


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
        if data:
            check_held_out(supernet, data)
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
