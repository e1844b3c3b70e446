"""Input that cannot be right ends with status 2 and one line that names it, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from psvit.arch.architecture import ArchitectureFile
from psvit.data import open_data
from psvit.io.run_folder import RunFolder
from psvit.model import PSViT
from psvit.space.search_space import SearchSpace, shipped_spaces
from psvit.supernet.supernet import Supernet
from psvit.train.recipe import shipped_recipes

SPACE = ("--space", "psvit-2d-digits")
BUDGET = ("--budget", "1MFLOPs")
DIGITS = ("--data", "digits")
BRIEFLY = ("--set", "epochs=1", "--set", "warmup_epochs=0")


@pytest.fixture
def refused(call, tmp_path):
    """Calls a command that has to be refused; returns the line it says, and makes sure that it left nothing."""

    def run(command, *arguments, out="out"):
        before = tree(tmp_path)
        ended = call(command, *arguments, *(("--out", out) if out else ()))
        assert_one_line(command, ended.status, ended.err)
        assert tree(tmp_path) == before
        return ended.err

    return run


def tree(folder):
    """Every path below a folder, hidden ones included, with the contents of files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_one_line(command, status, err):
    assert status == 2, err
    assert err.startswith(f"{command}: ")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err


def assert_names(line, *expected):
    missing = [word for word in expected if word not in line]
    assert not missing, f"{missing} not in: {line}"


# --- budgets


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (["100kFLOPs"], ["psvit-2d-digits", "231.4 kFLOPs to 3.211 MFLOPs"]),
        (["4..5MFLOPs"], ["231.4 kFLOPs to 3.211 MFLOPs"]),
        (["10kparams"], ["30.35 kparams to 414.5 kparams"]),
        (["10kB"], ["16.64 kB to 53.5 kB", "the nearest costs 16.64 kB"]),
        # Each can be met, but not both.
        (["0.3MFLOPs", "400..414kparams"], ["231.4 kFLOPs to 3.211 MFLOPs", "30.35 kparams to 414.5 kparams"]),
    ],
)
def test_an_impossible_budget_names_what_the_space_reaches(refused, budgets, expected):
    options = [word for budget in budgets for word in ("--budget", budget)]
    assert_names(refused("psvit-search", *SPACE, *options), *expected)


@pytest.mark.parametrize(("data", "size"), [((), "224 x 224 pixels"), (DIGITS, "8 x 8 pixels")])
def test_a_budget_that_does_not_suit_the_images_names_what_does(refused, data, size):
    assert_names(refused("psvit-search", *data, "--budget", "1kFLOPs"), "FLOPs to ", size)


@pytest.mark.parametrize("command", [("psvit-search", *BUDGET), ("psvit-supernet",)])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--image-size", "large"), ["'large'", "as in 224 and 96x64"]),
        (("--image-size", "7x8"), ["sides of 8 to 512 pixels", "7 x 8"]),
        ((*SPACE, "--image-size", "9"), ["psvit-2d-digits", "patches of 2 pixels", "[9, 9]"]),
    ],
)
def test_a_size_that_images_cannot_be_seen_at_is_refused(refused, command, options, expected):
    assert_names(refused(*command, *DIGITS, *options), *expected)


def test_a_size_that_the_supernet_does_not_see_is_refused(refused, searched):
    line = refused("psvit-search", "--supernet", searched / "supernet", *BUDGET, "--image-size", "16")
    assert_names(line, "sees images of 8 x 8 pixels", "--image-size")


def test_a_budget_that_the_supernets_space_cannot_meet_names_what_it_reaches(refused, searched):
    line = refused("psvit-search", "--supernet", searched / "supernet", "--budget", "100kFLOPs")
    assert_names(line, "231.4 kFLOPs to 3.211 MFLOPs")


def test_without_a_budget_some_are_named_that_suit_the_images(refused, image_folder):
    assert_names(refused("psvit-search"), "--budget", "2GFLOPs", "5ms@cpu")
    assert_names(refused("psvit-search", "--data", image_folder(sizes=(32,))), "4MFLOPs", "40MFLOPs", "32 x 32 pixels")
    assert_names(refused("psvit-search", "--init", "deit_tiny_patch16_224", "--data", "digits"), "60%")


def test_words_that_were_meant_otherwise_are_answered(refused, image_folder):
    folder = image_folder(sizes=(8,))
    line = refused("psvit-search", "--data", "digits", "--budget", "3MFLOPs", "--epochs", "5")
    assert_names(line, "--epochs", "--set epochs=")
    assert "--depths" not in line
    assert_names(refused("psvit-retrain", "x.yaml", "--data", "digits", "--epochs", "5"), "--set epochs=")
    assert_names(refused("psvit-search", "--data", "digits", "--budget", "3", "MFLOPs"), "MFLOPs", "quotes")
    line = refused("psvit-search", "--data", f"{folder}s", "--budget", "3MFLOPs")
    assert_names(line, f"did you mean '{folder}'")


@pytest.mark.parametrize(
    "budget",
    [
        "2Gbit",
        "-1GFLOPs",
        "GFLOPs",
        "",
        "two GFLOPs",
        "1..GFLOPs",
        "1e9FLOPs",
        "nanGFLOPs",
        "2GFLOPS!",
    ],
)
def test_a_budget_that_is_none_is_answered_with_examples(refused, budget):
    assert_names(refused("psvit-search", *SPACE, f"--budget={budget}"), repr(budget), "2GFLOPs", "22Mparams")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("5ms@toaster", ["5ms@toaster", "cpu, cuda, mps or xpu"]),
        ("5ms@cpu:images=8", ["images=8", "batch=", "threads="]),
        ("60%ofdeit_huge", ["deit_huge", "deit-tiny, "]),
        ("1%", ["231.4 kFLOPs to 3.211 MFLOPs"]),
    ],
)
def test_a_budget_with_something_unknown_is_answered_with_what_is_permitted(refused, budget, expected):
    assert_names(refused("psvit-search", *SPACE, "--budget", budget), *expected)


@pytest.mark.parametrize("data", [(), DIGITS])
def test_a_share_of_no_known_space_is_refused(refused, data):
    assert_names(refused("psvit-search", *data, "--budget", "60%"), "60%", "--space or --supernet")


def test_a_negative_budget_given_as_a_word_of_its_own_is_named(refused):
    assert_names(refused("psvit-search", *SPACE, "--budget", "-1GFLOPs"), "-1GFLOPs", "2GFLOPs")


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (["0GFLOPs"], ["0GFLOPs", "positive"]),
        (["3..2MFLOPs"], ["3..2MFLOPs", "lower", "upper"]),
        (["1MFLOPs", "2MMACs"], ["1MFLOPs, 2MMACs", "once"]),
        (["20..30kB"], ["20..30kB", "upper limit only"]),
    ],
)
def test_a_budget_that_contradicts_itself_is_named(refused, budgets, expected):
    options = [word for budget in budgets for word in ("--budget", budget)]
    assert_names(refused("psvit-search", *SPACE, *options), *expected)


def test_a_missing_budget_is_named(refused):
    assert_names(refused("psvit-search", *SPACE), "--budget")


# --- names and options


def test_weights_to_begin_with_that_are_none_are_named(refused, tmp_path):
    (tmp_path / "notes.pth").write_text("no weights")
    for given, expected in [
        ("deit_gigantic", "neither a file nor a model of timm"),
        ("missing.safetensors", "no such file"),
        (tmp_path / "notes.pth", "cannot be read"),
    ]:
        assert_names(refused("psvit-supernet", *DIGITS, *SPACE, "--init", given), f"{given}", expected)


@pytest.mark.parametrize("command", ["psvit-search", "psvit-supernet"])
def test_an_unknown_space_is_answered_with_the_shipped_ones(refused, command):
    budget = BUDGET if command == "psvit-search" else ()
    line = refused(command, *DIGITS, *budget, "--space", "psvit-3d")
    assert_names(line, "psvit-3d", *shipped_spaces(), ".yaml")


def test_an_unknown_searcher_is_answered_with_the_known_ones(refused):
    line = refused("psvit-search", *SPACE, *BUDGET, "--searcher", "hillclimb")
    assert_names(line, "hillclimb", "evolution", "random", "enumerate", "optuna-tpe", "optuna-nsga2", "optuna-gp")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--objectives", "accuracy,speed"), ["speed", "accuracy, macs, params, memory, latency"]),
        (("--objectives", "macs"), ["must begin with accuracy"]),
        (("--objectives", "accuracy,macs,macs"), ["twice"]),
        (("--objectives", ""), ["--objectives", "accuracy"]),
        (("--searcher", "enumerate", "--space", "psvit-2d-nano"), ["architectures are within the budget", "1,048,576"]),
        (("--time", "soon"), ["--time", "soon", "90s", "30min", "2h"]),
        (("--time", "0s"), ["--time", "0s"]),
        (("--time", "-5min"), ["--time"]),
        (("--time", "5"), ["--time", "5"]),
        (("--study", "ours"), ["--study", "--storage"]),
        (("--workers", "many"), ["--workers", "many", "ray://host:port"]),
        (("--workers", "8"), ["--workers", "8", "ray"]),
        (("--workers", "ray://127.0.0.1:1"), ["--workers ray://127.0.0.1:1", "no Ray cluster"]),
        (("--finalists", "-1"), ["--finalists"]),
        (("--control", "some"), ["--control", "some"]),
    ],
)
def test_what_the_search_cannot_do_is_answered_with_what_it_can(refused, options, expected):
    space = () if "--space" in options else SPACE
    budget = ("--budget", "20MFLOPs") if "--space" in options else BUDGET
    assert_names(refused("psvit-search", *space, *budget, *options), *expected)


def test_a_cluster_that_is_gone_is_named_at_once(refused, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert_names(refused("psvit-search", *SPACE, *BUDGET, "--workers", "ray"), "no Ray cluster at 127.0.0.1:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("address", [None, "local"])
def test_workers_on_this_machine_have_no_gpu_where_it_has_none(refused, monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    line = refused("psvit-search", *SPACE, *BUDGET, "--workers", "ray", "--device", "cuda")
    assert_names(line, "device cuda: cannot compute")


def test_a_storage_that_is_none_is_named_and_left_alone(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("somebody's notes, which have\nno line break at their end")
    (tmp_path / "folder").mkdir()
    for storage, expected in [
        ("notes.txt", "is not a journal of Optuna's"),
        ("folder", "is a folder"),
        ("notes.txt/journal", "cannot be written"),
        ("nonsense://host/name", "cannot be opened"),
        ("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1", "cannot be opened"),
    ]:
        line = refused("psvit-search", *SPACE, *BUDGET, "--storage", storage)
        assert_names(line, f"--storage {storage}", expected)


def test_a_storage_is_not_made_for_a_folder_that_is_refused(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("somebody's notes")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("more of them")
    for out, expected in [("notes.txt", "is a file"), ("full", "is not empty"), ("notes.txt/run", "cannot be written")]:
        for storage in ("sqlite:///new.db", "new.journal"):
            assert_names(
                refused("psvit-search", *SPACE, *BUDGET, "--storage", storage, out=out), f"--out {out}", expected
            )


COMMANDS = {
    "psvit-supernet": (*DIGITS,),
    "psvit-search": (*DIGITS, "--evaluator", "inherited", *BUDGET),
    "psvit-retrain": (*DIGITS, "arch.yaml"),
}


@pytest.fixture(params=COMMANDS)
def training(request, tmp_path):
    """A command that trains, with arguments that are right."""
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    return request.param, *COMMANDS[request.param]


def test_an_unknown_recipe_is_answered_with_the_shipped_ones(refused, training):
    assert_names(refused(*training, "--recipe", "alchemy"), "alchemy", *shipped_recipes(), ".yaml")


def test_an_unknown_key_of_a_recipe_is_answered_with_the_known_ones(refused, training):
    assert_names(
        refused(*training, "--set", "epoch=3"),
        "epoch",
        "unknown key",
        "batch_size",
        "mixup_prob",
        "did you mean epochs?",
    )


def test_a_gpu_is_asked_for_by_its_name(refused, training):
    assert_names(refused(*training, *BRIEFLY, "--device", "gpu"), "--device gpu", "did you mean cuda?")


def test_a_part_of_the_images_is_answered_with_the_whole(refused, few_digits):
    line = refused("psvit-search", "--data", f"{few_digits}/train", *BUDGET)
    assert_names(line, f"did you mean '{few_digits}'?")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("epochs", ["epochs", "KEY=VALUE"]),
        ("epochs=many", ["epochs", '"many"']),
        ("epochs=0", ["epochs", "greater than 0"]),
        ("epochs=1:30", ["1:30", "not valid YAML"]),
        ("warmup_epochs=999", ["warmup_epochs", "fewer than epochs", "999"]),
        ("lr=-1", ["lr", "greater than 0"]),
        ("hflip=1.5", ["hflip", "less than or equal to 1"]),
        ("crop_scale=[0.9, 0.5]", ["crop_scale", "ascend"]),
        ("crop_scale=[2, 3]", ["crop_scale", "at most 1", "[2.0, 3.0]"]),
        ("ema_decay=1", ["ema_decay", "less than 1"]),
        ("interpolation=nearest", ["interpolation", "bilinear", "nearest"]),
        ("epochs=2024-01-01", ["recipe"]),
        ("epochs=[1", ["epochs=[1", "YAML"]),
    ],
)
def test_an_impossible_value_of_a_recipe_is_named_with_its_rule(refused, training, setting, expected):
    assert_names(refused(*training, "--set", setting), *expected)


@pytest.mark.parametrize("setting", ["opt=alchemy", "auto_augment=alchemy"])
def test_a_name_that_timm_does_not_know_is_named(refused, training, setting):
    assert_names(refused(*training, *BRIEFLY, "--set", setting), *setting.split("="))


@pytest.mark.parametrize("name", ["fusedadam", "adahessian"])
def test_an_optimiser_that_timm_knows_and_that_cannot_be_used_here_is_named(refused, training, name):
    assert_names(refused(*training, *BRIEFLY, "--set", f"opt={name}"), f"opt {name}", "cpu", "adamw")


@pytest.mark.parametrize("options", [("--supernet-set", "epochs=3"), ("--supernet-recipe", "supernet-digits")])
@pytest.mark.parametrize("trained", [True, False])
def test_a_recipe_where_no_supernet_is_trained_is_refused(refused, searched, options, trained):
    what = ("--supernet", searched / "supernet") if trained else SPACE
    line = refused("psvit-search", *what, *BUDGET, *options)
    assert_names(line, "--supernet-set", "--supernet-recipe", "--evaluator inherited", "--data")


@pytest.mark.parametrize("options", [("--set", "epochs=3"), ("--recipe", "digits")])
def test_a_recipe_where_no_network_is_trained_is_refused(refused, options):
    assert_names(refused("psvit-search", *SPACE, *BUDGET, *options), "--set", "--recipe", "--data", "psvit-retrain")


@pytest.mark.parametrize(("value", "expected"), [("epoch=3", "did you mean epochs?"), ("epochs", "--supernet-set")])
def test_a_slip_in_a_supernets_recipe_is_named(refused, value, expected):
    line = refused("psvit-search", *DIGITS, "--evaluator", "inherited", *BUDGET, "--supernet-set", value)
    assert_names(line, expected)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta", "hpu", "mps:7"])
def test_an_unknown_device_is_named(refused, training, device):
    line = refused(*training, *BRIEFLY, "--device", device)
    assert_names(line, f"--device {device}")


@pytest.mark.parametrize(
    ("option", "value"), [("--trials", "0"), ("--trials", "many"), ("--seed", "-1"), ("--seed", "0.5")]
)
def test_a_number_out_of_range_is_named(refused, option, value):
    assert_names(refused("psvit-search", *SPACE, *BUDGET, option, value), option, value)


@pytest.mark.parametrize("command", ["psvit-supernet", "psvit-search", "psvit-retrain"])
def test_an_unknown_option_is_named(refused, command):
    assert_names(refused(command, "--datum", "digits"), "--datum")


@pytest.mark.parametrize(("command", "missing"), [("psvit-supernet", "--data"), ("psvit-retrain", "ARCHITECTURE")])
def test_a_missing_argument_is_named(refused, command, missing):
    assert_names(refused(command), missing)


# --- YAML files


@pytest.fixture
def space_file(tmp_path):
    """Writes the digits space with something changed in it."""

    def write(change):
        data = {"schema": "psvit/space/1", **SearchSpace.load("psvit-2d-digits").to_dict()}
        change(data, data["layouts"][0]["stages"])
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(data))
        return tmp_path / "space.yaml"

    return write


def put(key, value, stage=None, layout=False):
    """A change of one key: of a stage, of the layout, or of the whole space."""

    def change(data, stages):
        where = data["layouts"][0] if layout else data if stage is None else stages[stage]
        where[key] = value

    return change


BAD_SPACES = {
    "unknown key": (put("colour", "blue"), ["colour: unknown key", "permitted keys", "patch_size", "layouts"]),
    "unknown key of a stage": (put("width", 3, 1), ["layouts.0.stages.1.width", "embed_dim, depth, max_group"]),
    "group larger than the stage": (put("max_group", 4, 0), ["max_group", "largest depth 3", "received 4"]),
    "no multiple of head_dim": (put("embed_dim", [32, 40], 0), ["embed_dim", "multiple of head_dim 16", "40"]),
    "overlapping stages": (put("begin", 2, 1), ["overlap", "depth up to 3", "begin 2"]),
    "shrinking": (put("embed_dim", [48, 112], 0), ["embed_dim", "shrink", "[48, 112]", "[48, 64, 80, 96]"]),
    "no choices": (put("depth", [], 0), ["layouts.0.stages.0.depth", "at least 1 item"]),
    "unordered": (put("depth", [2, 1], 0), ["depth", "ascending", "[2, 1]"]),
    "wrong type": (put("patch_size", "two"), ["patch_size", "integer", '"two"']),
    "fraction of a channel": (put("mlp_ratio", [1.3], 0), ["mlp_ratio", "whole number", "1.3"]),
    "unknown pooling": (put("pools", [["median"]], layout=True), ["'max', 'avg' or 'conv'", "median"]),
    "too many poolings": (put("pools", [["max"]] * 2, layout=True), ["pools", "one fewer", "2 pools"]),
    "missing key": (lambda data, _: data.pop("variant"), ["variant", "required"]),
    "other schema": (put("schema", "psvit/recipe/1"), ["schema", "psvit/space/1", "psvit/recipe/1"]),
}


@pytest.mark.parametrize("case", BAD_SPACES)
def test_a_space_that_breaks_a_rule_is_named_with_file_key_and_rule(refused, space_file, case):
    change, expected = BAD_SPACES[case]
    path = space_file(change)
    assert_names(refused("psvit-search", "--space", path, *BUDGET), str(path), *expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        (b"", "expected a mapping"),
        (b"- 1\n- 2\n", "expected a mapping"),
        (b"schema: [", "not valid YAML"),
        (b"schema: psvit/space/1\nname: a\nname: b\n", "given twice: name"),
        (b"\xff\xfe\x00\x01", "must be text in UTF-8"),
        (b"!!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
@pytest.mark.parametrize("kind", ["--space", "--recipe", "architecture"])
def test_a_file_that_is_no_mapping_is_named(refused, tmp_path, content, expected, kind):
    path = tmp_path / "given.yaml"
    if content is not None:
        path.write_bytes(content)
    if kind == "architecture":
        line = refused("psvit-retrain", path, *DIGITS)
    else:
        line = refused("psvit-supernet", *DIGITS, kind, path)
    assert_names(line, str(path), expected)


def test_an_unknown_key_of_a_recipe_file_is_named_with_the_file(refused, training, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("schema: psvit/recipe/1\nepochs: 1\nbatch_size: 32\nlr: 0.001\nmomentum: 0.9\n")
    line = refused(*training, "--recipe", path)
    assert_names(line, str(path), "momentum: unknown key", "epochs", "weight_decay")


def edit(key, value, section=None, stage=None):
    """A change of one key: of a stage, of a section, or of the whole architecture file."""

    def change(data):
        where = data["arch"]["stages"][stage] if stage is not None else data[section] if section else data
        where[key] = value

    return change


BAD_ARCHITECTURES = {
    "unknown key": (edit("colour", "blue", "arch"), ["arch.colour: unknown key", "head_dim", "stages"]),
    "unknown section": (edit("speed", 3), ["speed: unknown key", "arch", "latency"]),
    "unknown key of a stage": (edit("depth", 3, stage=0), ["depth: unknown key", "groups"]),
    "empty group": (edit("groups", [1, 0], stage=0), ["stages.0.groups.1", "greater than 0"]),
    "no groups": (edit("groups", [], stage=0), ["stages.0.groups", "at least 1 item"]),
    "no multiple of head_dim": (edit("embed_dim", 40, stage=0), ["embed_dim", "multiple of head_dim 16", "40"]),
    "shrinking": (edit("embed_dim", 16, stage=1), ["embed_dim", "shrink", "[32, 16]"]),
    "no pooling": (edit("pools", [], "arch"), ["pools", "one fewer", "0 pools"]),
    "unknown pooling": (edit("pools", ["median"], "arch"), ["pools.0", "'max', 'avg' or 'conv'", "median"]),
    "too small an image": (edit("image_size", [1, 1], "arch"), ["image_size", "patch_size 2", "[1, 1]"]),
    "edited cost": (edit("macs", 7, "cost"), ["cost.macs", "recorded 7", "delete the section"]),
    "other schema": (edit("schema", "psvit/space/1"), ["schema", "psvit/architecture/1"]),
}


@pytest.mark.parametrize("case", BAD_ARCHITECTURES)
def test_an_architecture_that_breaks_a_rule_is_named_with_file_key_and_rule(refused, tmp_path, case):
    change, expected = BAD_ARCHITECTURES[case]
    path = tmp_path / "arch.yaml"
    SearchSpace.load("psvit-2d-digits").smallest.save(path)
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data))
    assert_names(refused("psvit-retrain", path, *DIGITS), str(path), *expected)


# --- images


@pytest.mark.parametrize("command", ["psvit-supernet", "psvit-search"])
@pytest.mark.parametrize("data", ["nowhere", "digit", "wds/imagenet", "torch/nothing"])
def test_images_that_are_nowhere_are_named(refused, command, data):
    budget = BUDGET if command == "psvit-search" else ()
    assert_names(refused(command, *budget, "--data", data), repr(data))


def test_what_can_be_given_as_images_is_said(refused):
    assert_names(
        refused("psvit-supernet", "--data", "nowhere"), "nowhere", "train/ and val/", "'digits'", "torch/cifar10"
    )


def damaged(folder, damage):
    """An image folder with something wrong in it, and what has to be said about that."""
    one = next((folder / "train" / "dog").iterdir())
    if damage == "one class":
        for part in ("train", "val"):
            shutil.rmtree(folder / part / "dog")
        return ["at least two classes", "found 1", "cat"]
    if damage == "no train":
        shutil.rmtree(folder / "train")
        return ["expected a folder of images for every class, in it or in train/ and val/ in it"]
    if damage == "in no class":
        one.rename(folder / "train" / one.name)
        return [str(folder / "train" / one.name), "lies in no folder of a class"]
    if damage == "empty val":
        shutil.rmtree(folder / "val")
        (folder / "val").mkdir()
        return ["no images in val/"]
    if damage == "class only in val":
        (folder / "val/dog").rename(folder / "val/wolf")
        return ["val/ has classes that train/ has not", "wolf"]
    if damage == "not an image":
        one.write_text("this is no image")
        return [str(one), "not a readable image"]
    if damage == "cut off":
        one.write_bytes(one.read_bytes()[:-60])
        return [str(one), "not a readable image"]
    assert damage == "corrupt in val"
    one = next((folder / "val" / "cat").iterdir())
    one.write_bytes(b"\x89PNG\r\n\x1a\n")
    return [str(one), "not a readable image"]


@pytest.mark.parametrize(
    "damage",
    [
        "one class",
        "no train",
        "in no class",
        "empty val",
        "class only in val",
        "not an image",
        "cut off",
        "corrupt in val",
    ],
)
@pytest.mark.parametrize("sizes", [(8,), (8, 11)], ids=["alike", "of several sizes"])
def test_an_image_folder_that_cannot_be_used_is_named(refused, training, image_folder, damage, sizes):
    folder = image_folder(sizes=sizes)
    expected = damaged(folder, damage)
    # The last --data counts.
    assert_names(refused(*training, *BRIEFLY, "--data", folder), str(folder), *expected)


def test_too_few_images_to_compare_on_are_refused_before_anything_is_trained(refused, image_folder):
    folder = image_folder(sizes=(8,))
    for path in sorted((folder / "train/dog").iterdir())[1:]:
        path.unlink()
    assert_names(refused("psvit-supernet", *BRIEFLY, "--data", folder), "too few images", "the rarest with 1")
    assert_names(refused("psvit-search", "--budget", "1MFLOPs", "--data", folder), "too few images")


def test_a_corrupt_image_among_many_is_found_before_anything_is_trained(refused, image_folder):
    # More images than are looked at to learn their size, and of several sizes, so that they are not kept in memory.
    folder = image_folder(each=150, sizes=(8, 11))
    path = folder / "train/dog/077.png"
    path.write_bytes(path.read_bytes()[:-60])
    assert_names(refused("psvit-supernet", *BRIEFLY, "--data", folder), str(path), "not a readable image")


# --- how something is trained


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "precision=int8"], ["precision", "'bfloat16'", "int8"]),
        (["--set", "accumulate=5"], ["batch_size", "multiple of accumulate 5", "32"]),
        (["--set", "target=soft"], ["target soft", "--teacher"]),
        (["--teacher", "test_vit"], ["--teacher", "target labels", "--set target=soft"]),
        (["--teacher-weights", "w.pth"], ["--teacher-weights w.pth", "--teacher"]),
        (["--teacher", "vit_of_nobody", "--set", "target=hard"], ["vit_of_nobody", "timm", ".yaml"]),
        (["--teacher", "no.yaml", "--set", "target=hard"], ["no.yaml", "no.safetensors"]),
        (["--checkpoint-every", "often"], ["--checkpoint-every", "'often'", "30min"]),
        (["--keep", "0"], ["--keep", "0"]),
    ],
)
def test_an_impossible_training_is_named(refused, training, options, expected):
    if training[0] == "psvit-search" and options[0] != "--set":
        pytest.skip("searches train supernets by recipe only")
    assert_names(refused(*training, *options), *expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sampling=all", ["sampling", "'uniform', 'anchored', 'sandwich' or 'macs'", "all"]),
        ("layer_decay=0.5", ["layer_decay", "supernet"]),
    ],
)
def test_what_a_supernet_cannot_be_trained_by_is_named(refused, setting, expected):
    assert_names(refused("psvit-supernet", *DIGITS, "--set", setting), *expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sampling=sandwich", ["sampling", "unknown key", "--supernet-set"]),
        ("target=inplace", ["target", "labels, soft or hard", "supernets"]),
    ],
)
def test_what_only_a_supernet_can_be_trained_by_is_named(refused, tmp_path, setting, expected):
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    assert_names(refused("psvit-retrain", "arch.yaml", *DIGITS, "--set", setting), *expected)


def test_a_teacher_of_other_classes_is_refused(refused, training, tmp_path):
    if training[0] == "psvit-search":
        pytest.skip("searches train supernets by recipe only")
    other = SearchSpace.load("psvit-2d-digits").with_data(7, 1).smallest
    other.save(tmp_path / "seven.yaml")
    save_file(PSViT(other).state_dict(), tmp_path / "seven.safetensors")
    line = refused(*training, "--teacher", "seven.yaml", "--set", "target=soft")
    assert_names(line, "--teacher seven.yaml", "7 classes", "10")


# --- supernets


@pytest.fixture
def supernet(tmp_path):
    """A fresh supernet of the digits space, or of a change of it."""

    def make(name="supernet", **changes):
        space = SearchSpace.from_dict({**SearchSpace.load("psvit-2d-digits").to_dict(), **changes})
        Supernet(space).save(tmp_path / name / "supernet.safetensors", {"data": "digits"})
        return tmp_path / name

    return make


def test_a_supernet_of_another_space_is_refused_with_both_names(refused, supernet, space_file):
    path = space_file(put("name", "mine"))
    line = refused("psvit-search", "--supernet", supernet(), "--space", path, *BUDGET)
    assert_names(line, "psvit-2d-digits", "mine")


@pytest.mark.parametrize("name", ["psvit-2d-tiny", "psvit-2d-nano", "psvit-1d-tiny"])
def test_a_supernet_of_another_image_size_is_refused_with_both_names(refused, supernet, name):
    # The other space's own images are larger, and its patches may not even fit on the supernet's.
    line = refused("psvit-search", "--supernet", supernet(), "--space", name, *BUDGET)
    assert_names(line, "psvit-2d-digits", name)


@pytest.mark.parametrize(("changes", "expected"), [({"num_classes": 7}, "7 classes"), ({"in_chans": 3}, "3 channels")])
def test_a_supernet_for_other_images_is_refused(refused, supernet, changes, expected):
    line = refused("psvit-search", "--supernet", supernet(**changes), *DIGITS, *BUDGET)
    assert_names(line, expected, "digits", "10 and 1")


@pytest.fixture
def of_folder(tmp_path):
    """The run folder of a supernet that says it was trained on a folder of images as it is now."""

    def make(root):
        data = open_data(root)
        space = SearchSpace.load("psvit-2d-digits").with_data(len(data.classes), data.in_chans)
        Supernet(space).save(tmp_path / "of-folder/supernet.safetensors", {"data": root, "data_digest": data.digest})
        return tmp_path / "of-folder"

    return make


@pytest.mark.parametrize("command", ["psvit-search", "psvit-fidelity"])
@pytest.mark.parametrize("given", [(), ("--data", "./images")])
def test_images_that_changed_since_a_supernet_was_trained_on_them_are_refused(
    refused, image_folder, of_folder, command, given
):
    root = image_folder()
    supernet = of_folder("images")
    (root / "train/cat/000.png").unlink()
    line = refused(command, "--supernet", supernet, *given, *BUDGET)
    assert_names(line, "images", "since it was trained", "restore them, or train another supernet")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nothing", "supernet.safetensors"),
        ("empty", "supernet.safetensors"),
        ("file", "not a readable safetensors file"),
        ("cut off", "not a readable safetensors file"),
        ("best.safetensors", "not a supernet"),
    ],
)
def test_a_path_without_a_supernet_is_named(refused, supernet, searched, tmp_path, path, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no supernet")
    shutil.copy(searched / "best.safetensors", tmp_path)
    whole = (supernet() / "supernet.safetensors").read_bytes()
    (tmp_path / "cut off").write_bytes(whole[: len(whole) // 2])
    assert_names(refused("psvit-search", "--supernet", path, *BUDGET), path, expected)


# --- fidelity


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--budget", "5ms@cpu"), ["5 ms@cpu", "latency"]),
        (("--budget", "40kB"), ["2GFLOPs or 22Mparams"]),
        (("--budget", "0.5..1.9MFLOPs"), ["500 kFLOPs to 1.9 MFLOPs", "within 5 %", "1.2MFLOPs"]),
        (("--budget", "100kFLOPs"), ["231.4 kFLOPs to 3.211 MFLOPs"]),
        (("--budget", "2Gbit"), ["2Gbit", "2GFLOPs"]),
        ((*BUDGET, "--within", "1"), ["--within", "1"]),
        ((*BUDGET, "--spread", "-1"), ["--spread", "-1"]),
        ((*BUDGET, "--within", "5", "--second-seeds", "6"), ["--second-seeds 6", "--within 5"]),
        ((*BUDGET, "--second-seeds", "few"), ["--second-seeds", "few"]),
        ((*BUDGET, "--images", "1"), ["--images", "1"]),
        ((*BUDGET, "--workers", "many"), ["--workers", "many", "ray://host:port"]),
        ((*BUDGET, "--data", "nowhere"), ["nowhere", "train/ and val/"]),
        ((*BUDGET, "--set", "sampling=sandwich"), ["sampling: unknown key"]),
        ((*BUDGET, "--set", "target=soft"), ["target soft", "teacher"]),
        ((*BUDGET, "--recipe", "ours"), ["recipe 'ours'", "digits"]),
        ((*BUDGET, "--device", "warp"), ["--device warp"]),
    ],
)
def test_a_fidelity_that_cannot_be_measured_is_named(refused, supernet, options, expected):
    assert_names(refused("psvit-fidelity", "--supernet", supernet(), *options), *expected)


def test_the_fidelity_of_no_supernet_or_of_other_images_is_refused(refused, supernet):
    assert_names(refused("psvit-fidelity", *BUDGET), "--supernet")
    assert_names(refused("psvit-fidelity", "--supernet", supernet()), "--budget")
    assert_names(refused("psvit-fidelity", "--supernet", "nothing", *BUDGET), "nothing", "supernet.safetensors")
    line = refused("psvit-fidelity", "--supernet", supernet("seven", num_classes=7), *BUDGET)
    assert_names(line, "7 classes", "digits", "10 and 1")


@pytest.mark.parametrize("command", ["psvit-search", "psvit-fidelity"])
def test_a_damaged_fidelity_beside_a_supernet_is_named_before_anything_is_done(refused, supernet, command):
    folder = supernet()
    for content, expected in [
        ("schema: [", "not valid YAML"),
        ("schema: psvit/fidelity/1\nmeasurements: []\nspeed: 3\n", "speed"),
    ]:
        (folder / "fidelity.yaml").write_text(content)
        line = refused(command, "--supernet", folder, *BUDGET)
        assert_names(line, str(folder / "fidelity.yaml"), expected)


# --- weights to inherit


def test_inheriting_where_there_are_no_weights_is_refused(refused, tmp_path):
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    assert_names(refused("psvit-retrain", "arch.yaml", *DIGITS, "--inherit"), "--inherit", "arch.safetensors")


@pytest.mark.parametrize("content", ["other network", "garbage", "cut off"])
def test_weights_that_do_not_fit_are_named(refused, searched, tmp_path, content):
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    data = {
        "other network": (searched / "best.safetensors").read_bytes(),
        "garbage": b"no weights",
        "cut off": (searched / "best.safetensors").read_bytes()[:-9],
    }
    (tmp_path / "arch.safetensors").write_bytes(data[content])
    line = refused("psvit-retrain", "arch.yaml", *DIGITS, *BRIEFLY, "--inherit")
    assert_names(line, "arch.safetensors", "does not hold the weights of")


# --- where runs go


@pytest.mark.parametrize("out", ["file", "file/below", "file/far/below", "full", "n" * 300, "/proc/run"])
def test_a_folder_that_cannot_be_written_is_named(refused, training, tmp_path, out):
    (tmp_path / "file").write_text("something")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("somebody's")
    assert_names(refused(*training, *BRIEFLY, out=out), out)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop the superuser")
def test_a_folder_without_permission_is_named(refused, training, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_names(refused(*training, *BRIEFLY, out="locked/run"), "locked/run", "cannot be written")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--budget", "2MFLOPs"), ["budget: ['1MFLOPs'] there, ['2MFLOPs'] here"]),
        (("--budget", "1MFLOPs", "--seed", "3"), ["seed: 0 there, 3 here"]),
        (("--budget", "1MFLOPs", "--searcher", "random"), ["searcher: evolution there, random here"]),
        (("--budget", "1MFLOPs", "--objectives", "accuracy,macs"), ["['accuracy'] there, ['accuracy', 'macs'] here"]),
    ],
)
def test_the_folder_of_another_run_is_refused_with_the_differences(refused, call, options, expected):
    assert call("psvit-search", *SPACE, *BUDGET, "--trials", 2, "--out", "run").status == 0
    rest = () if "--trials" in options else ("--trials", 2)
    line = refused("psvit-search", *SPACE, *options, *rest, out="run")
    assert_names(line, "--out run", *expected)
    assert "space:" not in line


@pytest.mark.parametrize("command", ["psvit-supernet", "psvit-search", "psvit-retrain"])
def test_the_folder_of_a_run_whose_images_changed_is_refused(refused, call, image_folder, tmp_path, command):
    root = image_folder()
    arch = SearchSpace.load("psvit-2d-digits").smallest
    arch.save(tmp_path / "arch.yaml")
    options = {
        "psvit-supernet": (),
        "psvit-search": (*BUDGET, "--trials", 2),
        "psvit-retrain": ("arch.yaml",),
    }[command]
    line = (command, *options, "--data", "images", *BRIEFLY, "--set", "batch_size=16")
    assert call(*line, "--out", "out").status == 0
    (root / "train/cat/000.png").unlink()
    assert_names(refused(*line), "data_digest", "removed or changed since", "restore them", "name another folder")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (("--supernet-set", "epochs=3"), "supernet_recipe.epochs: 2 there, 3 here"),
        (("--set", "lr=0.003"), "training.lr: 0.002 there, 0.003 here"),
    ],
)
def test_the_folder_of_another_recipe_is_refused_with_the_key(
    refused, searched, few_digits, tmp_path, changed, expected
):
    shutil.copytree(searched, tmp_path / "run")
    images = ("--data", few_digits, "--evaluator", "inherited", *SPACE, *BUDGET)
    settings = (word for one in ("epochs=2", "warmup_epochs=0", "batch_size=128") for word in ("--supernet-set", one))
    recipe = ("--recipe", Path(__file__).with_name("short.yaml"))
    options = ("--trials", 8, "--finalists", 2, "--control", 2, *recipe, *settings, *changed)
    line = refused("psvit-search", *images, *options, out="run")
    assert_names(line, expected)
    assert line.count(" there, ") == 1


def test_the_folder_of_another_command_is_refused(refused, searched, few_digits, tmp_path):
    shutil.copytree(searched, tmp_path / "run")
    line = refused("psvit-supernet", "--data", few_digits, out="run")
    assert_names(line, "command: psvit-search there, psvit-supernet here")


def test_the_folder_of_a_run_on_another_winner_is_refused(refused, searched, tmp_path):
    arch = ArchitectureFile.load(searched / "best.yaml").arch
    RunFolder(tmp_path / "run", "psvit-retrain", {"arch": arch.to_dict(), "data": "digits"})
    SearchSpace.load("psvit-2d-digits").largest.save(tmp_path / "other.yaml")
    line = refused("psvit-retrain", "other.yaml", *DIGITS, out="run")
    assert_names(line, "arch.stages: ", "there", "here")


# --- in a process of its own, where libraries' warnings and noise reach standard error


@pytest.mark.slow
def test_an_installed_command_says_one_line_too(script, tmp_path):
    command = [script("psvit-search"), *SPACE, *BUDGET, "--device", "warp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_line("psvit-search", done.returncode, done.stderr)
    assert "warp" in done.stderr
    assert done.stdout == ""
    assert tree(tmp_path) == {}
