"""How a fidelity is worded, on the console and in the report."""

from __future__ import annotations

from psvit.data import Baseline
from psvit.report.formatting import DASH, joined
from psvit.search.fidelity.measures import SECOND, TOP
from psvit.search.fidelity.record import INHERITED, TOO_FEW, Agreement, Estimate, SetFidelity

NAMES = {
    INHERITED: "inherited accuracy",
    "macs": "MACs",
    "num_params": "parameters",
    SECOND: "a second training",
}

HEADER = ("ranked by", "tau", "95 %", "rho", "95 %", "regret")

CEILING = (
    "The ceiling is the tau between two trainings of the same networks that differ in their seed: what one training "
    "tells of another. A score without noise of its own may come somewhat above it."
)


def name_of(score: str) -> str:
    """A score's name; indicators are called what they are."""
    return NAMES.get(score, f"indicator {score}")


def value_and_interval(estimate: Estimate | None, digits: int = 2) -> tuple[str, str]:
    """An estimate in two cells: the value, and the interval or why there is none."""
    if estimate is None or estimate.value is None:
        return DASH, DASH
    interval = estimate.interval
    ends = f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else TOO_FEW
    return f"{estimate.value:.{digits}f}", ends


def row(agreement: Agreement) -> tuple[str, ...]:
    """An agreement as a row below `HEADER`."""
    regret = DASH if agreement.regret is None else f"{agreement.regret:.2f}"
    rho = value_and_interval(agreement.spearman_rho)
    return (name_of(agreement.score), *value_and_interval(agreement.kendall_tau), *rho, regret)


def rows(measured: SetFidelity) -> list[tuple[str, ...]]:
    """Every score and, if it was measured, the ceiling."""
    return [row(one) for one in (*measured.agreements, *([measured.ceiling] if measured.ceiling else []))]


def conclusions(within: SetFidelity, baseline: Baseline | None = None) -> list[str]:
    """What the networks around the budget say, in sentences, and what logistic regression reaches."""
    beside = f"For comparison, {baseline.in_words('the same images')}." if baseline else ""
    sentences = (_ranking(within), _without_supernet(within), _regret(within), _gap(within), beside)
    return [sentence for sentence in sentences if sentence]


def _ranking(within: SetFidelity) -> str:
    inherited = within.agreement(INHERITED)
    tau = inherited.kendall_tau
    if tau.value is None:
        return "Within the budget, inherited accuracy ranks nothing: all that were compared have one accuracy."
    text = f"Within the budget, inherited accuracy ranks {inherited.networks} networks with a tau of {_told(tau)}"
    if within.ceiling is not None and within.ceiling.kendall_tau.value is not None:
        text += f"; the ceiling is {_told(within.ceiling.kendall_tau)} on {within.ceiling.networks}"
        share = within.share_of_ceiling
        if share is not None and share > 0 and within.below_ceiling is not None:
            text += f", on which it ranks with {_told(within.below_ceiling.kendall_tau)}, {share:.2f} of the ceiling"
    if not _is_above_nothing(tau):
        text += "; that cannot be told from no agreement at all"
    return f"{text}."


def _without_supernet(within: SetFidelity) -> str:
    """Whether there is anything that ranks better than costs, without a supernet."""
    best = within.best_free
    if best is None:
        return ""
    text = (
        f"Of what needs no supernet, ranking by {name_of(best.score)} is best, with a tau of {_told(best.kendall_tau)}."
    )
    indicators = [one for one in within.agreements if one.score not in NAMES]
    better = [one for one in indicators if one.above_macs is not None and _is_above_nothing(one.above_macs)]
    if better:
        verb = "beats" if len(better) == 1 else "beat"
        return f"{text} {_sentence(joined([name_of(one.score) for one in better]))} {verb} multiply-accumulates alone."
    if indicators:
        text += " No training-free indicator was found to beat as many multiply-accumulates as the budget allows."
    return text


def _regret(within: SetFidelity) -> str:
    inherited = within.agreement(INHERITED)
    if inherited.regret is None or within.regret_of_random is None:
        return ""
    return (
        f"The best of the {TOP} networks with the highest inherited accuracy is {inherited.regret:.2f} points below "
        f"the best of all; the best of {TOP} drawn at random would be {within.regret_of_random:.2f} below it."
    )


def _gap(within: SetFidelity) -> str:
    if within.gap.value is None:
        return ""
    side = "above" if within.gap.value > 0 else "below"
    text = f"Inherited accuracy is {abs(within.gap.value):.2f} points {side} standalone accuracy on average"
    if within.gap_std is not None:
        text += f" (standard deviation over networks {within.gap_std:.2f}"
        text += f", of one training over seeds {within.seed_std:.2f})" if within.seed_std is not None else ")"
    return f"{text}."


def _told(estimate: Estimate) -> str:
    value, interval = value_and_interval(estimate)
    interval = f"{TOO_FEW} networks" if interval == TOO_FEW else interval
    return value if interval == DASH else f"{value} ({interval})"


def _is_above_nothing(estimate: Estimate) -> bool:
    return estimate.interval is not None and estimate.interval[0] > 0


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
