"""SearchRequest: what a search is asked for, with the checks that need nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from psvit.data import ImageData
from psvit.errors import InputError
from psvit.search.bounds import ObjectiveBound
from psvit.search.objectives import Objective
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.train.choices import choose_recipe
from psvit.train.recipe import Recipe

ScoredBy = Literal["own", "trained", "inherited", "dss", "rule"]
"""What scores candidates: an evaluator of a user's own, short trainings, a supernet, or a training-free indicator. With
a rule none are scored: it names one network."""

NAMED: tuple[ScoredBy, ...] = ("trained", "inherited", "dss", "rule")
"""The evaluators that have a name."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """The arguments of `psvit.run_search`, as they were given; its docstring explains them."""

    space: SearchSpace | str | Path | None
    budget: tuple[str | Objective, ...]
    data: ImageData | str | Path | None
    evaluator: Any
    supernet: str | None
    init: str | None
    init_weights: str | None
    depths: tuple[int, ...] | None
    supernet_recipe: Recipe | str | Path | None
    supernet_settings: Mapping[str, Any] | None
    image_size: tuple[int, int] | None
    searcher: Any  # `None` goes by what scores
    objectives: tuple[str | Objective, ...]
    trials: int | None
    seconds: float | None
    finalists: int
    recipe: Recipe | str | Path | None
    settings: Mapping[str, Any] | None
    inherit: bool | None  # `None` inherits from an original
    control: int | None
    latency: tuple[Path, ...]
    share_prefixes: bool
    race: bool
    storage: str | None
    study: str | None
    workers: str | None
    seed: int
    device: str | torch.device | None

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits that are written as text."""
        return tuple(limit for limit in self.budget if isinstance(limit, str))

    @property
    def _without_images(self) -> ScoredBy:
        """What decides if there are no images: the rule, as long as nothing is asked for that only a search has."""
        parsed = Budget.parse(*self.limits) if not any("%" in limit for limit in self.limits) else Budget()
        asks_for_search = (
            self.searcher is not None
            or self.trials is not None
            or self.control is not None
            or self.storage is not None
            or self.workers is not None
            or len(self.objectives) > 1
            or bool(parsed.latencies)
            or len(self.limits) < len(self.budget)
        )
        return "dss" if asks_for_search else "rule"

    @property
    def inherits(self) -> bool:
        """Whether trainings of the selection begin with inherited weights."""
        return bool(self.init) if self.inherit is None else self.inherit

    def check(self) -> None:
        """Refuse what cannot be together, and an objective in the budget that has no end."""
        self._check_init()
        for one in self.budget:
            if isinstance(one, Objective) and not one.is_limited:
                raise InputError(f"budget: objective {one.name!r} has no end; give it lower=... or upper=...")

    def _check_init(self) -> None:
        """Refuse what does not go together with a network to begin with, or without one."""
        if self.init is None:
            for name, value in (("--init-weights", self.init_weights), ("--depths", self.depths)):
                if value is not None:
                    raise InputError(f"{name}: goes with --init, which names the network to begin with")
            return
        if self.data is None:
            raise InputError(f"--init {self.init}: needs images; give --data")
        for name, given in (("--space", self.space), ("--supernet", self.supernet)):
            if given is not None:
                raise InputError(
                    f"{name}: does not go with --init, whose search space and supernet are made from the network"
                )
        if self.evaluator in ("dss", "rule"):
            raise InputError(f"--evaluator {self.evaluator}: looks at no weights; leave it out with --init")

    def bounds(self) -> tuple[ObjectiveBound, ...]:
        """The limits on a user's own numbers, each once."""
        named: dict[str, Objective] = {}
        for one in (*self.budget, *self.objectives):
            if isinstance(one, Objective):
                one.check()
                if named.setdefault(one.name, one) is not one:
                    raise InputError(f"objective {one.name!r}: two are called so; give each a name of its own")
        return tuple(ObjectiveBound(one) for one in named.values() if one.is_limited)

    def scored_by(self) -> ScoredBy:
        """What scores candidates.

        Raises:
            InputError: no evaluator has that name, or it needs what there is not; or it is said how something
                is trained that is not.
        """
        has_images = bool(self.data or self.supernet)
        found: ScoredBy = (
            "inherited" if self.supernet or self.init else "trained" if self.data else self._without_images
        )
        if isinstance(self.evaluator, str):
            if self.evaluator not in NAMED:
                raise InputError(
                    f"evaluator {self.evaluator!r}: unknown; permitted are {', '.join(NAMED)}, and in Python one of "
                    "your own"
                )
            found = next(name for name in NAMED if name == self.evaluator)
            if found in ("trained", "inherited") and not has_images:
                raise InputError(f"--evaluator {found}: needs images; give --data")
            for name in ("searcher", "trials", "control"):
                if found == "rule" and getattr(self, name) is not None:
                    raise InputError(f"--{name}: there is no search with --evaluator rule; leave one of them out")
        elif self.evaluator is not None:
            found = "own"
        if (self.supernet_recipe or self.supernet_settings) and (self.supernet or found != "inherited"):
            raise InputError(
                "--supernet-recipe and --supernet-set: say how a supernet is trained first, and none is trained here; "
                "leave them out, or give --evaluator inherited and --data without --supernet; --recipe and --set say "
                "how networks are trained"
            )
        if (self.recipe or self.settings) and not has_images:
            raise InputError(
                "--recipe and --set: say how networks are trained, and without images none is; give --data, or give "
                "them to psvit-retrain"
            )
        return found

    def final_recipe(self, space: SearchSpace, data: ImageData, device: torch.device) -> Recipe:
        """How the network that is delivered will be retrained, unless another recipe is named then.

        Args:
            space: the space.
            data: the images.
            device: where to train.

        Raises:
            InputError: there is no such recipe, or it has no such values.
        """
        return choose_recipe(
            self.recipe,
            self.settings,
            data,
            space.image_size,
            supernet=False,
            device=device,
            begin=("original" if self.init else "inherited") if self.inherits else "random",
        )

    def unusual(self, recipe: Recipe, space: SearchSpace, data: ImageData, device: torch.device) -> dict[str, Any]:
        """The values of `final_recipe` that the default recipe has otherwise, by key; `recipe` is the one asked for."""
        asked, usual = (
            one.final_recipe(space, data, device) for one in (self, replace(self, recipe=None, settings=None))
        )
        changed = [name for name in Recipe.model_fields if getattr(asked, name) != getattr(usual, name)]
        # Other epochs alone would change the warm-up.
        found = {name: getattr(asked, name) for name in [*changed, "warmup_epochs"]}
        # What `auto` came to here need not hold where the command is called.
        return {**found, "precision": (self.settings or {}).get("precision", recipe.precision)}
