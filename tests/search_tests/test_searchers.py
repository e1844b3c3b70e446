"""The contract that every searcher keeps, and what the searchers add to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scipy.stats import chisquare

from psvit.budget import Budget
from psvit.costs import cost
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.search import search
from psvit.search.searchers import SEARCHERS, make_searcher
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.random import Random
from psvit.search.study import Study
from psvit.search.trial import Trial
from psvit.search_space import SearchSpace

BUDGETS = ["1MFLOPs", "0.9..1.2MFLOPs", "0.26MFLOPs"]
"""Loose, a band, and one that leaves six members of the digits space."""


def evaluated(archs, score, start=0):
    """A history of these architectures, in this order."""
    return [
        Trial(number=start + number, arch=arch, cost=cost(arch), score=score.evaluate(arch))
        for number, arch in enumerate(archs)
    ]


def within(space, budget):
    """All members within a budget, found by looking at every one."""
    return {arch for arch in map(space.__getitem__, range(space.size)) if budget.satisfied_by(cost(arch))}


@pytest.fixture(params=sorted(SEARCHERS))
def searcher(request):
    return make_searcher(request.param)


# --- the contract


@pytest.mark.parametrize("text", BUDGETS)
def test_proposals_are_new_members_within_the_budget(searcher, digits_space, score, text):
    budget, history = Budget.parse(text), []
    for batch in range(5):
        left = digits_space.count(budget) - len(history)
        rng = np.random.default_rng([0, batch])
        proposed = searcher.propose(searcher.batch_size, history, Candidates(digits_space, budget), rng)
        assert len(proposed) == min(searcher.batch_size, left)
        assert all(digits_space.contains(arch) for arch in proposed)
        assert all(budget.satisfied_by(cost(arch)) for arch in proposed)
        known = {trial.arch for trial in history}
        assert len(set(proposed)) == len(proposed)
        assert not known & set(proposed)
        history += evaluated(proposed, score(), start=len(history))


@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_as_many_are_proposed_as_are_wanted(searcher, digits_space, score, n):
    budget = Budget.parse("1MFLOPs")
    history = evaluated(digits_space.sample(np.random.default_rng(0), 5, budget), score())
    assert len(searcher.propose(n, history, Candidates(digits_space, budget), np.random.default_rng(1))) == n


def test_two_limits_hold_together(searcher, digits_space, score):
    budget = Budget.parse("1MFLOPs", "90..100kparams")
    first = searcher.propose(40, [], Candidates(digits_space, budget), np.random.default_rng(0))
    second = searcher.propose(40, evaluated(first, score()), Candidates(digits_space, budget), np.random.default_rng(1))
    for arch in first + second:
        assert cost(arch).macs <= 1_000_000
        assert 90_000 <= cost(arch).num_params <= 100_000


def test_equal_arguments_give_equal_proposals(searcher, digits_space, score):
    budget = Budget.parse("1MFLOPs")
    history = evaluated(digits_space.sample(np.random.default_rng(0), 40, budget), score())
    proposals = [
        make(40, history, Candidates(digits_space, budget), np.random.default_rng(7))
        # The same object twice and another one: a searcher keeps nothing between calls.
        for make in (searcher.propose, searcher.propose, type(searcher)().propose)
    ]
    assert proposals[0] == proposals[1] == proposals[2]
    assert searcher.propose(40, history, Candidates(digits_space, budget), np.random.default_rng(8)) != proposals[0]


def test_proposing_changes_neither_history_nor_global_generators(searcher, digits_space, score):
    budget = Budget.parse("1MFLOPs")
    history = evaluated(digits_space.sample(np.random.default_rng(0), 40, budget), score())
    copy, state = list(history), np.random.get_state()
    searcher.propose(32, history, Candidates(digits_space, budget), np.random.default_rng(1))
    assert history == copy
    assert all(np.array_equal(one, other) for one, other in zip(state, np.random.get_state(), strict=True))


PROPOSE_ELSEWHERE = textwrap.dedent(
    """
    import json, sys
    import numpy as np
    from psvit.budget import Budget
    from psvit.costs import cost
    from psvit.search.candidates import Candidates
    from psvit.search.searchers import SEARCHERS, make_searcher
    from psvit.search.trial import Trial
    from psvit.search_space import SearchSpace

    space, budget = SearchSpace.load("psvit-2d-digits"), Budget.parse("1MFLOPs")
    numbers = json.loads(sys.argv[1])
    history = [
        Trial(number=i, arch=space[n], cost=cost(space[n]), score=float(n % 101)) for i, n in enumerate(numbers)
    ]
    candidates = Candidates(space, budget)
    proposed = {
        name: make_searcher(name).propose(40, history, candidates, np.random.default_rng(3)) for name in SEARCHERS
    }
    print(json.dumps({name: [space.index(arch) for arch in archs] for name, archs in proposed.items()}))
    """
)


def test_another_process_proposes_the_same(digits_space):
    budget = Budget.parse("1MFLOPs")
    numbers = [digits_space.index(arch) for arch in digits_space.sample(np.random.default_rng(0), 40, budget)]
    history = [
        Trial(number=i, arch=digits_space[n], cost=cost(digits_space[n]), score=float(n % 101))
        for i, n in enumerate(numbers)
    ]
    here = {
        name: [
            digits_space.index(arch)
            for arch in make_searcher(name).propose(
                40, history, Candidates(digits_space, budget), np.random.default_rng(3)
            )
        ]
        for name in SEARCHERS
    }
    # Strings hash differently in every process; proposals must not follow the order of a set.
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", PROPOSE_ELSEWHERE, json.dumps(numbers)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(there.stdout) == here


def test_every_member_is_proposed_once_and_then_nothing(searcher, tiny_space, score):
    history = []
    while proposed := searcher.propose(
        5, history, Candidates(tiny_space, Budget()), np.random.default_rng([0, len(history)])
    ):
        history += evaluated(proposed, score(), start=len(history))
        assert len(history) <= tiny_space.size
    assert {trial.arch for trial in history} == within(tiny_space, Budget())
    assert len(history) == tiny_space.size


def test_every_member_within_a_budget_is_proposed_once_and_then_nothing(searcher, tiny_space, score):
    budget = Budget.parse("7..20kFLOPs")
    members = within(tiny_space, budget)
    assert 10 < len(members) < tiny_space.size
    history = evaluated(searcher.propose(8, [], Candidates(tiny_space, budget), np.random.default_rng(0)), score())
    rest = searcher.propose(100, history, Candidates(tiny_space, budget), np.random.default_rng(1))
    assert len(rest) == len(members) - 8
    history += evaluated(rest, score(), start=8)
    assert {trial.arch for trial in history} == members
    assert searcher.propose(1, history, Candidates(tiny_space, budget), np.random.default_rng(2)) == []


def test_what_is_known_from_outside_the_budget_takes_no_places(searcher, tiny_space, score):
    # A history may be older than the budget; its other trials use up none of the members that are left.
    budget = Budget.parse("7..20kFLOPs")
    members = within(tiny_space, budget)
    others = within(tiny_space, Budget()) - members
    assert len(others) > 4
    known = sorted(others, key=tiny_space.index) + sorted(members, key=tiny_space.index)[:3]
    proposed = searcher.propose(
        100, evaluated(known, score()), Candidates(tiny_space, budget), np.random.default_rng(0)
    )
    assert len(proposed) == len(members) - 3
    assert set(proposed) == members - set(known)


def test_an_unknown_searcher_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'hillclimb': unknown; permitted are evolution, random"):
        make_searcher("hillclimb")


# --- drawing what was not seen


def test_drawing_is_uniform_over_what_was_not_seen(tiny_space):
    budget = Budget.parse("7..20kFLOPs")
    members = sorted(within(tiny_space, budget), key=tiny_space.index)
    # A few seen, so that draws are tried again; and most, so that what is left is listed.
    for seen in (members[::4], members[:-3]):
        left = [arch for arch in members if arch not in seen]
        counts = dict.fromkeys(left, 0)
        for seed in range(60 * len(left)):
            (arch,) = Candidates(tiny_space, budget).draw_unseen(1, set(seen), np.random.default_rng(seed))
            counts[arch] += 1
        assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("left", [0, 1, 2, 5])
def test_drawing_when_most_was_seen_gives_exactly_what_is_left(digits_space, left):
    budget = Budget.parse("0.9..1MFLOPs")
    members = sorted(within(digits_space, budget), key=digits_space.index)
    rest = {members[int(i)] for i in np.random.default_rng(left).permutation(len(members))[:left]}
    seen = set(members) - rest
    drawn = Candidates(digits_space, budget).draw_unseen(10, seen, np.random.default_rng(0))
    assert len(drawn) == left
    assert set(drawn) == rest
    assert seen == set(members)


def test_drawing_remembers_what_it_drew(digits_space):
    budget, seen = Budget.parse("0.9..1MFLOPs"), set()
    drawn = Candidates(digits_space, budget).draw_unseen(50, seen, np.random.default_rng(0))
    assert seen == set(drawn)
    assert len(seen) == 50


def test_drawing_nothing_takes_nothing_from_the_generator(digits_space):
    rng = np.random.default_rng(0)
    assert Candidates(digits_space, Budget()).draw_unseen(0, set(), rng) == []
    assert rng.random() == np.random.default_rng(0).random()


# --- evolution


def test_evolution_beats_random_search_at_equal_evaluations(score, tmp_path):
    # One layout, so that the score has a single peak; the budget cuts off the largest members.
    fields = SearchSpace.load("psvit-2d-nano").to_dict()
    space = SearchSpace.from_dict({**fields, "layouts": fields["layouts"][1:]})
    budget = Budget.parse("0..20MFLOPs")

    def best_of(searcher, seed):
        study = Study(space, tmp_path / f"{type(searcher).__name__}-{seed}")
        trials = list(search(Candidates(space, budget), searcher, score(), study, trials=128, seed=seed))
        assert len(trials) == 128
        return max(trial.score for trial in trials)

    for seed in range(4):
        assert best_of(Evolution(), seed) > best_of(Random(), seed)


def test_evolution_breeds_from_the_best(digits_space, score):
    # Children of a few good parents resemble them; fresh draws do not.
    budget = Budget.parse("0..3MFLOPs")
    history = evaluated(digits_space.sample(np.random.default_rng(0), 300, budget), score())
    children = Evolution().propose(32, history, Candidates(digits_space, budget), np.random.default_rng(1))
    strangers = Random().propose(32, history, Candidates(digits_space, budget), np.random.default_rng(1))
    top = sorted(history, key=lambda trial: -trial.score)[:10]

    def distance(arch):
        return min(int((digits_space.encode(arch) != digits_space.encode(trial.arch)).sum()) for trial in top)

    assert np.mean([distance(arch) for arch in children]) < 0.5 * np.mean([distance(arch) for arch in strangers])


def test_the_first_generation_is_drawn_uniformly(tiny_space):
    budget = Budget.parse("7..20kFLOPs")
    counts = dict.fromkeys(within(tiny_space, budget), 0)
    for seed in range(60 * len(counts)):
        (arch,) = Evolution().propose(1, [], Candidates(tiny_space, budget), np.random.default_rng(seed))
        counts[arch] += 1
    assert chisquare(list(counts.values())).pvalue > 1e-4
