"""Predictions: three numbers an image, the same as looking at each image alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from psvit.data import Batches, Inputs, accuracy
from psvit.model import PSViT
from psvit.retrain.report.predictions import Predictions, predict

CPU = torch.device("cpu")


@pytest.fixture
def batches(make_data):
    data = make_data()
    return Batches(data.val, Inputs.of(data, (8, 8)), 8, CPU)


@pytest.fixture
def network(found):
    torch.manual_seed(0)
    return PSViT(found.arch).eval()


def test_they_are_what_looking_at_each_image_alone_gives(network, batches):
    predictions = predict(network, batches)
    place = 0
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            with torch.no_grad():
                odds = [math.exp(value) for value in network(image[None])[0].double().tolist()]
            shares = [value / sum(odds) for value in odds]
            assert predictions.labels[place] == label
            assert predictions.said[place] == shares.index(max(shares))
            assert predictions.probabilities[place] == pytest.approx(max(shares), abs=1e-5)
            assert predictions.losses[place] == pytest.approx(-math.log(shares[label]), abs=1e-5)
            place += 1
    assert place == len(predictions.labels) == 30


def test_the_accuracy_is_that_of_the_usual_function(network, batches):
    assert predict(network, batches).accuracy == accuracy(network, batches)


def test_the_network_sees_every_image_once(network, batches):
    seen = []
    network.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    predict(network, batches)
    assert seen == [8, 8, 8, 6]


def test_outputs_are_not_kept():
    # One number each of 50,000 images and 1,000 classes would be 200 MB.
    kept = Predictions(*(np.zeros(50_000, dtype=kind) for kind in (np.int64, np.int64, np.float32, np.float32)))
    assert sum(values.nbytes for values in vars(kept).values()) < 2_000_000


def test_the_most_wrong_are_those_whose_true_class_is_least_probable():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(300, 5), scale=3.0)).float()
    labels = torch.from_numpy(rng.integers(0, 5, size=300))
    shares = logits.softmax(dim=1)
    probabilities, said = shares.max(dim=1)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    predictions = Predictions(*(values.numpy() for values in (labels, said, probabilities, losses)))
    expected = sorted(
        (place for place in range(300) if int(logits[place].argmax()) != int(labels[place])),
        key=lambda place: (float(shares[place, labels[place]]), place),
    )
    assert predictions.most_wrong(24).tolist() == expected[:24]
    assert predictions.most_wrong(1000).tolist() == expected


def test_of_equal_losses_the_first_image_comes_first_and_what_is_right_never():
    losses = np.array([5.0, 1.0, 2.0, 2.0, 9.0], dtype=np.float32)
    predictions = Predictions(np.zeros(5, np.int64), np.array([0, 1, 1, 2, 0]), losses, losses)
    assert predictions.most_wrong(10).tolist() == [2, 3, 1]
