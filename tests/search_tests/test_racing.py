"""Racing against exact probabilities, counted over all outcomes, and against its guarantee in made-up races."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from psvit.search.racing import Field, Race, chance_of_so_few, chance_of_wins, right_answers, ties

SMALL = range(1, 10)


def tail(draws, total, marked, least):
    """P(at least so many of the marked among the draws), exactly."""
    ways = sum(comb(marked, i) * comb(total - marked, draws - i) for i in range(max(least, 0), min(marked, draws) + 1))
    return Fraction(ways, comb(total, draws))


def test_the_chance_of_wins_bounds_that_under_every_possible_number_of_differing_images():
    for total in range(1, 15):
        for seen in range(1, total + 1):
            for wins, losses in itertools.product(range(seen + 1), repeat=2):
                discordant = wins + losses
                if discordant > seen:
                    continue
                chance = chance_of_wins(np.array([wins]), np.array([losses]), seen, total)[0]
                worst = max(
                    tail(discordant, everywhere, winning, wins)
                    for everywhere in range(discordant, discordant + total - seen + 1)
                    for winning in range(everywhere // 2 + 1)
                )
                assert chance >= float(worst) * (1 - 1e-9)


@pytest.mark.parametrize("alpha", [0.001, 0.02, 0.1, 0.3])
def test_a_rival_that_is_not_better_is_seldom_called_better(alpha):
    for total in SMALL:
        for winning in range(total + 1):
            # As good as the other, or worse: at least as many losses as wins on all images.
            for losing in range(winning, total - winning + 1):
                for seen in range(1, total + 1):
                    wrong = Fraction(0)
                    for wins in range(min(winning, seen) + 1):
                        for losses in range(min(losing, seen - wins) + 1):
                            rest = comb(total - winning - losing, seen - wins - losses)
                            if chance_of_wins(np.array([wins]), np.array([losses]), seen, total)[0] <= alpha:
                                wrong += Fraction(comb(winning, wins) * comb(losing, losses) * rest, comb(total, seen))
                    assert wrong <= alpha


@pytest.mark.parametrize("alpha", [0.001, 0.02, 0.1, 0.3])
def test_a_candidate_as_good_as_the_known_best_is_seldom_called_worse(alpha):
    for total in SMALL:
        for right, target in itertools.product(range(total + 1), repeat=2):
            if right < target:
                continue
            for seen in range(1, total + 1):
                wrong = Fraction(0)
                for correct in range(max(0, seen - total + right), min(right, seen) + 1):
                    if chance_of_so_few(np.array([correct]), seen, total, np.array([target]))[0] <= alpha:
                        ways = comb(right, correct) * comb(total - right, seen - correct)
                        wrong += Fraction(ways, comb(total, seen))
                assert wrong <= alpha


def test_the_chance_of_so_few_is_the_exact_one():
    for total in SMALL:
        for seen in range(1, total + 1):
            for correct, target in itertools.product(range(seen + 1), range(total + 1)):
                if not correct < target <= correct + total - seen:
                    continue
                exact = 1 - tail(seen, total, target, correct + 1)
                chance = chance_of_so_few(np.array([correct]), seen, total, np.array([target]))[0]
                assert chance == pytest.approx(float(exact), rel=1e-9)


def test_small_chances_of_many_images_are_exact():
    # Where a race decides: chances of a millionth and less, of thousands of images.
    for wins, losses, seen, total in ((120, 40, 1024, 5000), (60, 12, 512, 5000), (400, 250, 4096, 5000)):
        even = 2 * ((wins + losses + total - seen + 1) // 2)
        exact = float(tail(wins + losses, even, even // 2, wins))
        assert exact < 1e-6
        assert chance_of_wins(np.array([wins]), np.array([losses]), seen, total)[0] == pytest.approx(exact, rel=1e-6)
    for correct, seen, total, target in ((500, 1024, 5000, 2800), (1900, 4000, 5000, 2500)):
        exact = float(1 - tail(seen, total, target, correct + 1))
        assert exact < 1e-4
        chance = chance_of_so_few(np.array([correct]), seen, total, np.array([target]))[0]
        assert chance == pytest.approx(exact, rel=1e-6)


def test_what_the_images_that_are_left_cannot_change_is_certain_and_the_rest_is_not():
    def wins(won, lost, seen, total):
        return chance_of_wins(np.array([won]), np.array([lost]), seen, total)[0]

    assert wins(5, 1, 96, 100) > 0  # four images are left, and all could be losses
    assert wins(5, 0, 96, 100) == 0
    assert wins(1, 0, 100, 100) == 0
    assert wins(3, 3, 100, 100) == 1

    def few(correct, seen, total, target):
        return chance_of_so_few(np.array([correct]), seen, total, np.array([target]))[0]

    assert few(50, 90, 100, 61) == 0
    assert few(50, 90, 100, 60) > 0
    assert few(60, 100, 100, 60) == 1
    assert few(60, 90, 100, 60) == 1


# --- whole races


def made_up(rng, num_candidates, num_images, spread, agreement):
    """Which images each of a population gets right: alike on most, apart by up to `spread` of all."""
    common = rng.random(num_images)
    rates = 0.6 + spread * rng.random(num_candidates)[:, None]
    own = rng.random((num_candidates, num_images))
    return np.where(rng.random((num_candidates, num_images)) < agreement, common, own) < rates


def race_on(correct, race, best=(), batch=16, kind=Field):
    """Run a race over images in their order; returns after how many images each candidate left."""
    num_candidates, num_images = correct.shape
    looks = race.looks([*range(batch, num_images, batch), num_images])
    field = kind(race, num_candidates, num_images, len(looks), best)
    left = np.full(num_candidates, num_images)
    nobody = np.zeros(num_candidates, dtype=bool)
    for look in looks:
        running = np.flatnonzero(left == num_images)
        field.look(correct[running, :look], list(running))
        left[running[field.beaten(nobody)[running]]] = look
    return left


def gives_up_wrongly(correct, left, keep, best=()):
    totals = correct.sum(axis=1)
    everyone = np.concatenate([totals, np.asarray(best, dtype=np.int64)])
    among_best = (everyone[None, :] > totals[:, None]).sum(axis=1) < keep
    return bool((among_best & (left < correct.shape[1])).any())


@pytest.mark.parametrize(
    ("spread", "agreement", "delta"),
    [(0.0, 0.0, 0.5), (0.0, 0.9, 0.5), (0.02, 0.8, 0.5), (0.1, 0.5, 0.2), (0.3, 0.8, 0.2)],
)
def test_races_give_up_one_of_the_best_no_more_often_than_said(spread, agreement, delta):
    race = Race(keep=3, delta=delta, first_look=16, growth=1.2)
    rng = np.random.default_rng(0)
    races, wrong = 60, 0
    for _ in range(races):
        correct = made_up(rng, 12, 240, spread, agreement)
        # Rivals that are known, about as good as the best: ties are likely.
        best = sorted(rng.choice(correct.sum(axis=1), 2), reverse=True)
        shuffled = correct[:, rng.permutation(240)]
        wrong += gives_up_wrongly(shuffled, race_on(shuffled, race, best), 3, best)
    assert wrong / races <= delta


def test_a_race_against_too_generous_bounds_would_be_noticed():
    # The simulation above can fail: without the union bound over looks and pairs it does.
    class Careless(Field):
        def __init__(self, *args):
            super().__init__(*args)
            self._alpha_pair = self._alpha_known = 0.5

    rng = np.random.default_rng(0)
    race = Race(keep=3, delta=0.2, first_look=16, growth=1.2)
    wrong = 0
    for _ in range(40):
        correct = made_up(rng, 12, 240, 0.02, 0.8)
        wrong += gives_up_wrongly(correct, race_on(correct, race, kind=Careless), 3)
    assert wrong / 40 > race.delta


def test_candidates_that_are_clearly_worse_leave_early():
    rng = np.random.default_rng(1)
    correct = made_up(rng, 32, 5000, 0.4, 0.8)
    left = race_on(correct, Race(keep=5), batch=128)
    assert not gives_up_wrongly(correct, left, 5)
    assert left.mean() < 0.4 * 5000
    # Those that are known to be better count as much as those beside it.
    known = [int(0.95 * 5000)] * 5
    assert race_on(correct, Race(keep=5), known, batch=128).mean() < 0.2 * 5000


def test_candidates_that_tie_are_scored_on_all_images():
    rng = np.random.default_rng(2)
    one = made_up(rng, 1, 2000, 0, 0)[0]
    correct = np.stack([one] * 8 + [one & (rng.random(2000) < 0.3)] * 8)
    left = race_on(correct, Race(keep=2), batch=64)
    assert (left[:8] == 2000).all()
    assert (left[8:] < 500).all()


def test_fewer_than_keep_better_ones_give_up_nobody():
    rng = np.random.default_rng(3)
    correct = made_up(rng, 10, 1000, 0.4, 0.8)
    assert (race_on(correct, Race(keep=10), batch=50) == 1000).all()
    assert (race_on(correct, Race(keep=10), [1000], batch=50) < 1000).any()


def test_a_rival_that_failed_is_none():
    field = Field(Race(keep=1), 2, 1000, 1, ())
    correct = np.zeros((2, 500), dtype=bool)
    correct[0] = True
    field.look(correct, [0, 1])
    assert field.beaten(np.array([False, False])).tolist() == [False, True]
    assert field.beaten(np.array([True, False])).tolist() == [False, False]


# --- when, and what is said


def test_looks_are_at_the_ends_of_batches_and_grow():
    race = Race(first_look=100, growth=2)
    assert race.looks([64, 128, 192, 256, 320, 384, 448, 512, 576, 600]) == (128, 256, 512)
    assert race.looks([50, 100, 150, 200, 210]) == (100, 200)
    # After all images nobody has to leave, and one batch leaves no time to.
    assert race.looks([144]) == ()
    assert race.looks([120, 144]) == (120,)


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"delta": 0.0}, {"delta": 1.0}, {"first_look": 0}, {"growth": 1.0}])
def test_impossible_races_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be .*received {wrong[name]}"):
        Race(**wrong)


def test_ties_for_the_last_place_are_found_where_there_is_not_room_for_all():
    assert ties([7, 9, 6, 8, 7], 3) == 2
    assert ties([7, 9, 6, 8, 7], 4) == 0
    assert ties([7, 9, 7, 8, 7], 4) == 3
    assert ties([9, 8], 2) == 0
    assert ties([5, 5, 9, 9], 2) == 0
    assert ties([], 1) == 0


def test_accuracies_in_percent_are_numbers_of_images_again():
    for num_images in (144, 5000, 4999):
        for right in range(0, num_images + 1, 7):
            assert right_answers(100 * right / num_images, num_images) == right
            assert right_answers(round(100 * right / num_images, 4), num_images) == right


def test_the_guarantee_is_said_in_words():
    said = Race(keep=7, delta=0.05).describe()
    assert "0.95" in said
    assert "best 7" in said
