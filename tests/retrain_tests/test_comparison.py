"""Comparing networks: intervals against references, and that no difference is seen where there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

import psvit
from psvit.classifier import Classifier
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.train import bootstrap as module
from psvit.train.bootstrap import compared, resampled_totals


def answers(rng, rate, images=200, seeds=1):
    return rng.random((seeds, images)) < rate


def difference(one, other, resamples=4000, confidence=0.95, seed=0):
    """Of the second network from the first."""
    _, second = compared(["one", "other"], [one, other], resamples, confidence, seed)
    return second.difference


# --- intervals


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_intervals_of_one_training_each_are_those_of_scipy(confidence):
    rng = np.random.default_rng(1)
    one, other = answers(rng, 0.7), answers(rng, 0.8)
    first, second = compared(["one", "other"], [one, other], 40_000, confidence, seed=0)
    options = {"confidence_level": confidence, "n_resamples": 40_000, "method": "percentile", "vectorized": True}

    def paired(a, b, axis=-1):
        return 100 * (b.mean(axis=axis) - a.mean(axis=axis))

    pair = (one[0].astype(float), other[0].astype(float))
    expected = stats.bootstrap(pair, paired, paired=True, rng=np.random.default_rng(2), **options)
    assert second.difference.points == pytest.approx(paired(*pair))
    assert second.difference.interval == pytest.approx(tuple(expected.confidence_interval), abs=0.51)
    # Quantiles of what takes steps of half a point may be a step apart; the spread is smooth.
    drawn = np.subtract(*reversed(resampled_totals([one, other], 40_000, 0))) / 2
    assert drawn.std() == pytest.approx(expected.standard_error, rel=0.03)
    alone = stats.bootstrap((100.0 * one[0],), np.mean, rng=np.random.default_rng(3), **options)
    assert first.interval == pytest.approx(tuple(alone.confidence_interval), abs=0.51)


def test_resamples_have_the_exact_distribution_over_images_and_seeds():
    # Few enough that all equally likely resamples can be listed.
    one = np.array([[1, 0, 1]], dtype=bool)
    other = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], dtype=bool)
    expected = np.zeros((4, 7))
    ways = 3**3 * 3**2
    for images in itertools.product(range(3), repeat=3):
        for seeds in itertools.product(range(3), repeat=2):
            of_one = int(one[0, list(images)].sum())
            of_other = int(sum(other[seed, list(images)].sum() for seed in seeds))
            expected[of_one, of_other] += 1 / ways
    drawn = np.zeros((4, 7))
    for of_one, of_other in zip(*resampled_totals([one, other], 200_000, 0), strict=True):
        drawn[int(of_one), int(of_other)] += 1 / 200_000
    assert (drawn[expected == 0] == 0).all()
    # Five standard deviations of a share of so many draws.
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(0.25 / 200_000)


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_intervals_hold_what_is_true_as_often_as_they_say(seeds):
    # Networks of equal rates over images and seeds, whose trainings differ; a difference is then drawn around zero.
    held = told = 0
    trials = 300
    for number in range(trials):
        rng = np.random.default_rng([seeds, number])
        hardness = rng.normal(size=150)

        def network(rng=rng, hardness=hardness):
            quality = rng.normal(scale=0.3 if seeds > 1 else 0.0, size=(seeds, 1))
            return hardness + quality + rng.normal(size=(seeds, 150)) < 0.5

        found = difference(network(), network(), resamples=400, seed=number)
        held += found.interval[0] <= 0 <= found.interval[1]
        told += found.p < 0.05
    # Four standard deviations of such a share of 300 are 0.05.
    assert held / trials > 0.90
    assert told / trials < 0.10


def test_the_mean_over_seeds_varies_as_from_one_set_of_seeds_to_another():
    # On so many images hardly anything but the seeds varies.
    rates = np.array([0.30, 0.42, 0.50, 0.75])
    own = np.arange(20_000) < 20_000 * rates[:, None]
    (drawn,) = resampled_totals([own], 20_000, 0)
    assert (drawn / (3 * 20_000)).std() == pytest.approx(rates.std(ddof=1) / np.sqrt(4), rel=0.03)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    one, other = answers(rng, 0.6, seeds=1), answers(rng, 0.65, seeds=1)
    alike = difference(np.repeat(one, 4, axis=0), np.repeat(other, 4, axis=0))
    assert alike.points == difference(one, other).points
    shifted = [answers(rng, rate, seeds=1) for rate in (0.3, 0.5, 0.7, 0.9)]
    varied = difference(np.repeat(one, 4, axis=0), np.concatenate(shifted))
    assert np.ptp(varied.interval) > 1.5 * np.ptp(alike.interval)


def test_equal_networks_differ_by_exactly_nothing():
    own = answers(np.random.default_rng(0), 0.37, images=173)
    found = difference(own, own)
    assert (found.points, found.interval, found.p, found.is_told) == (0.0, (0.0, 0.0), 1.0, False)
    # Trained three times, and all the same: as many thirds are no reason to differ either.
    found = difference(own, np.repeat(own, 3, axis=0))
    assert (found.points, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_p_is_small_where_one_is_better_on_every_image_and_never_zero():
    worse = np.zeros((1, 50), dtype=bool)
    found = difference(worse, ~worse, resamples=999)
    assert (found.points, found.interval) == (100.0, (100.0, 100.0))
    assert found.p == pytest.approx(2 / 1000)
    assert found.is_told
    assert difference(~worse, worse).points == -100.0


def test_resamples_in_pieces_use_bounded_memory(monkeypatch):
    rng = np.random.default_rng(0)
    correct = [answers(rng, 0.5, images=300, seeds=4), answers(rng, 0.5, images=300, seeds=5)]
    sizes = []

    class Watched:
        def __init__(self, rng):
            self.rng = rng

        def multinomial(self, *args, **kwargs):
            drawn = self.rng.multinomial(*args, **kwargs)
            sizes.append(drawn.size)
            return drawn

    make = np.random.default_rng
    monkeypatch.setattr(module, "AT_ONCE", 3000)
    monkeypatch.setattr(module.np.random, "default_rng", lambda seed: Watched(make(seed)))
    totals = resampled_totals(correct, 1001, 0)
    assert max(sizes) <= 3000
    assert [len(total) for total in totals] == [1001, 1001]
    assert totals[0].mean() / (3 * 300) == pytest.approx(correct[0].mean(), abs=0.01)


# --- networks


@pytest.fixture
def classifier(found, make_data, tmp_path):
    """Makes a classifier with random weights, for the images of `make_data`."""

    def make(seed, **changes):
        network = PSViT(found.arch)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.3, generator=generator)
        about = {"data": make_data().describe(), "seed": seed, "recipe": {"epochs": 1}, **changes}
        file = found.model_copy(update={"provenance": about})
        return Classifier(network, Preprocessing.of(file, "here"), file, tmp_path / f"net-{seed}" / "network.yaml")

    return make


def test_accuracies_are_those_of_the_networks_image_by_image(classifier, make_data):
    data = make_data()
    trained = [classifier(seed) for seed in range(3)]
    found = psvit.compare(trained, data, resamples=200, device="cpu")

    def top1(one):
        right = [one.predict(data.val[index][0])[0][0] == data.classes[data.val[index][1]] for index in range(30)]
        return 100 * np.mean(right)

    assert [one.accuracy for one in found] == pytest.approx([top1(one) for one in trained])
    assert [one.name for one in found] == ["net-0", "net-1", "net-2"]
    assert found[0].difference is None
    assert found[1].difference.points == pytest.approx(top1(trained[1]) - top1(trained[0]))
    assert found == psvit.compare(trained, data, resamples=200, device="cpu")
    assert found != psvit.compare(trained, data, resamples=200, device="cpu", seed=1)


def test_a_list_of_trainings_counts_as_one_network(classifier, make_data):
    data = make_data()
    trained = [classifier(seed) for seed in range(4)]
    single = psvit.compare(trained, data, resamples=200)
    pair = psvit.compare({"first": trained[0], "<second>": trained[1:]}, data, resamples=200)
    assert [(one.name, one.seeds) for one in pair] == [("first", 1), ("<second>", 3)]
    assert pair[1].accuracy == pytest.approx(np.mean([one.accuracy for one in single[1:]]))
    assert "&lt;second&gt;" in pair._repr_html_()
    assert "<second>" not in pair._repr_html_()
    lines = str(pair).splitlines()
    assert len(lines) == 7
    assert lines[3].startswith("<second>")
    assert lines[5].startswith("<second>")
    regression = LogisticRegression(max_iter=5000)
    parts = [(part.pictures.pixels[part.rows], part.labels) for part in (data.all_train, data.val)]
    (images, labels), (others, answers) = [(pixels.reshape(len(pixels), -1) / 255, of) for pixels, of in parts]
    expected = 100 * regression.fit(images, labels).score(others, answers)
    assert pair.baseline.accuracy == pytest.approx(expected)
    assert f"{expected:.2f} %" in lines[6]
    assert f"{pair[1].accuracy:.2f} %" in lines[3]


def test_networks_that_are_called_alike_are_numbered(classifier, make_data):
    same = classifier(0)
    found = psvit.compare([same, same], make_data(), resamples=100)
    assert [one.name for one in found] == ["net-0 (1)", "net-0 (2)"]
    assert (found[1].difference.points, found[1].difference.interval) == (0.0, (0.0, 0.0))
    assert "cannot be told from net-0 (1)" in str(found)


def test_what_cannot_be_compared_is_refused(classifier, make_data):
    data, two = make_data(), [classifier(0), classifier(1)]
    for networks, options, expected in [
        ([two[0]], {}, "two or more"),
        ("runs/one", {}, "two or more"),
        ([two[0], []], {}, "empty list"),
        (two, {"resamples": 10}, "at least 100"),
        (two, {"confidence": 95}, "between 0 and 1"),
        ([two[0], [two[1], classifier(2, recipe={"epochs": 9})]], {}, "differ in more than their seed"),
        ([two[0], "nowhere"], {}, "nowhere"),
    ]:
        with pytest.raises(InputError, match=expected):
            psvit.compare(networks, data, **options)
    with pytest.raises(InputError, match="3 classes on 1 channels"):
        psvit.compare(two, make_data(in_chans=3))
