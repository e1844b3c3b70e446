"""What a winner is read beside: logistic regression and milliseconds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import psvit
from psvit.search import beside as beside_module
from psvit.search.compression.speed import Speed

RECIPE = "schema: psvit/recipe/1\nepochs: 12\nbatch_size: 64\nlr: 0.002\n"


@pytest.fixture
def timed(monkeypatch):
    """The batch sizes at which networks were timed; nothing is measured."""
    sizes = []

    def measured(networks, shape, size, device, seconds):
        sizes.append(size)
        return [Speed(median_ms=0.125 * size, ratio=1.0, spread=0.0)]

    monkeypatch.setattr(beside_module, "measure_by_turns", measured)
    return sizes


@pytest.fixture
def search(few_digits, tmp_path):
    def searched(out="run", **options):
        recipe = tmp_path / "brief.yaml"
        recipe.write_text(RECIPE)
        given = {"budget": "0.2MFLOPs", "data": few_digits, "trials": 2, "recipe": recipe, **options}
        return psvit.run_search(out=tmp_path / out, **given)

    return searched


def test_the_baseline_is_logistic_regression_on_the_images_that_networks_are_compared_on(search, timed, few_digits):
    found = search()

    def pixels(part):
        return np.stack([np.asarray(part[place][0]).ravel() / 255 for place in range(len(part))])

    model = LogisticRegression(max_iter=5000).fit(pixels(few_digits.train), few_digits.train.labels)
    expected = 100 * (model.predict(pixels(few_digits.search)) == few_digits.search.labels).mean()
    assert found.baseline.accuracy == pytest.approx(expected)
    assert (found.baseline.images, found.baseline.of) == (len(few_digits.train),) * 2
    said = f"logistic regression on the pixels has {expected:.2f} % on the search images"
    assert said in (found.folder / "report.html").read_text()
    assert said in found.baseline.in_words("the search images")
    caution = found.best.caution(found.baseline)
    assert bool(caution) == (found.best.accuracy < expected)
    assert caution in (found.folder / "report.html").read_text()


def test_the_winner_is_timed_once_and_the_report_says_it(search, timed):
    found = search()
    assert found.milliseconds == {1: 0.125, 32: 4.0}
    assert timed == [1, 32]
    text = (found.folder / "report.html").read_text()
    assert "0.125 ms for 1 image and 4 ms for 32 images (cpu, " in text
    # Gone through again, it is said again and not measured again.
    (found.folder / "report.html").unlink()
    again = search()
    assert (again.milliseconds, again.baseline) == (found.milliseconds, found.baseline)
    assert timed == [1, 32]
    assert (found.folder / "report.html").read_text() == text


def test_without_images_there_is_no_baseline_and_of_a_front_no_point_is_timed(tmp_path, timed):
    def deep(archs):
        return [arch.depth for arch in archs]

    given = {"budget": "0.9..1.1MFLOPs", "evaluator": deep, "trials": 4, "control": 0}
    one = psvit.run_search("psvit-2d-digits", out=tmp_path / "one", **given)
    assert (one.baseline, set(one.milliseconds)) == (None, {1, 32})
    timed.clear()
    several = psvit.run_search("psvit-2d-digits", out=tmp_path / "several", objectives=("score", "macs"), **given)
    assert (several.baseline, several.milliseconds, timed) == (None, {}, [])


def test_a_real_network_takes_some_time(search):
    found = search()
    assert 0 < found.milliseconds[1] < found.milliseconds[32]
