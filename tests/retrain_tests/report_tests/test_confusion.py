"""Confusion: counts that scikit-learn finds too, tables of mistakes, and a file that can be read back."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from psvit.errors import InputError
from psvit.retrain.report import confusion as module
from psvit.retrain.report.confusion import Confusion, read_matrix


def draw(classes: int, images: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size=images)
    return labels, np.where(rng.random(images) < 0.6, labels, rng.integers(0, classes, size=images))


@pytest.mark.parametrize("classes", [2, 7, 40])
def test_the_matrix_is_scikit_learns(classes):
    labels, said = draw(classes)
    found = Confusion.of(labels, said, [str(one) for one in range(classes)])
    expected = confusion_matrix(labels, said, labels=range(classes))
    np.testing.assert_array_equal(found.matrix, expected)
    np.testing.assert_array_equal(found.of_class, expected.sum(axis=1))
    np.testing.assert_array_equal(found.said_to_be, expected.sum(axis=0))
    np.testing.assert_array_equal(found.right, expected.diagonal())


def test_mistakes_are_counted_and_the_commonest_comes_first():
    labels, said = draw(6)
    found = Confusion.of(labels, said, list("abcdef"))
    counts = Counter((true, other) for true, other in zip(labels.tolist(), said.tolist(), strict=True) if true != other)
    expected = sorted(((*pair, times) for pair, times in counts.items()), key=lambda one: (-one[2], one[:2]))
    assert found.mistaken(1000) == expected
    assert found.mistaken(3) == expected[:3]
    for true in range(6):
        own = [one for one in expected if one[0] == true]
        assert found.commonest_mistake(true) == own[0][1:]


def test_the_hardest_class_is_the_one_that_is_recognised_least():
    found = Confusion.of(np.array([0, 0, 1, 1, 1, 3]), np.array([0, 0, 1, 0, 0, 0]), list("abcd"))
    # Of the third class there are no images, of which no part can be recognised.
    assert found.hardest(10) == [3, 1, 0]
    assert found.commonest_mistake(0) is None
    assert found.commonest_mistake(3) == (0, 1)


def test_the_file_has_a_row_for_each_true_class_and_is_read_back(tmp_path):
    names = ["plain", "with, comma", 'with "quotes"', "two\nlines"]
    labels, said = draw(4)
    found = Confusion.of(labels, said, names)
    found.write(tmp_path)
    with (tmp_path / "confusion.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["true class", *names]
    assert [row[0] for row in rows] == names
    assert [list(map(int, row[1:])) for row in rows] == confusion_matrix(labels, said).tolist()
    np.testing.assert_array_equal(read_matrix(tmp_path), found.matrix)


def test_of_too_many_classes_no_file_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 5)
    labels, said = draw(6)
    Confusion.of(labels, said, list("abcdef")).write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"confusion\.csv: cannot be read: .*more than 5 classes"):
        read_matrix(tmp_path)


def test_of_many_classes_only_what_occurs_is_kept():
    # As a matrix it would take 80 GB.
    found = Confusion.of(np.array([99_999, 3]), np.array([3, 3]), [""] * 100_000)
    assert (found.mistaken(5), found.hardest(1)) == ([(99_999, 3, 1)], [99_999])
    assert len(found.counts) == 2


@pytest.mark.parametrize("text", ["", "true class,a\na,many\n", "true class,a,b\na,1,2\nb,1\n"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(InputError, match=r"confusion\.csv: does not hold a confusion matrix"):
        read_matrix(tmp_path)
