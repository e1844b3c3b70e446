"""SearchPlan: everything that a search decides before it begins, resolved once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from psvit.data import ImageData, found_data
from psvit.errors import InputError
from psvit.executors.choose_executor import check_workers
from psvit.search.bounds import ObjectiveBound
from psvit.search.candidates import Candidates
from psvit.search.evaluator import Evaluator, read_evaluator
from psvit.search.latency.build import LatencyPlan
from psvit.search.latency.limits import PredictedLimit, check_hopeful, models_by_setting
from psvit.search.latency.measure import Setting, fingerprint, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.objectives import ACCURACY, LATENCY, SCORE, Objective, read_objectives
from psvit.search.racing import Race
from psvit.search.request import ScoredBy, SearchRequest
from psvit.search.search import KEPT
from psvit.search.searchers import Searcher, make_searcher
from psvit.search.searchers.enumerate import Enumerate, check_enumerable
from psvit.search.searchers.random import Random
from psvit.search.selection.rungs import selection_recipe
from psvit.search.spaces import choose_space, wanted_space
from psvit.search.storage import without_password
from psvit.space.around import evenly_pooled
from psvit.space.budget import SPENT, Budget
from psvit.space.references import Reference, references
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import read_provenance, supernet_digest
from psvit.train.choices import choose_devices, choose_recipe
from psvit.train.device_checks import check_device
from psvit.train.recipe import Recipe, SupernetRecipe

if TYPE_CHECKING:
    from psvit.train.original import Original

SUPERNET = "supernet"
"""Where a search that trains a supernet first keeps it, in its own run."""

CONTROL_SHARE = 0.25
"""Default number of random architectures for comparison, as a share of the trials."""

TRIALS: dict[ScoredBy, int] = {"own": 256, "trained": 48, "inherited": 256, "dss": 128, "rule": 0}
"""How many architectures are evaluated by default."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """All that a search decides before it begins.

    Attributes:
        asked: the request. What is not an attribute below is used as it was given.
        space: the space, with the data's classes and channels.
        limits: the limits that candidates keep. If a given limit has no lower end, it may have one here.
        limits_given: the limits as given, resolved.
        bounds: the limits on numbers of a user's own.
        data: the images; `None` without any.
        scored_by: what scores candidates.
        evaluator: the evaluator of a user's own that scores; `None` if another one does.
        evaluator_says: the description that this evaluator gives of itself.
        original: the network that a search begins with, fitted to the images; `None` if it begins with none.
        supernet_digest: the digest of the weights of the given supernet.
        supernet_recipe: how a supernet is trained first; `None` if none is.
        searcher: proposes the candidates.
        objectives: the names of the objectives, the score first.
        own: the objectives that are a user's own.
        latency_models: the given latency models, by the setting of the limit that each is for.
        latency_digests: the digests of these models, in the order in which they were given.
        latency_setting: the setting in which latency is measured if it is an objective, and there is no limit on it
            and no model of it.
        trials: how many architectures are evaluated.
        control: how many architectures are drawn uniformly and scored for comparison; `None` means `CONTROL_SHARE` of
            the trials.
        training: how candidates and finalists are trained; `None` if none are.
        asked_training: the same without a time limit.
        planned: what follows from a time limit, JSON-serialisable: a continued run does the same. Empty without one.
        device: the device of this process.
        scoring_device: the device on which candidates are scored.
        race: the rule for giving up candidates early; `None` if it is switched off.
    """

    asked: SearchRequest
    space: SearchSpace
    limits: Budget
    limits_given: Budget
    bounds: tuple[ObjectiveBound, ...]
    data: ImageData | None
    scored_by: ScoredBy
    evaluator: Evaluator | None
    evaluator_says: Mapping[str, Any] | None
    original: Original | None
    supernet_digest: str | None
    supernet_recipe: Recipe | None
    searcher: Searcher
    objectives: tuple[str, ...]
    own: tuple[Objective, ...]
    latency_models: Mapping[str, LatencyModel]
    latency_digests: tuple[str, ...]
    latency_setting: Setting | None
    trials: int
    control: int | None
    training: Recipe | None
    asked_training: Recipe | None
    planned: Mapping[str, int]
    device: torch.device
    scoring_device: torch.device
    race: Race | None

    @property
    def budget(self) -> tuple[str, ...]:
        """The limits as given, in words."""
        return (*self.asked.limits, *map(str, self.bounds))

    @property
    def is_trained(self) -> bool:
        """Whether candidates are scored by short trainings."""
        return self.scored_by == "trained"

    @property
    def selects(self) -> bool:
        """Whether finalists are trained to choose among them."""
        return self.training is not None and len(self.objectives) == 1 and self.asked.finalists > 0

    @property
    def keep(self) -> int:
        """How many of the best are always scored on all images: at least as many as there are finalists."""
        return max(KEPT, self.asked.finalists)

    @property
    def scored(self) -> dict[str, Any]:
        """Everything that scores and limits depend on. All processes that work on a study must agree on it."""
        own = {one.name: one.to_dict() for one in (*self.own, *(bound.objective for bound in self.bounds))}
        return {
            "budget": list(self.asked.limits),
            "limits": self.limits_given.resolved,
            "objectives": list(self.objectives),
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name if self.data else None,
            "data_digest": self.data.digest if self.data else None,
            "supernet": self.supernet_digest,
            "supernet_recipe": self.supernet_recipe.to_dict() if self.supernet_recipe else None,
            "race": asdict(self.race) if self.race else None,
            "device": self.scoring_device.type,
            "latency": list(self.latency_digests),
            **({"init": {"name": self.original.name, "digest": self.original.digest}} if self.original else {}),
            # Left out if there are none, so that studies from before there could be any still continue.
            **({"evaluator": dict(self.evaluator_says)} if self.evaluator_says is not None else {}),
            **({"training": self._training} if self.is_trained else {}),
            **({"own_objectives": own} if own else {}),
        }

    @property
    def _training(self) -> dict[str, Any] | None:
        """How networks are trained, JSON-serialisable."""
        return {**self.training.to_dict(), "inherit": self.asked.inherits} if self.training else None

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decides the result, JSON-serialisable. It has to be equal when a run is continued."""
        return {
            **self.scored,
            "searcher": self.searcher.name,
            "searcher_parameters": self.searcher.parameters,
            "seed": self.asked.seed,
            "scored_by": self.scored_by,
            "finalists": self.asked.finalists if self.selects else 0,
            "training": self._training,
            **({"planned": dict(self.planned)} if self.planned else {}),
        }

    @property
    def unplanned_config(self) -> dict[str, Any]:
        """`config` as it would be without a time limit."""
        unplanned = replace(self, training=self.asked_training, planned={}) if self.planned else self
        return unplanned.config

    @property
    def full_config(self) -> dict[str, Any]:
        """`config`, and also what may change when a run is continued. Passwords are left out."""
        return {
            **self.config,
            "trials": self.trials,
            "control": f"{CONTROL_SHARE:.0%} of those evaluated" if self.control is None else self.control,
            "seconds": self.asked.seconds,
            "share_prefixes": self.asked.share_prefixes,
            "workers": self.asked.workers,
            "storage": self.asked.storage and without_password(self.asked.storage),
            "study": self.asked.study,
        }

    def next_command(self, file: Path) -> str:
        """What goes on from the winner: a shell line, or a call in Python where no command can open the images.

        Args:
            file: its architecture file.
        """
        recipe, settings = self.asked.recipe, self.asked.settings or {}
        given = [f"--recipe {shlex.quote(str(recipe))}"] if isinstance(recipe, str | Path) else []
        if isinstance(recipe, Recipe):
            assert self.data is not None, "a recipe without images is refused"
            settings = self.asked.unusual(recipe, self.space, self.data, self.scoring_device)
        if self.data and not self.data.has_source:
            named = {"recipe": str(recipe) if given else None, "settings": {**settings}, "inherit": self.asked.inherit}
            said = "".join(f", {key}={value!r}" for key, value in named.items() if value not in (None, {}))
            return f"psvit.retrain_network({str(file)!r}, data{said})"
        for key, value in settings.items():
            written = value if isinstance(value, str) else json.dumps(value)  # which is YAML too
            given.append(f"--set {shlex.quote(f'{key}={written}')}")
        given += {None: [], True: ["--inherit"], False: ["--from-scratch"]}[self.asked.inherit]
        data = shlex.quote(self.data.name) if self.data else "DATA"
        return " ".join(["psvit-retrain", shlex.quote(str(file)), "--data", data, *given])

    def references(self, limits: Budget) -> tuple[Reference, ...]:
        """Hand-made members within limits on costs: made of the original, or without one after DeiT, PiT and HVT."""
        if self.original:
            return evenly_pooled(self.space, self.original.arch, limits)
        return references(self.space, limits)

    def control_of(self, trials: int) -> int:
        """How many architectures are drawn for comparison, given the number of trials."""
        return int(CONTROL_SHARE * trials) if self.control is None else self.control

    @cached_property
    def latency_plans(self) -> list[LatencyPlan]:
        """Of the latency models that are to be built; `LatencyPlan.of` says what is refused."""
        limited = [Setting.of(limit) for limit in self.limits.latencies if limit.setting not in self.latency_models]
        return [LatencyPlan.of(self.space, one, self.asked.seed) for one in (*limited, self.latency_setting) if one]

    @property
    def retraining_epochs(self) -> int | None:
        """How many epochs a retraining takes by default; `None` if nothing is trained here."""
        if self.training is None:
            return None
        assert self.data is not None
        return self.asked.final_recipe(self.space, self.data, self.scoring_device).epochs

    @property
    def search_seconds(self) -> float | None:
        """The seconds that the search takes for itself; the rest is for the control. `None` if time is not limited."""
        seconds = None if self.is_trained else self.asked.seconds  # for trainings, there is a `TimeLimit`
        return seconds and seconds * self.trials / (self.trials + self.control_of(self.trials))

    def planned_with(self, trials: int, training: Recipe) -> SearchPlan:
        """The plan with other numbers, which follow from a time limit."""
        planned = {"trials": trials, "epochs": training.epochs}
        return replace(self, trials=trials, training=training, planned=planned)

    def check(self) -> None:
        """Check what needs networks, as far as that is possible before anything is built, trained or written.

        Raises:
            InputError: the device cannot train as it shall, no architecture can meet a limit on latency, or a setting
                cannot be measured.
        """
        if self.supernet_recipe:
            check_device(self.device, self.supernet_recipe)
        if self.training and self.asked.workers is None:  # their devices may not be here
            check_device(self.scoring_device, self.training)
        for latency_plan in self.latency_plans:
            fingerprint(latency_plan.setting)
        known = []
        for limit in self.limits.latencies:
            if model := self.latency_models.get(limit.setting):
                known.append(PredictedLimit(limit, model))
            else:
                check_hopeful(limit, self.space, measure)
        Candidates(self.space, self.limits, [*known, *self.bounds])


def plan_search(asked: SearchRequest) -> SearchPlan:
    """Resolve what is asked: names, files, digests and limits. Nothing is written.

    Raises:
        InputError: something cannot be used; says what.
    """
    # What is quick to check comes first.
    asked.check()
    given_network = _given_network(asked)
    wanted = wanted_space(asked, given_network)
    scored_by = asked.scored_by()
    evaluator = read_evaluator(asked.evaluator) if scored_by == "own" else None
    few, asks_one = scored_by == "trained", len(asked.objectives) == 1
    searcher = make_searcher(asked.searcher or "evolution", few=few, predicts=few and asks_one and not asked.inherits)
    names, own = read_objectives(asked.objectives, ACCURACY if evaluator is None else SCORE)
    bounds = asked.bounds()
    if asked.study and not asked.storage:
        raise InputError(f"--study {asked.study!r}: names a study in a --storage, and none is given")
    check_workers(asked.workers)
    device, scoring_device = choose_devices(asked.device, asked.workers)

    data = _images(asked)
    original = None
    if given_network:
        assert data is not None
        original = given_network.fitted(data, asked.image_size, asked.seed)
        wanted = SearchSpace.around(original.arch, asked.depths)
    space = choose_space(
        wanted, asked.supernet, data, asked.limits, asked.image_size, prefers_shipped=scored_by in ("inherited", "dss")
    )
    given = Budget.parse(*asked.limits, space=space)
    limits = _spent(given, space) if len(names) == 1 and not bounds else given
    models = [LatencyModel.load(path) for path in asked.latency]
    by_setting = models_by_setting(asked.latency, models, space, limits, is_improved=LATENCY in names)
    for_supernet = _supernet_recipe(asked, space, data, original, device) if scored_by == "inherited" else None
    known = evenly_pooled(space, original.arch, limits) if original else references(space, limits)
    trials, control = _numbers(asked, searcher, space.count(limits) - len(known), scored_by)
    training = _training(asked, space, data, scored_by, scoring_device) if data else None
    races = asked.race and scored_by == "inherited" and len(names) == 1
    return SearchPlan(
        asked=asked,
        space=space,
        limits=limits,
        limits_given=given,
        bounds=bounds,
        data=data,
        scored_by=scored_by,
        evaluator=evaluator,
        evaluator_says=evaluator.describe() if evaluator else None,
        original=original,
        supernet_digest=supernet_digest(asked.supernet) if asked.supernet else None,
        supernet_recipe=for_supernet,
        searcher=searcher,
        objectives=names,
        own=own,
        latency_models=by_setting,
        latency_digests=tuple(model.digest for model in models),
        latency_setting=_measured(device) if LATENCY in names and not limits.latencies and not models else None,
        trials=trials,
        control=control,
        training=training,
        asked_training=training,
        planned={},
        device=device,
        scoring_device=scoring_device,
        race=Race(keep=max(KEPT, asked.finalists)) if races else None,
    )


def _images(asked: SearchRequest) -> ImageData | None:
    """The images that are named, or those that the supernet was trained on; `None` without any.

    Raises:
        InputError: there are no such images, or too few to compare candidates on.
    """
    name = asked.data or (read_provenance(asked.supernet).get("data") if asked.supernet else None)
    data = found_data(name) if name else None
    if data:
        data.check_search()
    return data


def _given_network(asked: SearchRequest) -> Original | None:
    """The network that the search begins with; `None` without one. Only then timm has to be loaded for a plan."""
    if asked.init is None:
        return None
    from psvit.train.read_original import read_original

    return read_original(asked.init, asked.init_weights)


def _training(
    asked: SearchRequest, space: SearchSpace, data: ImageData, scored_by: ScoredBy, device: torch.device
) -> Recipe | None:
    """How candidates and finalists are trained; `None` if none are.

    Raises:
        InputError: they shall begin with weights that there are not, or that were trained on the verdict images.
    """
    if asked.inherits:
        if scored_by != "inherited" and not asked.supernet and not asked.init:
            raise InputError("--inherit: begins with a supernet's weights, and there is no supernet; name one")
        if asked.supernet and "verdict_images" not in read_provenance(asked.supernet):
            raise InputError(
                f"--inherit: the supernet {asked.supernet!r} comes from version 0.1, which trained it on what are the "
                "verdict images now; train it again, or leave --inherit out"
            )
    final = asked.final_recipe(space, data, device)
    trains = scored_by == "trained" or (asked.finalists and scored_by != "rule")
    return selection_recipe(final) if trains else None


def _supernet_recipe(
    asked: SearchRequest,
    space: SearchSpace,
    data: ImageData | None,
    original: Original | None,
    device: torch.device,
) -> SupernetRecipe | None:
    """How a supernet is trained first; `None` if one is given. One that begins as a network learns from it."""
    if asked.supernet:
        return None
    assert data is not None
    teaches = original is not None and original.keeps_head
    settings = dict(asked.supernet_settings or {})
    if original and not teaches and asked.supernet_recipe is None:
        # Its largest architecture learns the classes, and the others learn from it.
        settings.setdefault("target", "inplace")
    recipe = choose_recipe(
        asked.supernet_recipe,
        settings,
        data,
        space.image_size,
        supernet=True,
        device=device,
        teacher=None if original else False,
        begin="original" if original else "random",
    )
    assert isinstance(recipe, SupernetRecipe)
    if recipe.needs_teacher and not teaches:
        raise InputError(
            f"target {recipe.target}: the network's classifier is new, so it can teach nothing; give "
            "--supernet-set target=inplace or --supernet-set target=labels"
        )
    return recipe


def _spent(given: Budget, space: SearchSpace) -> Budget:
    """The limits, with a lower end for the first that has none, see `Budget.spent`.

    They stay as they are if nothing would be left within them, or if latency is limited: then latency may be what
    limits a network, not MACs.
    """
    spent = given if given.latencies else given.spent(SPENT)
    return spent if space.count(spent) else given


def _measured(device: torch.device) -> Setting:
    return Setting.from_dict({"device": str(device)}, source=f"device {device}")


def _numbers(asked: SearchRequest, searcher: Searcher, members: int, scored_by: ScoredBy) -> tuple[int, int | None]:
    """How many of the members besides references are evaluated, and how many are drawn for comparison."""
    enumerates = isinstance(searcher, Enumerate)
    if enumerates:
        check_enumerable(members)
    trials = max(1, min(members, asked.trials or (members if enumerates else TRIALS[scored_by])))
    # What the searcher draws itself is a comparison, and trainings take long.
    needs_none = isinstance(searcher, Enumerate | Random) or scored_by == "trained"
    return trials, 0 if asked.control is None and needs_none else asked.control
