"""Halving: networks are trained on training images, compared on search images, and the better ones go on."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from psvit.arch.costs import cost
from psvit.data import Batches, Inputs, accuracy, open_data
from psvit.errors import DivergedError
from psvit.executors.executor import LocalExecutor, Portable
from psvit.model import PSViT
from psvit.search.result_cache import ResultCache, StudyStore
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.halving import Trainings, select
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget
from psvit.supernet.supernet import Supernet
from psvit.train import job_runner
from psvit.train.job_runner import JobRunner, right_and_loss
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification

CPU = torch.device("cpu")

EPOCHS = 4
"""The rungs are after 1 and 4 of these epochs."""


@pytest.fixture(scope="module")
def data():
    """Few of the digits."""
    digits = open_data("digits")
    few = {"train": 64, "search": 64, "verdict": 40}
    return replace(digits, **{name: getattr(digits, name).take(np.arange(number)) for name, number in few.items()})


@pytest.fixture
def recipe():
    changes = {"epochs": EPOCHS, "warmup_epochs": 0, "ema_decay": None, "batch_size": 32}
    return Recipe.load("digits").override(changes)


@pytest.fixture
def entering(digits_space):
    """Makes finalists, the best score first; those at some places are references."""

    def make(number=4, references=(3,)):
        # Small ones, which are trained soon.
        archs = digits_space.sample(np.random.default_rng(0), number, Budget.parse("0..0.5MFLOPs"))
        return [
            Finalist(
                trial=Trial(
                    number=20 - i,
                    arch=arch,
                    cost=cost(arch),
                    score=Score(value=50.0 - i),
                    origin="reference" if i in references else "uniform",
                ),
                name=f"PiT-like {i}" if i in references else "",
                latencies={"cpu": {"predicted_ms": float(i)}},
            )
            for i, arch in enumerate(archs)
        ]

    return make


@pytest.fixture
def network_of(digits_space):
    """Networks with the weights that they inherit."""
    torch.manual_seed(0)
    supernet = Supernet(digits_space)
    return supernet.extract


@pytest.fixture
def selected(entering, network_of, data, recipe, cache, tmp_path):
    """Selects; whatever a test needs otherwise is given."""

    def with_changes(finalists=None, network=None, recipe=recipe, data=data, seed=5, cache=cache, init="some"):
        runner = JobRunner(
            data=Portable(lambda: data),
            device="cpu",
            folder=tmp_path / "selection",
            initial=lambda job: (network or network_of)(job.arch),
            parts=("search", "verdict"),
        )
        trainings = Trainings(recipe=recipe, init=init, seed=seed)
        told = select(finalists or entering(), trainings, runner, LocalExecutor(), StudyStore(cache))
        left = {path.name for path in runner.folder.iterdir()} if runner.folder.exists() else set()
        needed = {runner.place(job).name for job in trainings.jobs(told[0].arch, trainings.rungs[-1])}
        assert left <= needed, "what trainings needed is of no use any more, but for the winner's"
        shutil.rmtree(runner.folder, ignore_errors=True)
        return told

    return with_changes


@pytest.fixture
def trained(monkeypatch):
    """What is trained: the seed and the epoch at which it pauses, in order."""
    calls, train = [], job_runner.train

    def remember(task, loader, recipe, *, seed, until, **kwargs):
        calls.append((seed, until))
        return train(task, loader, recipe, seed=seed, until=until, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    return calls


@pytest.fixture
def scripted(monkeypatch):
    """Gives networks accuracies in the order in which they are scored on the search images."""

    def use(accuracies, images=64):
        left = iter(accuracies)

        def scored(network, batches):
            if batches.num_images != images:
                return np.ones(batches.num_images, dtype=np.bool_), 1.0
            return np.arange(images) < next(left), 1.0

        monkeypatch.setattr(job_runner, "right_and_loss", scored)

    return use


def looks_of(finalist):
    return [(look.epoch, len(look.accuracies)) for look in finalist.looks]


def test_a_third_goes_on_and_the_last_rung_has_three_seeds(selected, entering, trained):
    finalists = entering(7, references=(6,))
    told = selected(finalists)
    assert {one.trial.number for one in told} == {one.trial.number for one in finalists}
    first = sorted(finalists, key=lambda one: [other.trial for other in told].index(one.trial))
    assert trained[:7] == [(5, 1)] * 7
    ends = [looks_of(one) for one in told]
    last = sum(end == [(1, 1), (EPOCHS, 3)] for end in ends)
    # Three of seven, and the reference if it is none of them.
    assert last in (3, 4)
    assert ends == [[(1, 1), (EPOCHS, 3)]] * last + [[(1, 1)]] * (7 - last)
    assert trained[7:] == [(seed, None) for seed in (5, 6, 7) for _ in range(last)]
    racing, out = told[:last], told[last:]
    for some in (racing, out):
        means = [one.accuracy for one in some]
        assert means == sorted(means, reverse=True)
    # Whoever was left behind had less than everyone that went on, but for the reference.
    assert max(one.accuracy for one in out) <= min(one.looks[0].mean for one in racing if not one.is_reference)
    for one, before in zip(told, first, strict=True):
        assert (one.latencies, one.name) == (before.latencies, before.name)
    assert told[0].spread == pytest.approx(np.std(told[0].accuracies, ddof=1))


def test_the_best_reference_and_the_best_other_are_in_the_last_rung(selected, entering, scripted):
    # The references, at places 4 and 5, are the worst at the first rung; and then the best.
    scripted([60, 50, 40, 30, 10, 20, *[30, 31, 50] * 3])
    finalists = entering(6, references=(4, 5))
    told = selected(finalists)
    assert [one.trial for one in told] == [finalists[place].trial for place in (5, 1, 0, 2, 3, 4)]
    # And the other way round: only references lead, the best of the others goes on with them.
    scripted([10, 20, 60, 50, 40, 30, *[30, 31, 32] * 3])
    finalists = entering(6, references=(2, 3, 4, 5))
    told = selected(finalists, seed=90)
    assert [one.trial for one in told] == [finalists[place].trial for place in (1, 3, 2, 4, 5, 0)]


def test_equal_ones_keep_their_order(selected, entering, scripted):
    scripted([30] * 100)
    finalists = entering(4, references=())
    assert [one.trial for one in selected(finalists)] == [one.trial for one in finalists]


def test_accuracies_are_those_on_the_search_images_and_answers_those_on_the_verdicts(
    selected, data, entering, monkeypatch, cache, recipe
):
    networks = []

    def remember(network, batches):
        right, loss = right_and_loss(network, batches)
        networks.append((network, batches.num_images, right))
        return right, loss

    monkeypatch.setattr(job_runner, "right_and_loss", remember)
    told = selected(entering(2, references=(1,)))
    inputs = Inputs.of(data, told[0].arch.image_size)
    for network, images, right in networks:
        assert isinstance(network, PSViT)
        if images == 64 and network is networks[-2][0]:
            assert 100 * right.mean() == accuracy(network, Batches(data.search, inputs, 10, CPU))
    # In the first rung nobody looks at the verdict images.
    assert [images for _, images, _ in networks] == [64, 64, *[64, 40] * 6]
    trainings = Trainings(recipe=recipe, init="some", seed=5)
    kept = [
        StudyStore(cache).get(job).right["verdict"]
        for one in told
        for job in trainings.jobs(one.arch, trainings.rungs[-1])
    ]
    seen = [right for _, images, right in networks if images == 40]
    assert sorted(map(tuple, kept)) == sorted(map(tuple, seen))


def test_validation_images_are_not_looked_at(selected, data, entering):
    finalists = entering(2)
    without = replace(data, val=None)
    assert selected(finalists, data=without, cache=ResultCache(optuna.create_study())) == selected(finalists)


def test_training_begins_with_the_given_weights_and_learns_from_there(selected, network_of, recipe, data):
    # With a learning rate of next to nothing a network scores what it inherits.
    for one in selected(recipe=recipe.override({"lr": 1e-12, "min_lr": 0.0})):
        inherited = accuracy(
            network_of(one.arch).eval(), Batches(data.search, Inputs.of(data, one.arch.image_size), 32, CPU)
        )
        assert {value for look in one.looks for value in look.accuracies} == {inherited}


def test_what_is_known_is_not_trained_again(selected, entering, trained, digits_space):
    finalists = entering(2, references=(1,))
    first = selected(finalists)
    assert len(trained) == 2 + 6
    assert selected(finalists) == first
    assert len(trained) == 8
    # Of other finalists only those that are new.
    (arch,) = digits_space.sample(np.random.default_rng(1), 1)
    other = replace(finalists[0], trial=replace(finalists[0].trial, arch=arch, number=3))
    selected([*finalists, other])
    assert trained[8] == (5, 1)
    # The number of a trial decides nothing: in another study it is another architecture's.
    trained.clear()
    renumbered = [replace(one, trial=replace(one.trial, number=99 - one.trial.number)) for one in finalists]
    told = selected(renumbered)
    assert {one.arch: one.accuracies for one in told} == {one.arch: one.accuracies for one in first}
    assert trained == []


def test_a_network_that_goes_on_continues_where_it_paused(selected, entering, recipe, monkeypatch):
    steps, losses = [], Classification.losses

    def remember(self, images, targets, smoothing, step):
        steps.append(step)
        return losses(self, images, targets, smoothing, step)

    monkeypatch.setattr(Classification, "losses", remember)
    finalists = entering(2, references=())
    told = selected(finalists)
    # Two steps an epoch: to the rung after the first, then from there to the end, and whole for two other seeds.
    whole = list(range(8))
    assert steps == [0, 1, 0, 1, *whole[2:] * 2, *whole * 4]
    # What it reaches is what a training without a pause reaches.
    alone = selected(finalists, recipe=recipe.override({"opt_eps": 1e-8}), cache=ResultCache(optuna.create_study()))
    assert [one.accuracies for one in alone] == [one.accuracies for one in told]


def test_an_interrupted_selection_continues_as_if_it_had_not_been(selected, entering, network_of, trained):
    finalists = entering(2, references=(1,))
    whole = selected(finalists, cache=ResultCache(optuna.create_study()))
    for stopped_at in (1, 3, 5, 8):
        trained.clear()
        cache = ResultCache(optuna.create_study())

        def stopping(arch, at=stopped_at):
            if len(trained) == at - 1:
                raise KeyboardInterrupt
            return network_of(arch)

        with pytest.raises(KeyboardInterrupt):
            selected(finalists, network=stopping, cache=cache)
        assert selected(finalists, cache=cache) == whole
        assert len(trained) == 8


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            DivergedError("training diverged: the loss is nan in epoch 1"),
            "training diverged: the loss is nan in epoch 1",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory. Tried"),
    ],
)
def test_a_finalist_that_fails_comes_last_and_the_others_go_on(selected, entering, trained, monkeypatch, error, reason):
    remembering = job_runner.train
    finalists = entering(3, references=())

    def failing(task, *args, seed, until, **kwargs):
        if task.model.arch == finalists[0].arch and seed == 6:
            raise error
        return remembering(task, *args, seed=seed, until=until, **kwargs)

    monkeypatch.setattr(job_runner, "train", failing)
    # It is good at the first rung, where nothing fails.
    scored = job_runner.right_and_loss

    def favoured(network, batches):
        right, loss = scored(network, batches)
        return (np.ones_like(right), loss) if network.arch == finalists[0].arch else (right, loss)

    monkeypatch.setattr(job_runner, "right_and_loss", favoured)
    told = selected(finalists)
    assert [one.failure for one in told] == ["", "", reason]
    assert told[-1].trial == finalists[0].trial
    assert looks_of(told[0]) == [(1, 1), (EPOCHS, 3)]
    assert told[-1].to_dict()["failed"] == reason
    assert "failed" not in told[0].to_dict()
    # It may have been the machine's doing: what failed is tried again, and nothing else.
    monkeypatch.setattr(job_runner, "train", remembering)
    trained.clear()
    again = selected(finalists)
    assert trained == [(6, None), (7, None)]
    assert again[0].trial == finalists[0].trial
    assert [one.failure for one in again] == [""] * 3


def test_where_all_fail_the_order_of_the_search_stands(selected, entering, recipe):
    finalists = entering(3)
    told = selected(finalists, recipe=recipe.override({"lr": 1e30, "clip_grad": None}))
    assert [one.trial for one in told] == [one.trial for one in finalists]
    assert all(one.failure.startswith("training diverged") for one in told)


def test_an_error_that_is_nobodys_fault_but_ours_is_raised(selected, monkeypatch):
    monkeypatch.setattr(job_runner, "right_and_loss", lambda network, batches: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        selected()


def test_other_trainings_have_other_results(selected, entering, recipe, trained):
    finalists = entering(2)
    recipe = recipe.override({"epochs": 1})  # one rung
    changes = [{}, {"seed": 50}, {"recipe": recipe.override({"lr": 0.5})}, {"init": "other"}]
    for number, change in enumerate(changes, start=1):
        selected(finalists, **{"recipe": recipe, **change})
        assert len(trained) == 6 * number
