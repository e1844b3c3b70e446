"""Order and augmentation of training images follow from seed and epoch, whoever prepares them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from psvit.errors import InputError
from psvit.train.training_loader import OneByOne, TrainingLoader


class Drawn:
    """Images that show their row and a draw from each of the three global generators."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        drawn = [float(index), random.random(), float(np.random.rand()), torch.rand(1).item()]
        return torch.tensor(drawn), index % 3


def batches(n=50, size=12, repeats=1, workers=0, **wanted):
    loader = TrainingLoader(OneByOne(Drawn(n), workers), size, repeats)
    return [images for images, _ in loader.batches(**{"seed": 1, "epoch": 0, **wanted})]


def test_an_epoch_shows_each_image_once_without_an_incomplete_batch():
    found = batches()
    assert [tuple(images.shape) for images in found] == [(12, 4)] * 4
    rows = torch.cat(found)[:, 0].tolist()
    assert len(set(rows)) == 48
    assert rows != sorted(rows)


def test_labels_stay_with_their_images():
    for images, labels in TrainingLoader(OneByOne(Drawn(50)), 12).batches(1, 0):
        assert labels.tolist() == [int(row) % 3 for row in images[:, 0].tolist()]


def test_every_image_of_every_epoch_is_augmented_differently():
    drawn = torch.cat([images for epoch in range(3) for images in batches(epoch=epoch)])
    for generator in (1, 2, 3):
        assert len(set(drawn[:, generator].tolist())) == len(drawn)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_rest_of_an_epoch_is_that_of_the_whole(start):
    assert torch.equal(torch.stack(batches(start=start)), torch.stack(batches()[start:]))


def test_what_was_drawn_before_does_not_matter_and_nothing_is_left_behind():
    first = batches()
    torch.rand(3), random.random(), np.random.rand(3)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert torch.equal(torch.stack(first), torch.stack(batches()))
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before


def test_no_other_device_is_seeded_for_an_image(monkeypatch):
    expected = batches()

    def refuse(*args):
        pytest.fail("all devices are seeded")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    assert torch.equal(torch.stack(batches()), torch.stack(expected))


def test_processes_that_prepare_batches_change_nothing():
    loader = TrainingLoader(OneByOne(Drawn(50), workers=2), 12)
    for epoch in (0, 1):
        found = [images for images, _ in loader.batches(1, epoch)]
        assert torch.equal(torch.stack(found), torch.stack(batches(epoch=epoch)))
    # An epoch that is not taken to its end leaves nothing for the next.
    next(loader.batches(1, 2))
    found = [images for images, _ in loader.batches(1, 3, start=2)]
    assert torch.equal(torch.stack(found), torch.stack(batches(epoch=3)[2:]))


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_parts_make_up_the_whole_batch(parts):
    whole = batches()
    found = [batches(part=part, parts=parts) for part in range(parts)]
    for step, images in enumerate(whole):
        together = torch.cat([part[step] for part in found])
        assert all(len(part[step]) == 12 // parts for part in found)
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, images.tolist()))


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_pair_first_and_last_as_the_whole_batch_does(parts):
    for step, images in enumerate(batches()):
        pairs = {(one, other) for one, other in zip(images[:, 0].tolist(), images.flip(0)[:, 0].tolist(), strict=True)}
        for part in range(parts):
            here = batches(part=part, parts=parts)[step][:, 0]
            assert set(zip(here.tolist(), here.flip(0).tolist(), strict=True)) <= pairs


def test_several_parts_come_one_after_the_other():
    found = batches(part=2, taken=2, parts=4)
    expected = [
        images for pair in zip(batches(part=2, parts=4), batches(part=3, parts=4), strict=True) for images in pair
    ]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_repeated_augmentation_shows_fewer_images_several_times():
    found = torch.cat(batches(n=60, repeats=3))
    rows = found[:, 0].tolist()
    assert len(rows) == 60
    assert all(rows.count(row) == 3 for row in rows)
    assert len(set(found[:, 1].tolist())) == 60
    # Another epoch shows others.
    assert set(rows) != set(torch.cat(batches(n=60, repeats=3, epoch=1))[:, 0].tolist())


@pytest.mark.parametrize(
    ("parts", "mixes", "fits"),
    [(4, False, True), (12, False, True), (5, False, False), (6, True, True), (4, True, False)],
)
def test_batches_are_cut_in_equal_parts_or_refused(parts, mixes, fits):
    loader = TrainingLoader(OneByOne(Drawn(50)), 12)
    if fits:
        loader.check(parts, mixes)
        return
    with pytest.raises(InputError, match=f"accumulate, {parts}.*received 12"):
        loader.check(parts, mixes)
