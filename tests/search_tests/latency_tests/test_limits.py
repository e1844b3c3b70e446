"""Limits on latency in a search: what may be proposed, that no draw hangs, and which trial is measured and wins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psvit.arch.costs import cost
from psvit.errors import InputError, NoisyMachineError, UnmetBudgetError
from psvit.search import candidates as candidates_module
from psvit.search.bounds import ObjectiveBound, includes_all
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.latency import limits as limits_module
from psvit.search.latency.limits import PredictedLimit, check_hopeful, first_within
from psvit.search.latency.measure import fingerprint
from psvit.search.objectives import Objective
from psvit.search.pareto import front
from psvit.search.search import search
from psvit.search.searchers import SEARCHERS, make_searcher
from psvit.search.searchers.optuna_samplers import OptunaSampler
from psvit.search.storage import open_storage
from psvit.search.study import Study
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget, LatencyLimit
from psvit.space.search_space import SearchSpace


@pytest.fixture(scope="module")
def model(digits_space, made_up_model):
    return made_up_model(digits_space)


@pytest.fixture(scope="module")
def members(digits_space, model):
    """All members of the digits space with their costs and their latency by the made-up model, one by one."""
    archs = [digits_space[i] for i in range(digits_space.size)]
    return [(arch, cost(arch), model.predict(arch)) for arch in archs]


@pytest.fixture(scope="module")
def limited(members, model):
    """A limit on the latency of a made-up model that a share of the digits space keeps."""
    latencies = [latency for _, _, latency in members]

    def make(low, high):
        lower, upper = np.quantile(latencies, [low, high])
        # Off the members' own latencies, whose last digit depends on the order of the sum.
        return PredictedLimit(LatencyLimit(device="cpu", lower_ms=lower - 1e-9, upper_ms=upper + 1e-9), model)

    return make


def between(limit, latency):
    return (limit.limit.lower_ms or 0.0) <= latency <= limit.limit.upper_ms


def permits(limit, arch):
    return between(limit, limit.model.predict(arch))


def keeping(members, budget, *limits):
    """All members that keep all limits, found by looking at every one."""
    return {
        arch
        for arch, costs, latency in members
        if budget.satisfied_by(costs) and all(between(limit, latency) for limit in limits)
    }


@pytest.mark.parametrize("kind", ["latency", "own"])
@pytest.mark.parametrize("name", ["psvit-nano", "images-32x32-5MFLOPs"])
def test_what_is_drawn_of_every_kind_keeps_the_bounds(name, kind, made_up_model):
    """A kind is a space of its own, whose genes mean something else."""
    rng, budget = np.random.default_rng(0), Budget.parse("4.5..5MFLOPs")
    space = SearchSpace.for_images(32, 3, 10, budget) if name.startswith("images") else SearchSpace.load(name)
    model, some = made_up_model(space), list(space.sample(rng, 400, budget))

    def number(arch):
        return model.predict(arch) if kind == "latency" else float(sum(len(stage.groups) for stage in arch.stages))

    most = float(np.median([number(arch) for arch in some]))
    bound = (
        PredictedLimit(LatencyLimit(device="cpu", upper_ms=most), model)
        if kind == "latency"
        else ObjectiveBound(Objective("maps", number, upper=most))
    )
    candidates, seen = Candidates(space, budget, [bound]), Seen(History())
    drawn = candidates.draw_stratified(60, seen, rng)
    promising = candidates.draw_promising(20, seen, rng, (), lambda archs: np.arange(len(archs)))
    assert len({*drawn, *promising}) == len(drawn) + len(promising)
    assert len(drawn) == 60
    assert all(number(arch) <= most * (1 + 1e-9) for arch in (*drawn, *promising))
    kinds = {(arch.variant, arch.stem, len(arch.stages)) for arch in drawn}
    assert len(kinds) > 3
    assert {(arch.variant, arch.stem, len(arch.stages)) for arch in promising} <= kinds
    proposals = candidates.propose(drawn, "uniform")
    assert all(proposal.is_feasible for proposal in proposals)


@pytest.fixture(params=[name for name in SEARCHERS if name != "optuna-gp"])
def searcher(request):
    made = make_searcher(request.param)
    made.batch_size = 12
    if isinstance(made, OptunaSampler):
        made._attempts = 4  # most rows are beyond a narrow limit
    return made


def seen_of(archs):
    seen = Seen(History())
    for arch in archs:
        seen.add(arch)
    return seen


# --- what may be proposed


def test_ends_of_a_limit_belong_to_it(digits_space, made_up_model):
    model = made_up_model(digits_space)
    arch = digits_space[1234]
    latency = model.predict(arch)
    for lower, upper, kept in [
        (None, latency, True),
        (latency, latency, True),
        (latency, 2 * latency, True),
        (None, np.nextafter(latency, 0), False),
        (np.nextafter(latency, np.inf), 2 * latency, False),
    ]:
        limit = PredictedLimit(LatencyLimit(device="cpu", lower_ms=lower, upper_ms=float(upper)), model)
        assert permits(limit, arch) is kept
    rows = np.array([digits_space.encode(digits_space[i]) for i in range(0, digits_space.size, 50)])
    limit = PredictedLimit(LatencyLimit(device="cpu", upper_ms=latency), model)
    assert includes_all(limit, limit.values(digits_space.price(rows))).tolist() == [
        permits(limit, digits_space.decode(row)) for row in rows
    ]


@pytest.mark.parametrize("ends", [(0.0, 0.02), (0.4, 0.9)])
def test_proposals_keep_all_limits(searcher, digits_space, members, evaluated, limited, ends):
    limit, budget, archs = limited(*ends), Budget.parse("0.6..1.5MFLOPs"), []
    candidates = Candidates(digits_space, budget, [limit])
    for batch in range(2):
        history = evaluated(candidates, archs)
        proposals = searcher.propose(12, history, candidates, np.random.default_rng([0, batch]))
        assert all("cpu" in "".join(proposal.constraints) for proposal in proposals)
        proposed = [digits_space.decode(proposal.row) for proposal in proposals if proposal.is_feasible]
        assert all(permits(limit, arch) and budget.satisfied_by(cost(arch)) for arch in proposed)
        assert len(set(proposed)) == len(proposed)
        assert not set(archs) & set(proposed)
        archs += proposed
    # All are looked at only where there may be fewer.
    assert len(archs) == 24 or len(archs) == len(keeping(members, budget, limit))


def test_every_candidate_of_a_listed_set_is_drawn_once_and_then_nothing(digits_space, members, limited):
    limits, budget = [limited(0.1, 0.3), limited(0.25, 0.5)], Budget.parse("0..1.5MFLOPs")
    candidates, seen = Candidates(digits_space, budget, limits), seen_of([])
    left = keeping(members, budget, *limits)
    assert len(left) > 30
    first = candidates.draw_unseen(20, seen, np.random.default_rng(0))
    rest = candidates.draw_unseen(10**6, seen, np.random.default_rng(1))
    assert len(first) == 20
    assert len(rest) == len(left) - 20
    assert {*first, *rest} == left
    assert candidates.draw_unseen(1, seen, np.random.default_rng(2)) == []


def test_sets_too_large_to_list_are_drawn_from_uniformly(digits_space, members, limited, monkeypatch):
    monkeypatch.setattr(candidates_module, "LISTED", 0)
    limit, budget = limited(0.0, 0.05), Budget()
    kept = keeping(members, budget, limit)
    candidates = Candidates(digits_space, budget, [limit])
    drawn = [
        arch for seed in range(12) for arch in candidates.draw_unseen(50, seen_of([]), np.random.default_rng([7, seed]))
    ]
    assert len(drawn) == 12 * 50
    assert set(drawn) <= kept
    # Each of some 320 members about twice: no kind is left out by the limits on MACs that narrow the draw.
    assert len(set(drawn)) > 0.82 * len(kept)


def test_a_search_for_what_is_not_there_ends(digits_space, limited, monkeypatch):
    monkeypatch.setattr(candidates_module, "LISTED", 0)
    monkeypatch.setattr(candidates_module, "DRAWS", 5000)
    limit = limited(0.0, 1.0)
    looked = []
    monkeypatch.setattr(
        PredictedLimit,
        "values",
        lambda self, batch: looked.append(len(batch)) or np.full(len(batch), np.inf),
    )
    candidates = Candidates(digits_space, Budget(), [limit])
    assert candidates.draw_unseen(3, seen_of([]), np.random.default_rng(0)) == []
    assert 5000 <= sum(looked) < 10000


def test_equal_seeds_and_models_give_equal_searches(digits_space, searcher, score, limited, tmp_path):
    candidates = Candidates(digits_space, Budget(), [limited(0.1, 0.3)])
    histories = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        study = Study(digits_space, open_storage(tmp_path / name))
        for _ in search(candidates, searcher, score(), study, trials=20, seed=seed):
            pass
        assert len(study.history) == 20
        histories.append([trial.arch for trial in study.history])
    assert histories[0] == histories[1]
    assert (histories[0] == histories[2]) is (searcher.name == "enumerate")


def test_a_limit_that_nothing_keeps_is_refused_with_the_reach(digits_space, made_up_model):
    model = made_up_model(digits_space)
    least, greatest = model.reach(digits_space)
    for limit in (
        LatencyLimit(device="cpu", upper_ms=0.99 * least),
        LatencyLimit(device="cpu", lower_ms=1.01 * greatest, upper_ms=2 * greatest),
    ):
        with pytest.raises(InputError, match=f"the space reaches {least:.4g} to {greatest:.4g} ms@cpu"):
            Candidates(digits_space, Budget(), [PredictedLimit(limit, model)])
    Candidates(digits_space, Budget(), [PredictedLimit(LatencyLimit(device="cpu", upper_ms=1.01 * least), model)])


def test_limits_that_cannot_be_kept_together_are_refused(digits_space, made_up_model, tiny_space):
    model = made_up_model(digits_space)
    fast = LatencyLimit(device="cpu", upper_ms=1.001 * model.reach(digits_space)[0])
    with pytest.raises(
        InputError, match=r"no architecture of psvit-2d-digits is predicted to keep .* the space reaches"
    ):
        Candidates(digits_space, Budget.parse("3.2..3.3MFLOPs"), [PredictedLimit(fast, model)])


# --- before a model is built


@pytest.mark.parametrize(("share", "refused"), [(0.49, True), (0.51, False)])
def test_a_hopeless_limit_is_refused_before_a_model_is_built(digits_space, clock, share, refused):
    measure = clock()
    smallest = measure(limits_module.fresh(digits_space.smallest), (1, 8, 8), limits_module.Setting())
    limit = LatencyLimit(device="cpu", upper_ms=share * smallest.median_ms)
    if refused:
        with pytest.raises(InputError, match=f"smallest takes {smallest.median_ms:.4g} ms here"):
            check_hopeful(limit, digits_space, clock())
    else:
        check_hopeful(limit, digits_space, clock())


# --- finalists


@pytest.fixture
def history(digits_space):
    """Twenty trials; the higher the number, the higher the score."""
    archs = digits_space.sample(np.random.default_rng(0), 20)
    return [trial_of(i, arch) for i, arch in enumerate(archs)]


def trial_of(number, arch):
    score = float(number)
    return Trial(number=number, arch=arch, cost=cost(arch), score=Score(value=score), objectives=(score,))


def best_first(history):
    return sorted(history, key=lambda trial: -trial.score.value)


def first(n):
    """The choice of the first so many."""
    return lambda left: left[:n]


def winner_of(kept):
    """The one trial that is kept, with its latencies."""
    ((trial, latencies),) = kept.trials
    return trial, latencies


def timed(clock, digits_space, history, times, setting=None):
    """A clock that says these milliseconds of the trials' networks, and counts."""
    by_size = {trial.arch: times.get(trial.number, 1.0) for trial in history}

    class Clock(clock):
        def __call__(self, network, input_shape, setting, seconds=0.0):
            latency = super().__call__(network, input_shape, setting)
            assert input_shape == (1, 8, 8)
            return type(latency)(**{**dict(latency), "median_ms": by_size[network.arch]})

    return Clock()


def test_the_best_that_is_measured_within_the_limit_wins(digits_space, made_up_model, clock, history, cache):
    model = made_up_model(digits_space)
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu:threads=1"), model)
    # Measured just over the limit, far over it, and exactly at it.
    measure = timed(clock, digits_space, history, {19: 5.0001, 18: 50.0, 17: 5.0})
    kept = first_within(best_first(history), first(1), [limit], cache, measure)
    trial, latencies = winner_of(kept)
    assert trial.number == 17
    assert kept.passed_over == 2
    assert [network.arch for network in measure.measured] == [history[i].arch for i in (19, 18, 17)]
    latency = latencies["cpu:threads=1"]
    assert latency["measured_ms"] == 5.0
    assert latency["predicted_ms"] == model.predict(history[17].arch)
    assert latency["setting"]["threads"] == 1
    assert latency["fingerprint"]["threads"] == 1
    assert set(latency) == {"predicted_ms", "measured_ms", "iqr_ms", "repeats", "setting", "fingerprint"}
    # Asked again, it answers the same from what is known.
    again = timed(clock, digits_space, history, {})
    assert first_within(best_first(history), first(1), [limit], cache, again) == kept
    assert again.measured == []


def test_what_was_measured_is_of_an_architecture_on_a_machine(
    digits_space, made_up_model, clock, history, cache, monkeypatch
):
    """Not of a trial's number: in another study that is another architecture's, and other machines take other times."""
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu"), made_up_model(digits_space))
    ranked = best_first(history)
    first_within(ranked, first(2), [limit], cache, timed(clock, digits_space, history, {19: 6.0}))
    renumbered = [replace(trial, number=99 - trial.number) for trial in ranked]
    measure = timed(clock, digits_space, history, {})
    kept = first_within(renumbered, first(2), [limit], cache, measure)
    assert [trial.arch for trial, _ in kept.trials] == [ranked[1].arch, ranked[2].arch]
    assert measure.measured == []
    monkeypatch.setattr(
        limits_module, "fingerprint", lambda setting: fingerprint(setting).model_copy(update={"processor": "another"})
    )
    kept = first_within(ranked, first(2), [limit], cache, measure)
    assert [trial.arch for trial, _ in kept.trials] == [ranked[0].arch, ranked[1].arch]
    assert len(measure.measured) == 2


def test_without_measuring_what_is_known_counts_and_the_rest_as_predicted(
    digits_space, made_up_model, clock, history, cache
):
    model = made_up_model(digits_space)
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu"), model)
    ranked = best_first(history)
    first_within(ranked, first(1), [limit], cache, timed(clock, digits_space, history, {19: 6.0}))
    kept = first_within(ranked, first(2), [limit], cache, None)
    assert [trial.number for trial, _ in kept.trials] == [18, 17]
    assert kept.passed_over == 1
    assert kept.trials[0][1]["cpu"]["measured_ms"] == 1.0
    assert kept.trials[1][1] == {"cpu": {"predicted_ms": model.predict(history[17].arch)}}


def test_as_many_are_kept_as_are_wanted(digits_space, made_up_model, clock, history, cache):
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu"), made_up_model(digits_space))
    measure = timed(clock, digits_space, history, {18: 6.0, 16: 6.0, 14: 6.0})
    kept = first_within(best_first(history), first(3), [limit], cache, measure)
    assert [trial.number for trial, _ in kept.trials] == [19, 17, 15]
    assert kept.passed_over == 2
    assert len(measure.measured) == 5
    # Asked for fewer or for more, it measures only what it does not know yet.
    assert first_within(best_first(history), first(2), [limit], cache, clock()).trials == kept.trials[:2]
    more = timed(clock, digits_space, history, {14: 6.0})
    kept = first_within(best_first(history), first(4), [limit], cache, more)
    assert [trial.number for trial, _ in kept.trials] == [19, 17, 15, 13]
    assert len(more.measured) == 2
    # Where there are no more, those that there are.
    kept = first_within(best_first(history), first(99), [limit], cache, timed(clock, digits_space, history, {14: 6.0}))
    assert len(kept.trials) == 17


def test_a_lower_end_holds_for_what_is_measured_too(digits_space, made_up_model, clock, history, cache):
    limit = PredictedLimit(LatencyLimit.parse("4..5ms@cpu"), made_up_model(digits_space))
    measure = timed(clock, digits_space, history, {19: 3.99, 18: 4.0})
    assert winner_of(first_within(best_first(history), first(1), [limit], cache, measure))[0].number == 18


def test_all_of_several_limits_have_to_be_kept(digits_space, made_up_model, clock, history, cache):
    model = made_up_model(digits_space)
    limits = [PredictedLimit(LatencyLimit.parse(text), model) for text in ("5ms@cpu", "2ms@cpu:threads=1")]

    class Clock(clock):
        def __call__(self, network, input_shape, setting, seconds=0.0):
            latency = super().__call__(network, input_shape, setting)
            slow = setting.threads == 1 and network.arch == history[19].arch
            return type(latency)(**{**dict(latency), "median_ms": 3.0 if slow else 1.0})

    trial, latencies = winner_of(first_within(best_first(history), first(1), limits, cache, Clock()))
    assert trial.number == 18
    assert set(latencies) == {"cpu", "cpu:threads=1"}


def test_where_none_is_within_the_limit_there_is_no_winner(digits_space, made_up_model, clock, history, cache):
    limit = PredictedLimit(LatencyLimit.parse("0.5ms@cpu"), made_up_model(digits_space))
    measure = timed(clock, digits_space, history, {0: 0.1})
    with pytest.raises(
        UnmetBudgetError, match=r"8 were measured and none keeps at most 0.5 ms@cpu; they take 1 to 1 ms"
    ):
        first_within(best_first(history), first(1), [limit], cache, measure)
    # By then it is known that predictions are far off, and no other trial is predicted within the limit.
    assert len(measure.measured) == limits_module.UNCORRECTED < len(history)


def test_no_more_than_so_many_are_measured(digits_space, made_up_model, clock, history, cache, monkeypatch):
    limit = PredictedLimit(LatencyLimit(device="cpu", upper_ms=100.0), made_up_model(digits_space))
    # However predictions are corrected, all seem to be within the limit, and none is.
    monkeypatch.setattr(limits_module, "median", lambda ratios: 1.0)
    measure = timed(clock, digits_space, history, {trial.number: 101.0 for trial in history})
    with pytest.raises(UnmetBudgetError, match="16 were measured and none keeps"):
        first_within(best_first(history), first(1), [limit], cache, measure)
    assert len(measure.measured) == limits_module.FINALISTS < len(history)


def test_predictions_that_were_all_too_low_are_corrected(digits_space, made_up_model, clock, history, cache):
    model = made_up_model(digits_space)
    predicted = sorted(model.predict(trial.arch) for trial in history)
    # Everything takes a third longer than predicted, and only the few fastest still keep the limit.
    limit = PredictedLimit(LatencyLimit(device="cpu", upper_ms=1.34 * predicted[2]), model)
    slowest_first = sorted(history, key=lambda trial: model.predict(trial.arch))
    ranked = [trial_of(i, trial.arch) for i, trial in enumerate(slowest_first)]
    measure = timed(clock, digits_space, ranked, {t.number: 4 / 3 * model.predict(t.arch) for t in ranked})
    kept = first_within(best_first(ranked), first(1), [limit], cache, measure)
    assert winner_of(kept)[0] == ranked[2]
    assert kept.passed_over == limits_module.UNCORRECTED
    assert len(measure.measured) == limits_module.UNCORRECTED + 1


def test_what_only_those_beyond_the_limit_dominated_comes_to_the_front(
    digits_space, made_up_model, clock, history, cache
):
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu"), made_up_model(digits_space))
    # Accuracy and (negative) cost: 19 dominates 18, which dominates 17; 3 is dominated by none.
    points = {19: (9.0, -1.0), 18: (8.0, -1.0), 17: (7.0, -2.0), 3: (2.0, -0.5)}
    trials = [replace(history[number], objectives=point) for number, point in points.items()]

    def choose(left):
        return [left[i] for i in front(np.array([trial.objectives for trial in left]))]

    measure = timed(clock, digits_space, history, {19: 6.0})
    kept = first_within(trials, choose, [limit], cache, measure)
    assert [trial.number for trial, _ in kept.trials] == [18, 3]
    assert kept.passed_over == 1
    assert len(measure.measured) == 3
    # Where all of the first front is beyond it, there is another behind.
    faster = PredictedLimit(LatencyLimit.parse("0.5ms@cpu"), limit.model)
    measure = timed(clock, digits_space, history, {17: 0.4})
    kept = first_within(trials, choose, [faster], cache, measure)
    assert [trial.number for trial, _ in kept.trials] == [17]
    assert kept.passed_over == 3


def test_noise_loses_no_finalist(digits_space, made_up_model, clock, history, cache):
    limit = PredictedLimit(LatencyLimit.parse("5ms@cpu"), made_up_model(digits_space))
    measure = timed(clock, digits_space, history, {19: 9.0})

    def noisy(network, input_shape, setting, seconds=0.0):
        if measure.measured:
            raise NoisyMachineError("too noisy")
        return measure(network, input_shape, setting)

    with pytest.raises(NoisyMachineError):
        first_within(best_first(history), first(1), [limit], cache, noisy)
    rest = timed(clock, digits_space, history, {19: 9.0})
    assert winner_of(first_within(best_first(history), first(1), [limit], cache, rest))[0].number == 18
    assert len(rest.measured) == 1
