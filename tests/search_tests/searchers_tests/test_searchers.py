"""The contract that every searcher keeps, and what the searchers add to it."""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from ray import cloudpickle
from scipy.stats import chisquare

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.search.candidates import OUTSIDE, Candidates
from psvit.search.history import History, Rejected, Seen
from psvit.search.optuna_constraints import constraints_of
from psvit.search.proposal import CROSSOVER, MUTATION, STRATIFIED
from psvit.search.search import search
from psvit.search.searchers import SEARCHERS, enumerate, make_searcher, optuna_samplers
from psvit.search.searchers.enumerate import check_enumerable
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.optuna_samplers import ATTEMPTS, OptunaSampler, member
from psvit.search.searchers.random import Random
from psvit.search.storage import open_storage
from psvit.search.study import Study
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BUDGETS = ["1MFLOPs", "0.9..1.2MFLOPs", "0.26MFLOPs"]
"""Loose, a band, and one that leaves six members of the digits space."""

FEW = {"optuna-gp": 2, "optuna-tpe": 6, "optuna-nsga2": 6}
"""Searchers that take 10 ms to a second for a row, and how many are asked of them at once."""

KNOWN = {"optuna-gp": 12}
"""How much is known to a searcher that takes the longer for it; more than the ten rows that a sampler begins with."""

QUICK = [name for name in SEARCHERS if name != "optuna-gp"]


def few(searcher, n):
    """So many, or as many as this searcher can be asked for in a test."""
    return min(n, FEW.get(searcher.name, n))


def within(space, budget):
    """All members within a budget, found by looking at every one."""
    return {arch for arch in map(space.__getitem__, range(space.size)) if budget.satisfied_by(cost(arch))}


def archs_of(space, proposals):
    """The architectures that are to be evaluated."""
    return [space.decode(proposal.row) for proposal in proposals if proposal.is_feasible]


@pytest.fixture(params=SEARCHERS)
def searcher(request):
    made = make_searcher(request.param)
    if isinstance(made, OptunaSampler):
        # Where nearly nothing is left, all of the usual 50 would be spent on every one.
        made._attempts = 2 if request.param == "optuna-gp" else 4
    return made


# --- the contract


@pytest.mark.parametrize("text", BUDGETS)
def test_proposals_are_new_members_within_the_budget(searcher, digits_space, evaluated, text):
    budget, history = Budget.parse(text), History()
    candidates = Candidates(digits_space, budget)
    for batch in range(3):
        left = digits_space.count(budget) - len(history)
        n = few(searcher, searcher.batch_size)
        proposed = searcher.propose(n, history, candidates, np.random.default_rng([0, batch]))
        archs = archs_of(digits_space, proposed)
        assert len(archs) == min(n, left)
        assert all(digits_space.contains(arch) for arch in archs)
        assert all(budget.satisfied_by(cost(arch)) for arch in archs)
        assert len(set(archs)) == len(archs)
        assert not any(arch in history for arch in archs)
        history = evaluated(candidates, [*(trial.arch for trial in history), *archs])


@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_as_many_are_proposed_as_are_wanted(searcher, digits_space, evaluated, n):
    budget = Budget.parse("1MFLOPs")
    candidates = Candidates(digits_space, budget)
    history = evaluated(candidates, digits_space.sample(np.random.default_rng(0), 5, budget))
    wanted = few(searcher, n)
    proposed = searcher.propose(wanted, history, candidates, np.random.default_rng(1))
    assert len(archs_of(digits_space, proposed)) == wanted


def test_two_limits_hold_together(searcher, digits_space, evaluated):
    budget = Budget.parse("1MFLOPs", "90..100kparams")
    candidates, n = Candidates(digits_space, budget), few(searcher, 40)
    first = archs_of(digits_space, searcher.propose(n, History(), candidates, np.random.default_rng(0)))
    history = evaluated(candidates, first)
    second = archs_of(digits_space, searcher.propose(n, history, candidates, np.random.default_rng(1)))
    for arch in first + second:
        assert cost(arch).macs <= 1_000_000
        assert 90_000 <= cost(arch).num_params <= 100_000


def test_every_proposal_says_by_how_much_each_limit_is_exceeded(searcher, digits_space):
    budget = Budget.parse("0.9..1.2MFLOPs", "110kparams")
    candidates = Candidates(digits_space, budget)
    for proposal in searcher.propose(few(searcher, 16), History(), candidates, np.random.default_rng(0)):
        assert list(proposal.constraints) == [OUTSIDE, "macs", "num_params"]
        arch = member(digits_space, proposal.row)
        if arch is None:
            assert proposal.constraints == {OUTSIDE: 1.0, "macs": 0.0, "num_params": 0.0}
            continue
        costs = cost(arch)
        expected = {
            OUTSIDE: 0.0,
            "macs": max(costs.macs / 1.2e6 - 1, 1 - costs.macs / 0.9e6),
            "num_params": costs.num_params / 110e3 - 1,
        }
        assert proposal.constraints == pytest.approx(expected, abs=1e-4)
        assert proposal.is_feasible == budget.satisfied_by(costs)


def test_equal_arguments_give_equal_proposals(searcher, digits_space, evaluated):
    budget, n = Budget.parse("1MFLOPs"), few(searcher, 40)
    history = evaluated(
        Candidates(digits_space, budget),
        digits_space.sample(np.random.default_rng(0), KNOWN.get(searcher.name, 40), budget),
    )
    proposals = [
        make.propose(n, history, Candidates(digits_space, budget), np.random.default_rng(7))
        # The same object twice and another one: a searcher keeps nothing between calls.
        for make in (searcher, searcher, copy.deepcopy(searcher))
    ]
    assert proposals[0] == proposals[1] == proposals[2]
    if searcher.name != "enumerate":
        other = searcher.propose(n, history, Candidates(digits_space, budget), np.random.default_rng(8))
        assert other != proposals[0]


def test_proposing_changes_neither_history_nor_global_generators(searcher, digits_space, evaluated):
    budget = Budget.parse("1MFLOPs")
    history = evaluated(
        Candidates(digits_space, budget),
        digits_space.sample(np.random.default_rng(0), KNOWN.get(searcher.name, 40), budget),
    )
    before = list(history), list(history.complete), list(history.rejected), history.objectives.tolist()
    state = np.random.get_state()
    searcher.propose(few(searcher, 32), history, Candidates(digits_space, budget), np.random.default_rng(1))
    assert (list(history), history.complete, history.rejected, history.objectives.tolist()) == before
    assert all(np.array_equal(one, other) for one, other in zip(state, np.random.get_state(), strict=True))


def write_proposals(numbers, path):
    """What every searcher proposes to a history of members with made-up scores."""
    space, budget = SearchSpace.load("psvit-2d-digits"), Budget.parse("1MFLOPs")
    candidates = Candidates(space, budget)

    def trial(number, index):
        (proposal,) = candidates.propose([space[index]], "uniform")
        value = float(index % 101)
        return Trial(
            number=number, arch=space[index], cost=cost(space[index]), score=Score(value=value), objectives=(value,),
            row=proposal.row, constraints=proposal.constraints,
        )  # fmt: skip

    history = History([trial(number, index) for number, index in zip(itertools.count(), numbers)])
    proposed = {}
    for name in SEARCHERS:
        n = 1 if name == "optuna-gp" else 3 if name.startswith("optuna") else 40
        proposals = make_searcher(name).propose(n, history, candidates, np.random.default_rng(3))
        proposed[name] = [proposal.to_json() for proposal in proposals]
    path.write_text(json.dumps(proposed))


@pytest.mark.skipif("PYTHONHASHSEED" in os.environ, reason="all processes hash strings alike")
def test_other_processes_propose_the_same(digits_space, make_process, tmp_path):
    budget = Budget.parse("1MFLOPs")
    numbers = [digits_space.index(arch) for arch in digits_space.sample(np.random.default_rng(0), 12, budget)]
    # Strings hash differently in every process; proposals must not follow the order of a set.
    process = make_process(write_proposals, numbers, tmp_path / "there.json")
    process.start()
    write_proposals(numbers, tmp_path / "here.json")
    process.join()
    here, there = (json.loads((tmp_path / f"{place}.json").read_text()) for place in ("here", "there"))
    assert list(here) == list(SEARCHERS)
    assert all(here.values())
    assert here == there


def test_every_member_is_proposed_once_and_then_nothing(searcher, tiny_space, evaluated):
    budget = Budget.parse("10..16kFLOPs") if searcher.name == "optuna-gp" else Budget()
    candidates, members = Candidates(tiny_space, budget), within(tiny_space, budget)
    assert len(members) > 4
    archs = []
    while proposed := archs_of(
        tiny_space,
        searcher.propose(5, evaluated(candidates, archs), candidates, np.random.default_rng([0, len(archs)])),
    ):
        archs += proposed
        assert len(archs) <= len(members)
    assert set(archs) == members
    assert len(archs) == len(members)


def test_a_search_ends_when_nothing_is_left(searcher, tiny_space, score, tmp_path):
    budget = Budget.parse("10..16kFLOPs")
    candidates, members = Candidates(tiny_space, budget), within(tiny_space, budget)

    def run():
        study = Study(tiny_space, open_storage(tmp_path / "journal"))
        # Cut off where it would go on for ever.
        return study, list(itertools.islice(search(candidates, searcher, score(), study, trials=50, seed=0), 20))

    study, batches = run()
    assert len(batches) < 20
    assert {trial.arch for batch in batches for trial in batch} == members
    assert len(study.history) == len(members)
    # The same search again finds that out from what was recorded, and records nothing.
    again, batches = run()
    assert batches == []
    assert again.history.rejected == study.history.rejected


@pytest.mark.parametrize("searcher", QUICK, indirect=True)
def test_every_member_within_a_budget_is_proposed_once_and_then_nothing(searcher, tiny_space, evaluated):
    budget = Budget.parse("7..20kFLOPs")
    members, candidates = within(tiny_space, budget), Candidates(tiny_space, budget)
    assert 10 < len(members) < tiny_space.size
    first = archs_of(tiny_space, searcher.propose(8, History(), candidates, np.random.default_rng(0)))
    history = evaluated(candidates, first)
    rest = archs_of(tiny_space, searcher.propose(100, history, candidates, np.random.default_rng(1)))
    assert len(rest) == len(members) - 8
    history = evaluated(candidates, first + rest)
    assert {trial.arch for trial in history} == members
    assert archs_of(tiny_space, searcher.propose(1, history, candidates, np.random.default_rng(2))) == []


@pytest.mark.parametrize("searcher", QUICK, indirect=True)
def test_what_is_known_from_outside_the_budget_takes_no_places(searcher, tiny_space, evaluated):
    # A history may be older than the budget; its other trials use up none of the members that are left.
    budget = Budget.parse("7..20kFLOPs")
    members = within(tiny_space, budget)
    others = within(tiny_space, Budget()) - members
    assert len(others) > 4
    known = sorted(others, key=tiny_space.index) + sorted(members, key=tiny_space.index)[:3]
    candidates = Candidates(tiny_space, budget)
    proposed = archs_of(
        tiny_space, searcher.propose(100, evaluated(candidates, known), candidates, np.random.default_rng(0))
    )
    assert len(proposed) == len(members) - 3
    assert set(proposed) == members - set(known)


@pytest.mark.parametrize("searcher", QUICK, indirect=True)
def test_what_others_hold_is_not_proposed(searcher, tiny_space, evaluated):
    members = sorted(within(tiny_space, Budget()), key=tiny_space.index)
    candidates = Candidates(tiny_space, Budget())
    history = evaluated(candidates, members[:24])
    history.held = frozenset(members[24:32])
    for left in (members[32:], members[24:]):
        proposed = archs_of(tiny_space, searcher.propose(100, history, candidates, np.random.default_rng(0)))
        assert sorted(proposed, key=tiny_space.index) == left
        history.held = frozenset()  # once it is held no more, it is proposed


def test_parameters_say_all_that_a_searcher_was_made_with(searcher):
    parameters = searcher.parameters
    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["batch_size"] == searcher.batch_size
    searcher.batch_size += 1
    assert searcher.parameters == {**parameters, "batch_size": searcher.batch_size}
    settings = {"batch_size": 32, "parents": 3, "rate": 0.5, "first": 32}
    assert Evolution(parents=3, rate=0.5).parameters == settings
    assert Evolution(parents=3, rate=0.5, stratified=True).parameters == {**settings, "stratified": True}
    tpe = {"batch_size": 8, "attempts": ATTEMPTS, "sampler": "TPESampler", "multivariate": True, "constant_liar": True}
    assert make_searcher("optuna-tpe").parameters == tpe


def test_an_unknown_searcher_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match="'hillclimb': unknown; permitted are evolution, random, stratified, enumerate, optuna-tpe"
    ):
        make_searcher("hillclimb")


# --- drawing what was not seen


def seen_of(archs):
    seen = Seen(History())
    for arch in archs:
        seen.add(arch)
    return seen


def test_drawing_is_uniform_over_what_was_not_seen(tiny_space):
    budget = Budget.parse("7..20kFLOPs")
    members = sorted(within(tiny_space, budget), key=tiny_space.index)
    # A few seen, so that draws are tried again; and most, so that what is left is listed.
    for seen in (members[::4], members[:-3]):
        left = [arch for arch in members if arch not in seen]
        counts = dict.fromkeys(left, 0)
        for seed in range(60 * len(left)):
            (arch,) = Candidates(tiny_space, budget).draw_unseen(1, seen_of(seen), np.random.default_rng(seed))
            counts[arch] += 1
        assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("left", [0, 1, 2, 5])
def test_drawing_when_most_was_seen_gives_exactly_what_is_left(digits_space, left):
    budget = Budget.parse("0.9..1MFLOPs")
    members = sorted(within(digits_space, budget), key=digits_space.index)
    rest = {members[int(i)] for i in np.random.default_rng(left).permutation(len(members))[:left]}
    seen = seen_of(set(members) - rest)
    drawn = Candidates(digits_space, budget).draw_unseen(10, seen, np.random.default_rng(0))
    assert len(drawn) == left
    assert set(drawn) == rest
    assert len(seen) == len(members)
    assert all(arch in seen for arch in members)


def test_drawing_remembers_what_it_drew(digits_space):
    budget, seen = Budget.parse("0.9..1MFLOPs"), seen_of([])
    drawn = Candidates(digits_space, budget).draw_unseen(50, seen, np.random.default_rng(0))
    assert all(arch in seen for arch in drawn)
    assert len(seen) == len(set(drawn)) == 50


def test_drawing_nothing_takes_nothing_from_the_generator(digits_space):
    rng = np.random.default_rng(0)
    assert Candidates(digits_space, Budget()).draw_unseen(0, seen_of([]), rng) == []
    assert rng.random() == np.random.default_rng(0).random()


# --- evolution


def test_evolution_beats_random_search_at_equal_evaluations(score, tmp_path):
    # One layout, so that the score has a single peak; the budget cuts off the largest members.
    fields = SearchSpace.load("psvit-2d-nano").to_dict()
    space = SearchSpace.from_dict({**fields, "layouts": fields["layouts"][1:]})
    budget = Budget.parse("0..20MFLOPs")

    def best_of(searcher, seed):
        study = Study(space, open_storage(tmp_path / f"{searcher.name}-{seed}"))
        for _ in search(Candidates(space, budget), searcher, score(), study, trials=128, seed=seed):
            pass
        assert len(study.history) == 128
        return max(trial.score.value for trial in study.history)

    for seed in range(4):
        assert best_of(Evolution(), seed) > best_of(Random(), seed)


def test_evolution_breeds_from_the_best(digits_space, evaluated):
    # Children of a few good parents resemble them; fresh draws do not.
    budget = Budget.parse("0..3MFLOPs")
    candidates = Candidates(digits_space, budget)
    history = evaluated(candidates, digits_space.sample(np.random.default_rng(0), 300, budget))
    children = Evolution().propose(32, history, candidates, np.random.default_rng(1))
    strangers = Random().propose(32, history, candidates, np.random.default_rng(1))
    top = np.array([trial.row for trial in sorted(history, key=lambda trial: -trial.score.value)[:10]])

    def distance(proposals):
        return np.mean([(np.array(proposal.row) != top).sum(axis=1).min() for proposal in proposals])

    assert distance(children) < 0.5 * distance(strangers)


def test_evolution_says_how_each_came_about(digits_space, evaluated):
    candidates = Candidates(digits_space, Budget.parse("0..3MFLOPs"))
    first = Evolution().propose(32, History(), candidates, np.random.default_rng(0))
    assert {proposal.origin for proposal in first} == {"uniform"}
    second = Evolution().propose(32, evaluated(candidates, first), candidates, np.random.default_rng(1))
    origins = [proposal.origin for proposal in second]
    assert origins.count("mutation") + origins.count("crossover") >= 28
    assert min(origins.count("mutation"), origins.count("crossover")) >= 10


def test_evolution_does_not_breed_from_what_was_given_up_or_failed(digits_space, mixed_score, evaluated):
    # Raced scores are a thousand higher here; whoever took them for whole would breed from them alone.
    candidates = Candidates(digits_space, Budget.parse("0..3MFLOPs"))
    archs = candidates.draw_unseen(300, seen_of([]), np.random.default_rng(0))
    history = evaluated(candidates, archs, mixed_score())
    raced = [trial for trial in history if trial.score.state == "raced"]
    assert len(raced) > 20
    assert all(trial.is_complete for trial in history.best(10))
    whole = History(history.complete)
    for trial in [trial for trial in history if not trial.is_complete]:
        whole.add(trial)  # known, but without a word about what it scored
    one, other = (Evolution().propose(32, h, candidates, np.random.default_rng(2)) for h in (history, whole))
    assert one == other


def test_with_few_candidates_every_kind_is_drawn(evaluated):
    space = SearchSpace.for_images((32, 32), 3, 10, Budget.parse("5MFLOPs"))
    candidates, searcher = Candidates(space, Budget.parse("4.9..5.1MFLOPs")), make_searcher("evolution", few=True)
    history, origins = History(), []
    for batch in range(4):
        proposed = searcher.propose(searcher.batch_size, history, candidates, np.random.default_rng(batch))
        origins.append({proposal.origin for proposal in proposed})
        known = [trial.arch for trial in history]
        history = evaluated(candidates, [*known, *archs_of(space, proposed)])
        if batch == 0:
            kinds = {(trial.arch.variant, trial.arch.stem, len(trial.arch.stages)) for trial in history}
            assert len(kinds) == 12  # one, two and three stages
    assert origins[0] == {STRATIFIED}
    assert STRATIFIED in origins[1]
    assert origins[1] & {MUTATION, CROSSOVER}
    assert origins[2] | origins[3] <= {MUTATION, CROSSOVER}


def test_the_first_generation_is_drawn_uniformly(tiny_space):
    budget = Budget.parse("7..20kFLOPs")
    counts = dict.fromkeys(within(tiny_space, budget), 0)
    for seed in range(60 * len(counts)):
        (proposal,) = Evolution().propose(1, History(), Candidates(tiny_space, budget), np.random.default_rng(seed))
        counts[tiny_space.decode(proposal.row)] += 1
    assert chisquare(list(counts.values())).pvalue > 1e-4


# --- enumeration


def test_enumeration_goes_by_number_and_ignores_the_seed(tiny_space):
    budget = Budget.parse("7..20kFLOPs")
    candidates = Candidates(tiny_space, budget)
    numbered = list(candidates.members.take(np.arange(candidates.members.count)))
    for seed in (0, 1):
        proposed = make_searcher("enumerate").propose(7, History(), candidates, np.random.default_rng(seed))
        assert archs_of(tiny_space, proposed) == numbered[:7]


def test_what_nobody_would_see_the_end_of_is_not_enumerated():
    check_enumerable(enumerate.MOST)
    with pytest.raises(InputError, match="searcher enumerate: 1,048,577 architectures are within the budget, at most"):
        check_enumerable(enumerate.MOST + 1)


# --- Optuna's samplers


@pytest.fixture(params=["optuna-tpe", "optuna-nsga2"])
def sampler(request):
    return make_searcher(request.param)


def test_a_row_is_a_member_exactly_if_it_encodes_one(tiny_space):
    encoded = {tuple(tiny_space.encode(tiny_space[index]).tolist()) for index in range(tiny_space.size)}
    rows = np.stack(np.meshgrid(*map(np.arange, tiny_space.genes.values()), indexing="ij"), axis=-1)
    found = set()
    for row in rows.reshape(-1, len(tiny_space.genes)).tolist():
        plain = tiny_space.encoding.canonical(row)
        if member(tiny_space, plain) is not None:
            found.add(plain)
        assert (member(tiny_space, row) is not None) == (tuple(row) in encoded)
    assert found == encoded


def test_infeasible_rows_are_told_and_never_to_be_evaluated(sampler, digits_space):
    budget = Budget.parse("0.9..1MFLOPs")
    proposals = sampler.propose(4, History(), Candidates(digits_space, budget), np.random.default_rng(0))
    infeasible = [proposal for proposal in proposals if not proposal.is_feasible]
    assert len(proposals) - len(infeasible) == 4
    assert infeasible
    assert len(infeasible) <= 4 * ATTEMPTS
    for proposal in infeasible:
        arch = member(digits_space, proposal.row)
        assert arch is None or not budget.satisfied_by(cost(arch))


def test_no_more_rows_are_asked_of_a_sampler_than_so_many_for_each(digits_space, monkeypatch):
    # A sampler that only ever proposes one row, which is beyond the limit: what is wanted is drawn instead.
    asked = []

    class Stubborn(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            asked.append(trial.number)
            return {}

        def sample_independent(self, study, trial, param_name, param_distribution):
            return 0

    budget = Budget.parse("2..3MFLOPs")
    assert not budget.satisfied_by(cost(digits_space.decode([0] * len(digits_space.genes))))
    searcher = OptunaSampler("stubborn", lambda seed, **_: Stubborn(), batch_size=8)
    proposals = searcher.propose(3, History(), Candidates(digits_space, budget), np.random.default_rng(0))
    assert len(asked) == 3 * ATTEMPTS == 150
    assert len(proposals) == 3 * ATTEMPTS + 3
    feasible = [proposal for proposal in proposals if proposal.is_feasible]
    assert [proposal.origin for proposal in feasible] == ["uniform"] * 3
    assert all(budget.satisfied_by(cost(arch)) for arch in archs_of(digits_space, feasible))


@pytest.fixture
def shown(monkeypatch):
    """The studies that samplers are shown, as they are made."""
    studies, make = [], optuna_samplers._study

    def remember(*arguments):
        studies.append(make(*arguments))
        return studies[-1]

    monkeypatch.setattr(optuna_samplers, "_study", remember)
    return studies


def test_samplers_see_whole_scores_and_rejected_rows_but_nothing_raced_or_failed(
    sampler, digits_space, mixed_score, evaluated, shown
):
    candidates = Candidates(digits_space, Budget.parse("0..3MFLOPs"))
    archs = candidates.draw_unseen(60, seen_of([]), np.random.default_rng(0))
    history = evaluated(candidates, archs, mixed_score())
    beyond = Candidates(digits_space, Budget.parse("0.3MFLOPs")).propose([digits_space.largest], "optuna-tpe")
    history.rejected.append(Rejected(number=60, proposal=beyond[0]))
    proposed = sampler.propose(4, history, candidates, np.random.default_rng(1))
    (study,) = shown
    told = study.get_trials(deepcopy=False)[: len(history.complete) + 1]
    assert [tuple(trial.params.values()) for trial in told] == [
        *(trial.row for trial in history.complete),
        beyond[0].row,
    ]
    assert max(trial.value for trial in told) < 0  # what was raced has scores near a thousand
    assert constraints_of(told[-1])["macs"] > 0
    # And so what they propose depends on nothing else, except that nothing is proposed twice.
    for trial in [trial for trial in history if not trial.is_complete]:
        assert trial.arch not in archs_of(digits_space, proposed)


def test_the_genetic_algorithm_goes_on_in_its_generation(digits_space, tmp_path, score):
    # The generation of a trial is kept beside it, or a new sampler would begin with the first again.
    study = Study(digits_space, open_storage(tmp_path / "journal"))
    candidates = Candidates(digits_space, Budget.parse("0..3MFLOPs"))
    for _ in search(candidates, make_searcher("optuna-nsga2"), score(), study, trials=70, seed=0):
        pass
    again = Study(digits_space, open_storage(tmp_path / "journal"))
    generations = [
        value for trial in again.history for key, value in trial.attrs.items() if key.endswith(":generation")
    ]
    assert len(generations) == len(again.history)
    assert generations == sorted(generations)
    assert generations[0] == 0
    assert generations[-1] >= 1


def test_the_genetic_algorithm_takes_more_generations_than_python_can_recurse(digits_space):
    # What is proposed outside a narrow budget fills generations, and parents follow from those before them.
    beyond, history = Candidates(digits_space, Budget.parse("0.3MFLOPs")), History()
    key = optuna.samplers.NSGAIISampler._get_generation_key()
    for number in range(2 * sys.getrecursionlimit()):
        (proposal,) = beyond.propose([digits_space.largest], "optuna-nsga2", {key: number // 2})
        history.rejected.append(Rejected(number=number, proposal=proposal))
    searcher = OptunaSampler("small", optuna.samplers.NSGAIISampler, {"population_size": 2}, batch_size=1)
    assert searcher.propose(1, history, beyond, np.random.default_rng(0))


def test_equal_trials_lead_samplers_to_what_optuna_itself_would_ask(digits_space, evaluated):
    """Independent of our own study: Optuna's sampler on a study made by hand gives our first proposal."""
    archs = digits_space.sample(np.random.default_rng(0), 30)
    history = evaluated(Candidates(digits_space, Budget()), archs)
    genes = {gene: IntDistribution(0, choices - 1) for gene, choices in digits_space.genes.items()}
    key = int(np.random.default_rng(5).integers(2**31))
    for name, make in (
        ("optuna-tpe", lambda: optuna.samplers.TPESampler(seed=key, multivariate=True, constant_liar=True)),
        ("optuna-nsga2", lambda: optuna.samplers.NSGAIISampler(seed=key, population_size=32)),
    ):
        study = optuna.create_study(direction="maximize", sampler=make())
        for trial in history:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(zip(genes, trial.row, strict=True)),
                    distributions=genes,
                    value=trial.score.value,
                    state=TrialState.COMPLETE,
                )
            )
        asked = study.ask(genes)
        proposals = make_searcher(name).propose(
            1, history, Candidates(digits_space, Budget()), np.random.default_rng(5)
        )
        assert proposals[0].row == digits_space.encoding.canonical([asked.params[gene] for gene in genes])


def test_scores_that_are_not_whole_are_no_objectives(digits_space, evaluated, mixed_score):
    class OnlyRaced(type(mixed_score())):
        def score(self, arch):
            return Score(value=9.0, images=16, state="raced")

    candidates = Candidates(digits_space, Budget())
    history = evaluated(candidates, [digits_space[0], digits_space[1]], OnlyRaced())
    assert history.objectives.shape == (0, 0)
    assert history.best(3) == []
    for name in QUICK:
        assert make_searcher(name).propose(2, history, candidates, np.random.default_rng(0))
