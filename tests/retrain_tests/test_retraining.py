"""Retraining: what is written can be built again and is worth what was reported; nothing is lost or done twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import psvit
from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.data import Decoded
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.retrain.train import inherited_network, retrain
from psvit.train import job_runner
from psvit.train.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    lr=3e-3,
    warmup_epochs=1,
    clip_grad=1.0,
    smoothing=0.1,
    drop_path_rate=0.1,
    ema_decay=0.9,
    crop_scale=(0.7, 1.0),
    random_erasing=0.2,
)
STILL = RECIPE.override({"epochs": 1, "warmup_epochs": 0, "lr": 1e-9, "ema_decay": None})
"""Trains, but too slowly to move a weight by more than a rounding error."""


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


def run(found, data, folder, weights=None, recipe=RECIPE, inherit=False, seed=0):
    file = weights.with_suffix(".yaml") if weights else folder / "nowhere.yaml"
    inherited = inherited_network(file, found, data, required=inherit)
    return retrain(found, inherited, data, recipe, inherit=inherit, seed=seed, device=CPU, folder=folder)


def top1(network, data):
    """Accuracy in percent on the validation images, pixel by pixel and without a loader."""
    right = 0
    for index in range(len(data.val)):
        picture, label = data.val[index]
        assert isinstance(picture, Image.Image)
        pixels = np.asarray(picture, dtype=np.float32).reshape(8, 8, -1).transpose(2, 0, 1) / 255
        mean, std = (np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (data.mean, data.std))
        with torch.no_grad():
            right += int(network(torch.from_numpy((pixels - mean) / std)[None]).argmax() == label)
    return 100 * right / len(data.val)


def tensors(folder):
    return load_file(folder / "network.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def contents(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_rebuilds_the_reported_accuracy(found, make_data, tmp_path):
    data = make_data()
    recipe = RECIPE.override({"epochs": 10})
    result = run(found, data, tmp_path / "run", recipe=recipe)
    file, weights = tmp_path / "run/network.yaml", tmp_path / "run/network.safetensors"
    network = psvit.create_model(file, checkpoint_path=weights).eval()
    assert result.score["value"] == pytest.approx(top1(network, data), abs=1e-4)
    # Three classes: a third is chance, which a network that learnt nothing would also rebuild.
    assert result.score["value"] > 60
    assert result.score["images"] == len(data.val) == 30
    assert ArchitectureFile.load(file) == result
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "confusion.csv",
        "log.csv",
        "network.safetensors",
        "network.svg",
        "network.yaml",
        "report.html",
        "tensorboard",
    ]


def test_the_file_says_where_the_network_comes_from(found, make_data, tmp_path):
    result = run(found, make_data(), tmp_path / "run", seed=7)
    assert result.arch == found.arch
    assert result.budget == found.budget
    assert result.provenance["found"] == {"score": found.score, **found.provenance}
    assert result.provenance["data"]["classes"] == ["a", "b", "c"]
    assert Recipe.from_dict(result.provenance["recipe"]) == RECIPE
    assert result.provenance["seed"] == 7
    assert result.provenance["inherited"] is False
    assert result.provenance["versions"] == {"psvit": psvit.__version__, "torch": torch.__version__}


def test_what_was_timed_stays_known_unless_the_network_is_another_one(found, make_data, tmp_path):
    timed = found.model_copy(update={"latency": {"5ms@cpu": {"measured_ms": 4.5}}})
    assert run(timed, make_data(), tmp_path / "same", recipe=STILL).latency == timed.latency
    assert ArchitectureFile.load(tmp_path / "same/network.yaml").latency == timed.latency
    assert run(timed, make_data(num_classes=5), tmp_path / "other", recipe=STILL).latency == {}


def test_inheriting_starts_from_the_weights(found, make_data, weights, tmp_path):
    data = make_data()
    result = run(found, data, tmp_path / "run", weights, STILL, inherit=True)
    inherited = PSViT(found.arch).eval()
    inherited.load_state_dict(load_file(weights))
    assert result.score["inherited"] == pytest.approx(top1(inherited, data), abs=1e-4)
    assert result.score["value"] == result.score["inherited"]
    assert result.provenance["inherited"] is True
    for name, weight in tensors(tmp_path / "run").items():
        torch.testing.assert_close(weight, load_file(weights)[name], rtol=0, atol=1e-6)


def test_from_scratch_weights_only_serve_to_compare(found, make_data, weights, tmp_path):
    data = make_data()
    result = run(found, data, tmp_path / "with", weights, STILL)
    assert "inherited" in result.score
    assert result.provenance["inherited"] is False
    plain = run(found, data, tmp_path / "without", None, STILL)
    assert "inherited" not in plain.score
    assert equal(tensors(tmp_path / "with"), tensors(tmp_path / "without"))
    assert not torch.allclose(tensors(tmp_path / "with")["head.weight"], load_file(weights)["head.weight"], atol=0.1)


def test_inheriting_without_weights_is_refused(found, make_data, tmp_path):
    with pytest.raises(InputError, match=r"--inherit: .*nowhere\.safetensors does not exist"):
        run(found, make_data(), tmp_path / "run", None, inherit=True)


@pytest.mark.parametrize("damage", ["other network", "missing", "garbage", "cut off"])
def test_weights_that_do_not_fit_are_refused_before_anything_is_trained(
    found, make_data, weights, tmp_path, damage, monkeypatch
):
    if damage == "other network":
        save_file({"head.weight": torch.zeros(3, 16)}, weights)
    elif damage == "missing":
        weights.unlink()
    elif damage == "garbage":
        weights.write_bytes(b"not weights at all")
    else:
        weights.write_bytes(weights.read_bytes()[:-10])
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained"))
    with pytest.raises(InputError) as error:
        run(found, make_data(), tmp_path / "run", weights, inherit=True)
    assert str(weights) in str(error.value)
    assert ("does not exist" if damage == "missing" else "does not hold the weights of") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("num_classes", "in_chans"), [(5, 1), (2, 3)])
def test_classes_and_channels_are_the_datas(found, make_data, tmp_path, num_classes, in_chans):
    data = make_data(num_classes, in_chans)
    result = run(found, data, tmp_path / "run")
    assert (result.arch.num_classes, result.arch.in_chans) == (num_classes, in_chans)
    assert (result.arch.stages, result.arch.pools) == (found.arch.stages, found.arch.pools)
    network = psvit.create_model(tmp_path / "run/network.yaml", checkpoint_path=tmp_path / "run/network.safetensors")
    assert network.get_classifier().out_features == num_classes
    assert result.score["value"] == pytest.approx(top1(network.eval(), data), abs=1e-4)


def test_a_network_found_for_other_classes_is_trained_from_scratch(found, make_data, weights, tmp_path):
    # Its inherited weights have another classifier. They cannot be compared, but nobody asked to start from them.
    result = run(found, make_data(num_classes=5), tmp_path / "run", weights)
    assert result.arch.num_classes == 5
    assert "inherited" not in result.score


def test_search_images_are_trained_on_and_validation_images_are_not(found, make_data, tmp_path):
    recipe = RECIPE.override({"epochs": 1, "warmup_epochs": 0})
    run(found, make_data(), tmp_path / "plain", recipe=recipe)
    for part, trained_on in (("search", True), ("val", False)):
        data = make_data()
        labelled = getattr(data, part)
        labelled.pictures.pixels[labelled.rows] = 7
        run(found, data, tmp_path / part, recipe=recipe)
        assert equal(tensors(tmp_path / part), tensors(tmp_path / "plain")) is not trained_on


def test_how_the_training_images_were_split_does_not_matter(found, make_data, tmp_path):
    data = make_data()
    rows = {"search": range(8), "verdict": range(8, 16), "train": range(16, 48)}
    other = {
        part: type(data.train)(data.train.pictures, np.arange(48) % 3, np.array(some)) for part, some in rows.items()
    }
    fields = {name: getattr(data, name) for name in type(data).__dataclass_fields__}
    run(found, data, tmp_path / "one")
    run(found, type(data)(**{**fields, **other}), tmp_path / "other")
    assert equal(tensors(tmp_path / "one"), tensors(tmp_path / "other"))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(found, make_data, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.rand(seed)
        run(found, make_data(), tmp_path / name, seed=seed)
    assert (tmp_path / "a/network.yaml").read_bytes() == (tmp_path / "b/network.yaml").read_bytes()
    assert (tmp_path / "a/network.safetensors").read_bytes() == (tmp_path / "b/network.safetensors").read_bytes()
    assert not equal(tensors(tmp_path / "a"), tensors(tmp_path / "c"))


def test_a_finished_run_is_returned_untouched_and_without_training(found, make_data, weights, tmp_path, monkeypatch):
    result = run(found, make_data(), tmp_path / "run", weights)
    before = contents(tmp_path / "run")
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert run(found, make_data(), tmp_path / "run", weights) == result
    assert contents(tmp_path / "run") == before


def test_what_a_process_left_that_was_killed_after_its_result_is_removed(found, make_data, tmp_path):
    result = run(found, make_data(), tmp_path, recipe=STILL)
    left = tmp_path / "checkpoints/0000000006.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"the last checkpoint")
    assert run(found, make_data(), tmp_path, recipe=STILL) == result
    assert not left.parent.exists()


# 48 images an epoch in batches of 8: in the first, second and third epoch, and while validating.
@pytest.mark.parametrize("images_read", [20, 60, 140, 150])
def test_a_stopped_run_continues_bit_for_bit(found, make_data, weights, tmp_path, images_read):
    run(found, make_data(), tmp_path / "whole", weights)
    Failing.left = images_read
    with pytest.raises(Interrupted):
        run(found, make_data(pictures=Failing), tmp_path / "stopped", weights)
    assert not (tmp_path / "stopped/network.yaml").exists()
    run(found, make_data(), tmp_path / "stopped", weights)
    for name in ("network.yaml", "network.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "stopped/checkpoints").exists()


def test_logistic_regression_stands_beside_the_result(found, make_data, tmp_path):
    from sklearn.linear_model import LogisticRegression

    data = make_data()
    result = run(found, data, tmp_path / "run")
    pixels, val = data.train.pictures.pixels, data.val.pictures.pixels
    model = LogisticRegression(max_iter=5000).fit(pixels.reshape(48, -1) / 255, np.arange(48) % 3)
    expected = 100 * model.score(val.reshape(30, -1) / 255, data.val.labels)
    assert result.score["logistic_regression"] == pytest.approx(expected, abs=1e-4)


def test_a_deit_is_retrained_like_any_other_architecture(make_data, tmp_path):
    arch = Architecture.from_dict(
        {
            "variant": "1d",
            "image_size": [8, 8],
            "in_chans": 1,
            "num_classes": 3,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "stages": [{"embed_dim": 8, "groups": [1, 1], "mlp_ratio": 4.0}],
            "pools": [],
        }
    )
    arch.save(tmp_path / "deit.yaml")
    data = make_data()
    result = run(ArchitectureFile.load(tmp_path / "deit.yaml"), data, tmp_path / "run")
    network = psvit.create_model(tmp_path / "run/network.yaml", checkpoint_path=tmp_path / "run/network.safetensors")
    assert result.score["value"] == pytest.approx(top1(network.eval(), data), abs=1e-4)
