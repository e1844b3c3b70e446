"""The report of a retraining: what it says and shows, in which order, and that names from data stay text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from psvit.arch.costs import cost
from psvit.data import Labelled
from psvit.data.images import OfDataset
from psvit.retrain.report.document import IMAGES, SHOWN_CLASSES
from psvit.space.budget import format_cost

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'"

MOST_BYTES = 1_500_000


class Page(HTMLParser):
    """What a test looks at: elements in order, the cells of tables, the images, and the text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self._words: list[str] = []
        self._silent = self._cell = False
        self.feed(document)
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._silent = True
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._silent = False
        elif tag in ("td", "th"):
            self._cell = False
        self._words.append(" ")

    def handle_data(self, data):
        if self._cell:
            self.tables[-1][-1][-1] += data
        if not self._silent:
            self._words.append(data)

    @property
    def sections(self):
        return [attributes["id"] for tag, attributes in self.elements if tag == "h2"]

    @property
    def images(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def pixels(self, place):
        data = base64.b64decode(self.images[place]["src"].partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def made(made_up_data, made_up_predictions, page_of):
    """Makes images in so many classes or with these names, what is said of them, and the page about that."""

    def make(classes, right=0.7, data=None, **options):
        names = [f"class {number}" for number in range(classes)] if isinstance(classes, int) else classes
        data = data or made_up_data(names, **{key: options.pop(key) for key in ("size", "in_chans") if key in options})
        predictions = made_up_predictions(data, right)
        return data, predictions, page_of(data, predictions, **options)

    return make


def test_the_order_is_from_the_result_to_how_it_was_trained(made):
    _, _, document = made(5)
    assert Page(document).sections == ["costs", "next", "confusion", "mistakes", "curve", "how"]
    assert Page(made(SHOWN_CLASSES + 1)[2]).sections == [
        "costs",
        "next",
        "confusion",
        "classes",
        "mistakes",
        "curve",
        "how",
    ]


def test_accuracies_costs_and_the_next_command_stand_first(made, found):
    _, predictions, document = made(3, folder=Path("runs/with space"))
    page = Page(document)
    value = f"{predictions.accuracy:.2f} %"
    _, *rows = page.tables[0]
    assert [row[-1] for row in rows] == ["91.25 %", "12.50 %", value, "33.25 %"]
    assert f"Top-1 {value}" in page.text
    for metric in ("macs", "num_params", "activation_bytes"):
        assert format_cost(metric, getattr(cost(found.arch), metric)) in page.text
    assert "psvit-export 'runs/with space' --to onnx" in page.text
    assert "latency" not in page.text


def test_latencies_are_shown_if_they_are_known(made):
    times = {"5ms@cpu:batch=8": {"predicted_ms": 4.25, "measured_ms": 4.5, "iqr_ms": 0.1}, "odd": None}
    text = Page(made(3, latency=times)[2]).text
    assert "latency, 5ms@cpu:batch=8 4.5 ms measured and 4.25 ms predicted" in text
    assert "latency, odd \N{EN DASH}" in text


def test_how_it_was_trained_is_said(made):
    text = Page(made(3, inherited=True, teacher={"name": "a teacher", "digest": "0"})[2]).text
    assert "from inherited weights for 3 epochs on 200 images, taught by a teacher" in text
    assert "seed: 3" in text


@pytest.mark.parametrize("classes", [2, 10, SHOWN_CLASSES])
def test_the_matrix_holds_the_counts_and_how_many_of_each_class_are_recognised(made, classes):
    data, predictions, document = made(classes)
    (matrix,) = Page(document).tables[1:]
    header, *rows, last = matrix
    expected = confusion_matrix(predictions.labels, predictions.said, labels=range(classes))
    assert header[1:-2] == list(data.classes) == [row[0] for row in rows]
    assert [[int(cell or 0) for cell in row[1:-2]] for row in rows] == expected.tolist()
    assert [int(row[-2]) for row in rows] == expected.sum(axis=1).tolist()
    recalls = expected.diagonal() / expected.sum(axis=1)
    assert [float(row[-1].removesuffix(" %")) for row in rows] == pytest.approx(100 * recalls, abs=0.051)
    assert last[0] == "right of these"
    said = expected.sum(axis=0)
    for cell, right, all_said in zip(last[1:-2], expected.diagonal(), said, strict=True):
        assert cell == (f"{100 * right / all_said:.0f} %" if all_said else "\N{EN DASH}")


def test_of_many_classes_the_commonest_mistakes_are_listed_instead(made):
    data, predictions, document = made(SHOWN_CLASSES + 1, right=0.4)
    page = Page(document)
    _, mistakes, worst = page.tables
    expected = confusion_matrix(predictions.labels, predictions.said, labels=range(len(data.classes)))
    wrong = expected - np.diag(expected.diagonal())
    assert [int(row[2]) for row in mistakes[1:]] == sorted(wrong.ravel().tolist(), reverse=True)[:20]
    for true, said, number, share in mistakes[1:]:
        row, column = (data.classes.index(name) for name in (true, said))
        assert wrong[row, column] == int(number)
        assert float(share.removesuffix(" %")) == pytest.approx(100 * int(number) / expected[row].sum(), abs=0.051)
    recalls = [float(row[2].removesuffix(" %")) for row in worst[1:]]
    assert recalls == sorted(recalls)
    images = expected.sum(axis=1)
    assert recalls[0] == pytest.approx(100 * min(expected.diagonal()[images > 0] / images[images > 0]), abs=0.051)
    assert "31 classes could not be read here" in page.text


def test_the_images_are_those_that_are_most_wrong_in_that_order(made):
    data, predictions, document = made(4, right=0.5)
    page = Page(document)
    wrong = [at for at in range(len(data.val)) if predictions.said[at] != predictions.labels[at]]
    expected = sorted(wrong, key=lambda at: -predictions.losses[at])[:IMAGES]
    assert len(wrong) > len(page.images) == IMAGES
    for place, at in enumerate(expected):
        np.testing.assert_array_equal(page.pixels(place), np.asarray(data.val[at][0]))
        true, said = (data.classes[classes[at]] for classes in (predictions.labels, predictions.said))
        assert page.images[place]["alt"] == f"{true}, said to be {said}"
        assert page.images[place]["class"] == "magnified"
        probability = f"{100 * predictions.probabilities[at]:.1f} %"
        name = "/".join(Path(data.val.path(at)).parts[-2:])
        assert f"says {said} ({probability}) true: {true} (" in page.text
        assert name in page.text
    assert f"The {IMAGES} of {len(wrong)}" in page.text


def test_fewer_mistakes_are_all_shown(made):
    _, predictions, document = made(4, right=0.98)
    wrong = int((predictions.said != predictions.labels).sum())
    assert 0 < wrong < IMAGES
    assert len(Page(document).images) == wrong


def test_where_nothing_is_wrong_no_images_are_shown(made):
    page = Page(made(4, right=1.0)[2])
    assert "All validation images are recognised." in page.text
    assert page.images == []
    assert "mistakes" not in page.sections
    assert "Top-1 100.00 %" in page.text


def test_images_of_a_data_set_are_shown_with_their_numbers(made, made_up_data):
    data = made_up_data(["a", "b"], in_chans=3)
    pairs = [(np.asarray(data.val[at][0]), int(data.val.labels[at])) for at in range(len(data.val))]
    of_dataset = Labelled(OfDataset(pairs, "RGB", "mine"), data.val.labels)
    data = type(data)(**{**vars(data), "val": of_dataset})
    _, predictions, document = made(2, data=data)
    page = Page(document)
    (worst, *_) = predictions.most_wrong(1)
    np.testing.assert_array_equal(page.pixels(0), pairs[worst][0])
    assert f"image {worst}" in page.text


def test_the_curve_names_its_ends_and_a_single_epoch_has_one_too(made):
    curves = [
        next(a for tag, a in Page(made(3, losses=losses)[2]).elements if tag == "div" and a.get("class") == "curve")
        for losses in ([2.5, 1.75], [2.5])
    ]
    assert [label["aria-label"] for label in curves] == [
        "The loss over 2 epochs, 2.5 in the first and 1.75 in the last.",
        "The loss over 1 epoch, 2.5 in the first and 2.5 in the last.",
    ]


@pytest.mark.parametrize("others", [0, SHOWN_CLASSES])
def test_text_from_the_data_stays_text(made, others):
    names = [HOSTILE, "plain", *(f"class {number}" for number in range(others))]
    plain = Page(made(["x", *names[1:]])[2])
    teacher = {"name": HOSTILE, "digest": "0"}
    document = made(names, latency={HOSTILE: {"measured_ms": 1.0}}, teacher=teacher, folder=Path(HOSTILE))[2]
    page = Page(document)
    assert [tag for tag, _ in page.elements if tag in ("img", "script")] == [
        tag for tag, _ in plain.elements if tag in ("img", "script")
    ]
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert "<img src=x" not in document
    assert "<i>" not in document
    assert HOSTILE[:39] in page.text


def test_nothing_is_loaded_from_anywhere(made):
    page = Page(made(3)[2])
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "audio", "video", "base", "form"), tag
        assert (attributes.get("src") or "data:").startswith("data:"), tag
        assert (attributes.get("href") or "data:").startswith("data:"), tag
    (policy,) = (a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")


def test_no_page_is_large(made):
    # Noise cannot be compressed, and no page has more images, cells of a matrix or longer names.
    names = [f"{number} {'<' * 200}" for number in range(SHOWN_CLASSES)]
    document = made(names, right=0.1, size=(300, 300), in_chans=3, losses=[1.0 / n for n in range(1, 1001)])[2]
    assert len(Page(document).images) == IMAGES
    assert len(document.encode()) < MOST_BYTES


def test_equal_reports_are_equal(made):
    assert made(5)[2] == made(5)[2]
