"""The record of a fidelity, as values, and how a search finds that of its supernet.

It lies beside the supernet in `fidelity.yaml`, one measurement for each budget and way of training. Each names the
digest of the supernet's weights; one of other weights counts as not measured.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from psvit.io.documents import Place, Value, dump_yaml, read_yaml, remove_unfinished_file, write_atomic
from psvit.io.locks import one_at_a_time
from psvit.space.budget import Budget
from psvit.supernet.provenance import supernet_digest, supernet_file

SCHEMA = "psvit/fidelity/1"
FILE_NAME = "fidelity.yaml"

INHERITED = "inherited"
"""The name of the score that a supernet gives."""

TOO_FEW = "too few"
"""What stands in the place of an interval where too few networks were resampled."""

MOSTLY = 0.5
"""Share of the limits of a search that a measurement has to cover; a search of 1.8 to 2 GFLOPs, which is what `2GFLOPs`
means, is covered by half by 5 % around them."""


class Estimate(Value):
    """A number with its bootstrap interval.

    Attributes:
        value: `None` if it is not defined, such as a correlation with a constant.
        interval: of 95 %, from resampling networks; `None` if there are too few networks.
    """

    value: float | None
    interval: tuple[float, float] | None = None


class Agreement(Value):
    """How well a score ranks networks, by their standalone accuracy.

    Attributes:
        score: its name.
        networks: how many it was compared on.
        kendall_tau: Kendall's tau-b.
        spearman_rho: Spearman's rho.
        regret: by how many points the best standalone accuracy exceeds the best among the five with the best scores;
            `None` if there are fewer than three times as many.
        above_macs: how much its tau exceeds that of multiply-accumulates, both on the same resamples.
    """

    score: str
    networks: int
    kendall_tau: Estimate
    spearman_rho: Estimate
    regret: float | None
    above_macs: Estimate | None = None


class SetFidelity(Value):
    """The measurement on one set of networks.

    Attributes:
        limits: the ends of what the networks cost, by cost.
        agreements: one for each score, the inherited first.
        ceiling: the agreement of a second training of the same networks with the first, seed for seed: what noise
            leaves for another training to reach. `None` if no network was trained twice.
        below_ceiling: the agreement of inherited accuracy on those networks alone, which can be compared with it.
        seed_std: standard deviation of a training's accuracy over seeds, in points.
        gap: the mean of inherited minus standalone accuracy, in points.
        gap_std: its standard deviation over networks.
        regret_of_random: what `Agreement.regret` is of five networks drawn at random, in expectation.
    """

    limits: Annotated[dict[str, tuple[int | None, int]], Field(min_length=1)]
    agreements: tuple[Agreement, ...]
    ceiling: Agreement | None = None
    below_ceiling: Agreement | None = None
    seed_std: float | None = None
    gap: Estimate
    gap_std: float | None = None
    regret_of_random: float | None = None

    @model_validator(mode="after")
    def _has_inherited(self) -> Self:
        if INHERITED not in {one.score for one in self.agreements}:
            raise ValueError(f"agreements must have one of the score {INHERITED}")
        return self

    def agreement(self, score: str) -> Agreement:
        """That of one score."""
        return next(one for one in self.agreements if one.score == score)

    @property
    def best_free(self) -> Agreement | None:
        """That of the score with the greatest tau among those that need no supernet; of equals the first."""
        known = [one for one in self.agreements if one.score != INHERITED and one.kendall_tau.value is not None]
        return max(known, key=lambda one: one.kendall_tau.value or 0.0, default=None)

    @property
    def share_of_ceiling(self) -> float | None:
        """The tau of inherited accuracy relative to the ceiling, both on the networks that were trained twice."""
        if self.ceiling is None or self.below_ceiling is None or self.ceiling.networks != self.below_ceiling.networks:
            return None
        tau, most = self.below_ceiling.kendall_tau.value, self.ceiling.kendall_tau.value
        return tau / most if tau is not None and most is not None and most > 0 else None


class Fidelity(Value):
    """The fidelity of one supernet.

    Attributes:
        supernet_digest: of the file with its weights.
        space: its name.
        space_digest: its digest.
        data: the images.
        search_images: how many images accuracies rest on, inherited and standalone.
        budget: the limits as given.
        seed: of the networks that were drawn and of their first trainings.
        images: how many images networks were trained on.
        recipe: how.
        within: around the budget, which is what a search needs.
        spread: over the whole reach of MACs; most of what is measured there is that larger networks are better.
        versions: of what computed, by name.
    """

    supernet_digest: str
    space: str
    space_digest: str
    data: str
    search_images: int
    budget: tuple[str, ...]
    seed: int
    images: int
    recipe: dict[str, Any]
    within: SetFidelity
    spread: SetFidelity | None = None
    versions: dict[str, str]

    @property
    def subject(self) -> dict[str, Any]:
        """What was measured, without what came out; networks may have been added since."""
        names = ("supernet_digest", "data", "budget", "seed", "images", "recipe")
        return {name: getattr(self, name) for name in names}

    @property
    def evidence(self) -> tuple[int, int, int]:
        """On how many networks it rests: around the budget, of them trained twice, and over the range."""
        counted = (self.within.agreement(INHERITED), self.within.ceiling)
        spread = self.spread.agreement(INHERITED) if self.spread else None
        within, twice, far = (one.networks if one else 0 for one in (*counted, spread))
        return within, twice, far

    def covered(self, limits: Budget) -> float:
        """Which share of what networks within some limits may cost is what those around the budget may.

        Of several costs that of which the least is covered counts; one that is not limited counts as not covered.
        """
        shares = []
        for metric, (least, most) in self.within.limits.items():
            limit = limits.limit(metric)
            if limit is None:
                return 0.0
            lower = limit.lower or 0
            common = min(limit.upper, most) - max(lower, least or 0) + 1
            shares.append(max(common, 0) / (limit.upper - lower + 1))
        return min(shares)

    def summary(self, limits: Budget) -> dict[str, Any]:
        """What stands beside scores of this supernet, JSON-serialisable.

        Args:
            limits: within which is searched.
        """
        inherited = self.within.agreement(INHERITED)
        ceiling, best = self.within.ceiling, self.within.best_free
        share_of_ceiling = self.within.share_of_ceiling
        facts = {
            "kendall_tau": inherited.kendall_tau.value,
            "kendall_tau_interval": _listed(inherited.kendall_tau),
            "ceiling": ceiling.kendall_tau.value if ceiling else None,
            "ceiling_networks": ceiling.networks if ceiling else None,
            "share_of_ceiling": None if share_of_ceiling is None else round(share_of_ceiling, 4),
            "spearman_rho": inherited.spearman_rho.value,
            "spearman_rho_interval": _listed(inherited.spearman_rho),
            "networks": inherited.networks,
            "regret_of_best_5": inherited.regret,
            "inherited_minus_standalone": self.within.gap.value,
            "best_without_supernet": {"score": best.score, "kendall_tau": best.kendall_tau.value} if best else None,
            "within": {metric: list(ends) for metric, ends in self.within.limits.items()},
            "share_of_searched_range": round(self.covered(limits), 3),
            "epochs": self.recipe.get("epochs"),
        }
        share = self.covered(limits)
        if share < MOSTLY:
            part = f"{100 * share:.2g} % of what was searched" if share else "other limits than were searched"
            facts["note"] = f"measured within {part}"
        return {name: value for name, value in facts.items() if value is not None}


def _listed(estimate: Estimate) -> list[float] | str | None:
    if estimate.value is None:
        return None
    return list(estimate.interval) if estimate.interval else TOO_FEW


class _File(Value):
    measurements: tuple[Fidelity, ...]


def write_fidelities(path: Path, fidelities: tuple[Fidelity, ...]) -> None:
    """Write a file of measurements, whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    write_atomic(path, dump_yaml({"schema": SCHEMA, **_File(measurements=fidelities).to_dict()}))


def read_fidelities(path: Path) -> tuple[Fidelity, ...]:
    """The measurements in a file; `None` if there is no file.

    Raises:
        InputError: the file is damaged or breaks a rule.
    """
    if not path.exists():
        return ()
    return _File.from_dict(read_yaml(path, SCHEMA), source=str(path)).measurements


def file_beside(supernet: Place) -> Path:
    """Where the fidelity of a supernet lies.

    Raises:
        InputError: there is no supernet.
    """
    return supernet_file(supernet).with_name(FILE_NAME)


def leave_beside(supernet: Place, fidelity: Fidelity) -> Path:
    """Write a measurement beside its supernet, in place of an earlier one of the same; those of others stay.

    One of the same on more networks stays too, and then this one is not written. Measurements of weights that lay there
    before are dropped.

    Raises:
        InputError: there is no supernet, or the place cannot be written.
    """
    path = file_beside(supernet)
    with one_at_a_time(path):  # others may measure the same supernet, and must not lose theirs
        remove_unfinished_file(path)
        known = [one for one in read_fidelities(path) if one.supernet_digest == fidelity.supernet_digest]
        others = [one for one in known if one.subject != fidelity.subject]
        same = [one for one in known if one.subject == fidelity.subject]
        # Of equals the last, which was measured anew.
        write_fidelities(path, (*others, max([fidelity, *same], key=lambda one: one.evidence)))
    return path


def known_fidelity(supernet: Place, limits: Budget, digest: str | None = None) -> dict[str, Any] | None:
    """The known fidelity of a supernet, for the networks that it scores; `None` if it was not measured.

    Of several measurements one is preferred that covers most of the limits that are searched, then one that covers some
    of them, then one on more networks, then the last.

    Args:
        supernet: its run folder or file.
        limits: those that are searched.
        digest: of its weights, where that is known.

    Raises:
        InputError: there is no supernet, or the file beside it is damaged.
    """
    measured = read_fidelities(file_beside(supernet))
    digest = digest or (supernet_digest(supernet) if measured else None)
    known = [one for one in measured if one.supernet_digest == digest]
    if not known:
        return None
    shares = [one.covered(limits) for one in known]
    ranked = [
        (share >= MOSTLY, share > 0, one.within.agreement(INHERITED).networks, place)
        for place, (one, share) in enumerate(zip(known, shares, strict=True))
    ]
    return known[max(ranked)[-1]].summary(limits)


def in_words(known: dict[str, Any] | str, supernet: str) -> str:
    """The fidelity of a search's scores, in one line of words.

    Args:
        known: as it stands beside the scores: the summary of a measurement, or that there is none.
        supernet: its run folder or file, as a command takes it.
    """
    if not isinstance(known, dict):
        return (
            "how truly inherited accuracy ranks was not measured, which is what "
            f"psvit-fidelity --supernet {shlex.quote(supernet)} --budget ... does"
        )
    tau = known.get("kendall_tau")
    told = "no tau that is defined" if tau is None else f"a tau of {tau:.2f}"
    note = f", {known['note']}" if "note" in known else ""
    if known.get("kendall_tau_interval") == TOO_FEW:
        told += ", and so few say little"
    return f"inherited accuracy ranked {known['networks']} networks that were trained alone with {told}{note}"
