"""Training a supernet: what is learnt, what is held out, and what an interruption costs (nothing)."""

from __future__ import annotations

import csv
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from psvit.data import Batches, Decoded, Inputs, accuracy
from psvit.errors import InputError
from psvit.supernet import train as train_module
from psvit.supernet.provenance import read_provenance
from psvit.supernet.sampling import draw
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import SupernetTask, fit_supernet, watched
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.recipe import Recipe, SupernetRecipe

CPU = torch.device("cpu")

# Everything random that a recipe can ask for takes part, because all of it has to continue.
RECIPE = SupernetRecipe(
    epochs=4,
    batch_size=8,
    lr=2e-3,
    warmup_epochs=1,
    clip_grad=1.0,
    smoothing=0.1,
    drop_path_rate=0.2,
    ema_decay=0.9,
    crop_scale=(0.5, 1.0),
    hflip=0.5,
    random_erasing=0.3,
    mixup=0.5,
    cutmix=0.5,
)


class Interrupted(Exception):
    """Stands for whatever stops a run."""


class Failing(Decoded):
    """Images that stop being readable after a number of them were read."""

    left = 0

    def __getitem__(self, index):
        if Failing.left == 0:
            raise Interrupted
        Failing.left -= 1
        return super().__getitem__(index)


def train(space, data, folder, recipe=RECIPE, seed=0, **options):
    return fit_supernet(space, data, recipe, seed=seed, device=CPU, folder=folder, **options)


def assert_equal_weights(one, other):
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@pytest.fixture(scope="module")
def uninterrupted(tiny_space, tiny_data, tmp_path_factory):
    """The file of a supernet whose training nothing interrupted; tests leave its folder as it was."""
    return train(tiny_space, tiny_data(), tmp_path_factory.mktemp("uninterrupted") / "run")


def test_a_finished_run_holds_the_supernet_and_a_log(tiny_space, tiny_data, uninterrupted):
    assert sorted(path.name for path in uninterrupted.parent.iterdir()) == [
        "log.csv",
        "supernet.safetensors",
        "tensorboard",
    ]
    with (uninterrupted.parent / "log.csv").open() as stream:
        log = list(csv.DictReader(stream))
    assert [row["epoch"] for row in log] == ["1", "2", "3", "4"]
    assert Supernet.load(uninterrupted).space == tiny_space
    provenance = read_provenance(uninterrupted)
    assert provenance["data"] == "tiny"
    assert provenance["seed"] == 0
    assert SupernetRecipe.from_dict(provenance["recipe"]) == RECIPE
    # The last row was measured with the weights that were saved, on the images held out for the search.
    supernet = Supernet.load(uninterrupted).eval()
    data = tiny_data()
    batches = Batches(data.search, Inputs.of(data, tiny_space.image_size), 8, CPU)
    archs = watched(tiny_space)
    assert {"smallest", "largest"} < set(archs) <= set(log[-1])
    for name, arch in archs.items():
        assert float(log[-1][name]) == accuracy(supernet.extract(arch), batches)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_space, tiny_data, uninterrupted, tmp_path):
    recipe = RECIPE.override({"epochs": 2})
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        # Global generators are somewhere else each time, as in another process.
        torch.rand(seed)
        train(tiny_space, tiny_data(), tmp_path / name, recipe, seed)
    assert_equal_weights(tmp_path / "a/supernet.safetensors", tmp_path / "b/supernet.safetensors")
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "a/supernet.safetensors", tmp_path / "c/supernet.safetensors")


def test_training_leaves_global_generators_alone(tiny_space, tiny_data, tmp_path):
    before = torch.get_rng_state()
    train(tiny_space, tiny_data(), tmp_path, RECIPE.override({"epochs": 2}))
    # Iterating over a loader draws one number; training hundreds of images would draw thousands.
    expected = torch.Generator()
    expected.set_state(before)
    following = [torch.rand(1).item() for _ in range(3)]
    drawn = torch.rand(40, generator=expected).tolist()
    assert any(drawn[start : start + 3] == following for start in range(37))


def test_training_learns_the_classes(tiny_space, tiny_data, tmp_path):
    recipe = Recipe(epochs=12, batch_size=6, lr=5e-3, warmup_epochs=1)
    supernet = Supernet.load(train(tiny_space, tiny_data(), tmp_path, recipe)).eval()
    data = tiny_data()
    batches = Batches(data.search, Inputs.of(data, tiny_space.image_size), 12, CPU)
    # Three classes: a third is chance. Slices that no step trained would stay there.
    for arch in (tiny_space.smallest, tiny_space.largest):
        assert accuracy(lambda images, arch=arch: supernet(images, arch), batches) > 60


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_run_stopped_while_it_measures_continues_bit_for_bit(
    tiny_space, tiny_data, uninterrupted, tmp_path, monkeypatch, epoch
):
    calls = iter(range(1, 100))

    def stops(logits_of, batches):
        # Stop before the last one of those that are measured after an epoch.
        if next(calls) == len(watched(tiny_space)) * epoch:
            raise Interrupted
        return accuracy(logits_of, batches)

    monkeypatch.setattr(train_module, "accuracy", stops)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        train(tiny_space, tiny_data(), folder)
    assert not (folder / "supernet.safetensors").exists()
    monkeypatch.setattr(train_module, "accuracy", accuracy)
    assert_equal_weights(train(tiny_space, tiny_data(), folder), uninterrupted)
    assert not (folder / "checkpoints").exists()


# 32 images an epoch in batches of 8, and 12 held out that are read once: in the first, second and fourth epoch.
@pytest.mark.parametrize("images_read", [20, 53, 114])
def test_a_run_stopped_in_the_middle_of_an_epoch_continues_bit_for_bit(
    tiny_space, tiny_data, uninterrupted, tmp_path, images_read
):
    folder = tmp_path / "stopped"
    Failing.left = images_read
    with pytest.raises(Interrupted):
        train(tiny_space, tiny_data(pictures=Failing), folder)
    assert_equal_weights(train(tiny_space, tiny_data(), folder), uninterrupted)


def test_a_run_stopped_every_epoch_continues_bit_for_bit(tiny_space, tiny_data, uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"
    monkeypatch.setattr(Checkpoints, "due", True)
    for finished in range(RECIPE.epochs):
        calls = iter(range(1, 100))

        def stops(logits_of, batches, calls=calls):
            if next(calls) == len(watched(tiny_space)) + 1:
                raise Interrupted
            return accuracy(logits_of, batches)

        monkeypatch.setattr(train_module, "accuracy", stops)
        if finished < RECIPE.epochs - 1:
            with pytest.raises(Interrupted):
                train(tiny_space, tiny_data(), folder)
        else:
            train(tiny_space, tiny_data(), folder)
        assert len((folder / "log.csv").read_text().splitlines()) == finished + 2
    assert_equal_weights(folder / "supernet.safetensors", uninterrupted)


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_bit_for_bit(make_process, tiny_space, tiny_data, tmp_path):
    """Nothing that runs on the way out of a process may matter: this one has no way out."""
    recipe = RECIPE.override({"epochs": 14, "warmup_epochs": 0, "sampling": "sandwich", "target": "inplace"})
    folder, data = tmp_path / "killed", tiny_data()
    rng = random.Random(0)

    def fit():
        often = CheckpointConfig(every_seconds=0)
        fit_supernet(tiny_space, data, recipe, seed=0, device=CPU, folder=folder, checkpointing=often)

    reached = [0]
    for _ in range(2):
        process = make_process(fit)
        process.start()
        deadline = time.monotonic() + 300
        while process.is_alive() and time.monotonic() < deadline:
            # Some steps in, between any two instructions.
            if (step := newest(folder)) > reached[-1] + 3:
                time.sleep(rng.uniform(0, 0.1))
                break
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(step)
    assert not (folder / "supernet.safetensors").exists()
    continued = train(tiny_space, tiny_data(), folder, recipe)
    assert_equal_weights(continued, train(tiny_space, tiny_data(), tmp_path / "uninterrupted", recipe))
    assert not list(folder.glob("**/.*"))


def contents(folder):
    """Every file below a folder and when it was written."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def newest(folder):
    """The step of the last checkpoint."""
    return max((int(path.stem) for path in (folder / "checkpoints").glob("[0-9]*.safetensors")), default=0)


def test_images_prepared_by_other_processes_continue_bit_for_bit(tiny_space, tiny_data, tmp_path, monkeypatch):
    # From 16 pixels on, batches are prepared by worker processes, which have generators of their own.
    fields = tiny_space.to_dict() | {"image_size": [16, 16]}
    space, data, recipe = type(tiny_space).from_dict(fields), tiny_data(side=16), RECIPE.override({"epochs": 2})
    assert Inputs.of(data, space.image_size).workers > 0
    whole = train(space, data, tmp_path / "whole", recipe)
    calls = iter(range(1, 100))

    def stops(logits_of, batches):
        if next(calls) == len(watched(space)) + 1:
            raise Interrupted
        return accuracy(logits_of, batches)

    monkeypatch.setattr(train_module, "accuracy", stops)
    with pytest.raises(Interrupted):
        train(space, data, tmp_path / "stopped", recipe)
    monkeypatch.setattr(train_module, "accuracy", accuracy)
    assert_equal_weights(train(space, data, tmp_path / "stopped", recipe), whole)


def test_a_finished_run_is_returned_untouched_and_without_training(tiny_space, tiny_data, uninterrupted, monkeypatch):
    def trains(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(train_module, "train", trains)
    before = contents(uninterrupted.parent)
    assert train(tiny_space, tiny_data(), uninterrupted.parent) == uninterrupted
    assert contents(uninterrupted.parent) == before


def test_what_a_process_left_that_was_killed_after_its_result_is_removed(tiny_space, tiny_data, uninterrupted):
    left = uninterrupted.parent / "checkpoints/0000000016.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"the last checkpoint")
    assert train(tiny_space, tiny_data(), uninterrupted.parent) == uninterrupted
    assert not left.parent.exists()


def test_neither_search_nor_validation_images_are_trained_on(tiny_space, tiny_data, tmp_path):
    recipe = RECIPE.override({"epochs": 1, "warmup_epochs": 0})
    plain, others = tiny_data(), tiny_data()
    # All images but the training ones become noise: the weights must not notice.
    others.train.pictures.pixels[36:] = 7
    one = train(tiny_space, plain, tmp_path / "one", recipe)
    other = train(tiny_space, others, tmp_path / "other", recipe)
    assert_equal_weights(one, other)


def test_each_step_trains_the_architecture_of_its_number(tiny_space, images):
    supernet = Supernet(tiny_space).eval()
    task = SupernetTask(model=supernet, recipe=RECIPE, seed=4)
    batch, labels = images(tiny_space, n=6), torch.tensor([0, 1, 2, 0, 1, 2])
    for step in (0, 7):
        network = supernet.extract(draw(tiny_space, 4, step))
        expected = torch.nn.functional.cross_entropy(network(batch), labels, label_smoothing=0.1)
        (loss,) = task.losses(batch, labels, 0.1, step)
        torch.testing.assert_close(loss, expected)


def test_a_recipe_for_networks_trains_one_architecture_a_step(tiny_space, tiny_data, tmp_path):
    plain = Recipe.from_dict({name: value for name, value in RECIPE.to_dict().items() if name in Recipe.model_fields})
    brief = {"epochs": 1, "warmup_epochs": 0}
    one = train(tiny_space, tiny_data(), tmp_path / "one", plain.override(brief))
    assert_equal_weights(one, train(tiny_space, tiny_data(), tmp_path / "other", RECIPE.override(brief)))


@pytest.mark.parametrize("target", ["soft", "hard"])
def test_a_teacher_that_is_not_there_is_refused(tiny_space, tiny_data, tmp_path, target):
    with pytest.raises(InputError, match=f"target {target}: needs a teacher; give one with --teacher"):
        train(tiny_space, tiny_data(), tmp_path, RECIPE.override({"target": target}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sampling", "target"), [("sandwich", "inplace"), pytest.param("macs", "labels", marks=pytest.mark.slow)]
)
def test_every_rule_learns_the_classes(tiny_space, tiny_data, tmp_path, sampling, target):
    recipe = SupernetRecipe(epochs=12, batch_size=6, lr=5e-3, warmup_epochs=1, sampling=sampling, target=target)
    supernet = Supernet.load(train(tiny_space, tiny_data(), tmp_path, recipe)).eval()
    data = tiny_data()
    batches = Batches(data.search, Inputs.of(data, tiny_space.image_size), 12, CPU)
    for arch in (tiny_space.smallest, tiny_space.largest):
        assert accuracy(lambda images, arch=arch: supernet(images, arch), batches) > 60
