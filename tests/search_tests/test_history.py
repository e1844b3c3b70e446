"""The history: what is known, in order, an architecture at most once."""

from __future__ import annotations

import numpy as np
import pytest

from psvit.arch.costs import cost
from psvit.search.history import History, Seen
from psvit.search.trial import Score, Trial


@pytest.fixture
def trial(tiny_space):
    """Makes a trial of the member with some number."""

    def make(index, score, number=None, state="complete", objectives=None):
        arch = tiny_space[index]
        return Trial(
            number=index if number is None else number,
            arch=arch,
            cost=cost(arch),
            score=Score(value=score, state=state),
            objectives=(objectives or (score,)) if state == "complete" else (),
        )

    return make


def test_an_architecture_is_there_once(trial, tiny_space):
    history = History([trial(3, 1.0), trial(5, 2.0)])
    assert not history.add(trial(3, 9.0, number=7))
    assert history.add(trial(4, 3.0, number=8))
    assert [one.number for one in history] == [3, 5, 8]
    assert [one.score.value for one in history.complete] == [1.0, 2.0, 3.0]
    assert history.objectives.tolist() == [[1.0], [2.0], [3.0]]
    assert tiny_space[5] in history
    assert tiny_space[6] not in history
    assert len(history) == 3


def test_the_best_have_the_highest_scores_and_of_equal_ones_the_earlier(trial):
    history = History([trial(i, score) for i, score in enumerate([3.0, 9.0, 1.0, 9.0, 9.0, 4.0, 9.0])])
    assert [one.number for one in history.best(5)] == [1, 3, 4, 6, 5]
    assert [one.number for one in history.best()] == [1]
    assert len(history.best(99)) == 7
    assert history.scores(3) == [9.0, 9.0, 9.0]
    assert history.scores(99)[-2:] == [3.0, 1.0]


def test_only_whole_scores_are_compared(trial):
    history = History(
        [trial(0, 1.0), trial(1, 99.0, state="raced"), trial(2, None, state="failed"), trial(3, 2.0)],
    )
    assert len(history) == 4
    assert [one.number for one in history.best(4)] == [3, 0]
    assert history.scores(4) == [2.0, 1.0]
    assert history.objectives.tolist() == [[1.0], [2.0]]


def test_many_trials_keep_their_objectives(trial, tiny_space):
    # More than the table begins with, and with what is not whole in between.
    rng = np.random.default_rng(0)
    history, expected = History(), []
    for index in range(tiny_space.size):
        score = float(rng.normal())
        history.add(trial(index, score, objectives=(score, -score / 2)))
        expected.append([score, -score / 2])
        assert history.objectives.tolist() == expected
    more = History()
    made = trial(0, 1.0)
    for number in range(1000):
        arch = made.arch.model_copy(update={"num_classes": number + 2})
        more.add(Trial(number=number, arch=arch, cost=made.cost, score=made.score, objectives=(float(number),)))
    assert more.objectives[:, 0].tolist() == list(range(1000))


def test_with_several_objectives_the_front_comes_first_and_the_lonely_before_the_crowded(trial):
    points = [(0.0, 0.0), (5.0, 1.0), (1.0, 5.0), (4.0, 4.0), (3.9, 4.1), (4.9, 1.1)]
    history = History([trial(i, point[0], objectives=point) for i, point in enumerate(points)])
    best = [one.number for one in history.best(6)]
    assert set(best[:2]) == {1, 2}  # the ends of the front
    assert set(best[:5]) == {1, 2, 3, 4, 5}
    assert best[-1] == 0


def test_what_is_held_counts_as_seen_and_the_history_is_not_changed(trial, tiny_space):
    history = History([trial(0, 1.0)])
    history.held = frozenset([tiny_space[1]])
    seen = Seen(history)
    seen.add(tiny_space[2])
    assert [tiny_space[i] in seen for i in range(4)] == [True, True, True, False]
    assert len(seen) == 3
    assert len(history) == 1
    assert history.held == {tiny_space[1]}
