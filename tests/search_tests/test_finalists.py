"""Finalists: trained briefly with three seeds on training images, compared on search images, known to their study."""

from __future__ import annotations

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
from psvit.search.finalists import SEEDS, Finalist, brief, train_finalists
from psvit.search.result_cache import ResultCache, StudyStore
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget
from psvit.supernet.supernet import Supernet
from psvit.train import job_runner
from psvit.train.job_runner import JobRunner, accuracy_and_loss
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification
from psvit.train.training_job import TrainingJob

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    """Few of the digits."""
    digits = open_data("digits")
    few = {name: getattr(digits, name).take(np.arange(96)) for name in ("train", "search")}
    return replace(digits, **few)


@pytest.fixture
def recipe():
    return brief(Recipe.load("digits")).override({"batch_size": 32})


@pytest.fixture
def best(digits_space):
    """Three finalists, the best first; small ones, which are trained soon."""
    archs = digits_space.sample(np.random.default_rng(0), 3, Budget.parse("0..0.5MFLOPs"))
    return [
        Finalist(
            trial=Trial(number=7 - i, arch=arch, cost=cost(arch), score=Score(value=50.0 - i)),
            latencies={"cpu": {"predicted_ms": float(i)}},
        )
        for i, arch in enumerate(archs)
    ]


@pytest.fixture
def network_of(digits_space):
    """Networks with the weights that they inherit."""
    torch.manual_seed(0)
    supernet = Supernet(digits_space)
    return supernet.extract


@pytest.fixture
def train(best, network_of, data, recipe, cache, tmp_path):
    """Trains the finalists; whatever a test needs otherwise is given."""

    def with_changes(finalists=None, network=None, recipe=recipe, data=data, seed=5, cache=cache):
        runner = JobRunner(
            data=Portable(lambda: data),
            device="cpu",
            folder=tmp_path / "finalists",
            initial=lambda job: (network or network_of)(job.arch),
        )
        told = train_finalists(
            finalists or best, runner, LocalExecutor(), StudyStore(cache), recipe=recipe, init="some", seed=seed
        )
        assert not runner.folder.exists(), "what trainings needed is of no use any more"
        return told

    return with_changes


@pytest.fixture
def trained(monkeypatch):
    """What is trained: the seeds, in order."""
    seeds, train = [], job_runner.train

    def remember(task, loader, recipe, *, seed, **kwargs):
        seeds.append(seed)
        return train(task, loader, recipe, seed=seed, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    return seeds


def test_a_brief_recipe_is_a_twentieth_without_what_takes_longer():
    recipe = Recipe.load("imagenet")
    short = brief(recipe)
    assert short.epochs == round(recipe.epochs / 20)
    assert (short.warmup_epochs, short.ema_decay) == (0, None)
    assert (
        short.override({"epochs": recipe.epochs, "warmup_epochs": recipe.warmup_epochs, "ema_decay": recipe.ema_decay})
        == recipe
    )
    assert brief(recipe.override({"epochs": 3, "warmup_epochs": 0})).epochs == 1


def test_every_finalist_is_trained_three_times_and_the_best_mean_comes_first(train, best, trained):
    told = train()
    assert trained == [5, 6, 7] * 3
    assert {one.trial.number for one in told} == {one.trial.number for one in best}
    means = [np.mean(one.accuracies) for one in told]
    assert means == sorted(means, reverse=True)
    for one in told:
        assert len(one.accuracies) == SEEDS == 3
        assert len(set(one.accuracies)) > 1  # another order of the images gives another network
        assert one.accuracy == pytest.approx(np.mean(one.accuracies))
        assert one.spread == pytest.approx(np.std(one.accuracies, ddof=1))
        (before,) = (other for other in best if other.trial == one.trial)
        assert one.latencies == before.latencies
        assert one.to_dict() == {
            "trial": one.trial.number,
            "inherited": one.trial.score.value,
            "accuracies": list(one.accuracies),
            "macs": one.trial.cost.macs,
            "num_params": one.trial.cost.num_params,
        }


def test_equal_means_keep_their_order(train, best, monkeypatch):
    monkeypatch.setattr(job_runner, "accuracy_and_loss", lambda network, batches: (50.0, 1.0))
    assert [one.trial for one in train()] == [one.trial for one in best]


def test_accuracies_are_those_on_the_search_images(train, best, data, monkeypatch):
    networks = []

    def remember(network, batches):
        networks.append((network, accuracy_and_loss(network, batches)[0]))
        return networks[-1][1], 1.0

    monkeypatch.setattr(job_runner, "accuracy_and_loss", remember)
    told = train()
    inputs = Inputs.of(data, best[0].trial.arch.image_size)
    for network, found in networks:
        assert found == accuracy(network, Batches(data.search, inputs, 10, CPU))
    assert sorted(found for _, found in networks) == sorted(value for one in told for value in one.accuracies)
    assert [isinstance(network, PSViT) for network, _ in networks] == [True] * 9


def test_validation_images_are_not_looked_at(train, data):
    assert train(data=replace(data, val=None), cache=ResultCache(optuna.create_study())) == train()


def test_training_begins_with_the_inherited_weights_and_learns_from_there(train, network_of, recipe, data):
    # With a learning rate of next to nothing a network scores what it inherits.
    told = train(recipe=recipe.override({"lr": 1e-12, "min_lr": 0.0}))
    for one in told:
        inherited = accuracy(
            network_of(one.trial.arch).eval(), Batches(data.search, Inputs.of(data, one.trial.arch.image_size), 32, CPU)
        )
        assert set(one.accuracies) == {inherited}


def test_what_is_known_is_not_trained_again(train, best, trained, digits_space, tmp_path):
    first = train()
    assert len(trained) == 9
    assert train() == first
    assert len(trained) == 9
    # Of other finalists only those that are new.
    assert [one.trial for one in train(finalists=best[:1])] == [best[0].trial]
    (arch,) = digits_space.sample(np.random.default_rng(1), 1)
    other = replace(best[0], trial=replace(best[0].trial, arch=arch))
    train(finalists=[*best[:2], other])
    assert trained[9:] == [5, 6, 7]
    # The number of a trial decides nothing: in another study it is another architecture's.
    renumbered = [replace(one, trial=replace(one.trial, number=9 - one.trial.number)) for one in best]
    told = train(finalists=renumbered)
    assert {one.trial.arch: one.accuracies for one in told} == {one.trial.arch: one.accuracies for one in first}
    assert len(trained) == 12
    assert not (tmp_path / "finalists").exists()


def test_interrupted_trainings_continue_as_if_they_had_not_been(train, network_of, trained):
    whole = train(cache=ResultCache(optuna.create_study()))
    for stopped_at in (1, 4, 9):
        trained.clear()
        cache = ResultCache(optuna.create_study())

        def stopping(arch, at=stopped_at):
            if len(trained) == at - 1:
                raise KeyboardInterrupt
            return network_of(arch)

        with pytest.raises(KeyboardInterrupt):
            train(network=stopping, cache=cache)
        assert train(cache=cache) == whole
        assert len(trained) == 9


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
def test_a_finalist_that_fails_comes_last_and_the_others_go_on(train, best, trained, monkeypatch, error, reason):
    remembering = job_runner.train

    def failing(task, *args, description, **kwargs):
        if description == "finalists, training 2 of 9":
            trained.append(None)
            raise error
        return remembering(task, *args, description=description, **kwargs)

    monkeypatch.setattr(job_runner, "train", failing)
    told = train()
    assert trained == [5, None, *[5, 6, 7] * 2]
    assert [one.failure for one in told] == ["", "", reason]
    assert (told[2].trial, told[2].accuracies, told[2].accuracy) == (best[0].trial, (), None)
    assert told[2].to_dict()["failed"] == reason
    assert "failed" not in told[0].to_dict()
    # It may have been the machine's doing: what failed is tried again, and nothing else.
    monkeypatch.setattr(job_runner, "train", remembering)
    again = train()
    assert trained[8:] == [6, 7]
    assert [one.failure for one in again] == ["", "", ""]
    accuracies = {one.trial.number: one.accuracies for one in again}
    assert all(accuracies[one.trial.number] == one.accuracies for one in told[:2])


def test_where_all_finalists_fail_the_order_of_the_search_stands(train, best):
    wild = brief(Recipe.load("digits")).override({"batch_size": 32, "lr": 1e30, "clip_grad": None})
    told = train(recipe=wild)
    assert [one.trial for one in told] == [one.trial for one in best]
    assert all(one.failure.startswith("training diverged") for one in told)


def test_an_error_that_is_nobodys_fault_but_ours_is_raised(train, monkeypatch):
    monkeypatch.setattr(job_runner, "accuracy_and_loss", lambda network, batches: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()


def test_a_training_that_was_begun_is_finished(train, best, data, recipe, tmp_path, monkeypatch):
    """From its last checkpoint, not from the beginning."""
    recipe = recipe.override({"epochs": 2})
    whole = train(best[:1], recipe=recipe, cache=ResultCache(optuna.create_study()))
    looked_at, losses = [], Classification.losses

    def remember(self, images, targets, smoothing, step):
        looked_at.append(step)
        if len(looked_at) == 5:
            raise KeyboardInterrupt
        return losses(self, images, targets, smoothing, step)

    monkeypatch.setattr(Classification, "losses", remember)
    with pytest.raises(KeyboardInterrupt):
        train(best[:1], recipe=recipe)
    assert train(best[:1], recipe=recipe) == whole
    assert looked_at[:8] == [0, 1, 2, 3, 4, 3, 4, 5]


def test_other_trainings_are_other_facts(train, best, recipe, trained):
    for number, changes in enumerate([{}, {"seed": 50}, {"recipe": recipe.override({"lr": 0.5})}], start=1):
        train(best[:1], **changes)
        assert len(trained) == 3 * number


def test_accuracies_that_a_study_of_version_0_1_holds_are_found(train, best, recipe, trained, cache):
    for number, one in enumerate(best):
        for seed in (5, 6, 7):
            name = f"training:{one.trial.arch.digest}:{recipe.digest}:{seed}"
            cache.get_or_compute(name, lambda value=10.0 * number + seed: {"accuracy": value})
    told = train()
    assert trained == []
    assert [one.trial for one in told] == [one.trial for one in reversed(best)]
    assert told[0].accuracies == (25.0, 26.0, 27.0)
    # And what is learnt now is found by version 0.1, too.
    job = TrainingJob(arch=best[0].trial.arch, recipe=recipe, seed=8)
    StudyStore(cache).put(job, job_runner.TrainingResult(accuracies={"search": 1.5}))
    assert cache.get(f"training:{job.arch.digest}:{recipe.digest}:8") == {"accuracy": 1.5}
