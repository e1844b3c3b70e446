"""The commands one after another on small images: what they leave, what they print, and that it can be repeated."""

from __future__ import annotations

import csv
import shlex
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import psvit
from psvit.architecture import ArchitectureFile
from psvit.costs import cost
from psvit.data import open_data
from psvit.model import PSViT
from psvit.retrain import train as retrain_module
from psvit.search import finalists as finalists_module
from psvit.search.inherited import InheritedAccuracy
from psvit.search_space import SearchSpace
from psvit.supernet import train as supernet_module

BRIEFLY = ("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "batch_size=128")
SEARCH = ("--budget", "1MFLOPs", "--trials", "8", "--finalists", "2")


def next_command(line):
    """The words of the command that a last line names."""
    return shlex.split(line.partition("next: ")[2])


def contents(folder):
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    """The files below a folder; those for TensorBoard, whose names hold the time, are named together."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name.partition("tensorboard/")[0] + "tensorboard/" if "tensorboard/" in name else name for name in found}


def test_a_search_leaves_the_winner_its_weights_and_the_evidence(searched):
    assert names(searched) == {
        "config.yaml",
        "best.yaml",
        "best.safetensors",
        "best.svg",
        "finalists/journal",
        "history.csv",
        "report.html",
        "study.journal",
        "supernet/supernet.safetensors",
        "supernet/log.csv",
        "supernet/tensorboard/",
    }
    found = ArchitectureFile.load(searched / "best.yaml")
    assert 900_000 <= cost(found.arch).macs <= 1_000_000
    assert (found.arch.num_classes, found.arch.in_chans, found.arch.image_size) == (10, 1, (8, 8))
    assert found.budget == ("1MFLOPs",)
    assert found.provenance["limits"] == {"macs": [900_000, 1_000_000]}
    assert found.provenance["data"]["name"] == "digits"
    assert found.provenance["seed"] == 0
    with (searched / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["number"]) for row in rows] == list(range(8))
    winner = rows[found.provenance["trial"]]
    assert float(winner["score"]) == found.score["value"]
    assert int(winner["macs"]) == cost(found.arch).macs
    # Those with the best scores were trained, and the best of them is the winner.
    best = sorted(rows, key=lambda row: (-float(row["score"]), int(row["number"])))[:2]
    trained = found.provenance["finalists"]
    assert {finalist["trial"] for finalist in trained} == {int(row["number"]) for row in best}
    assert all(len(finalist["accuracies"]) == 3 for finalist in trained)
    means = [sum(finalist["accuracies"]) for finalist in trained]
    assert means == sorted(means, reverse=True)
    assert trained[0]["trial"] == found.provenance["trial"]


def test_the_winners_weights_give_the_winners_score(searched):
    found = ArchitectureFile.load(searched / "best.yaml")
    network = psvit.create_model(searched / "best.yaml", checkpoint_path=searched / "best.safetensors").eval()
    data = open_data("digits")
    pixels = data.search.pictures.pixels[data.search.rows].astype("float32") / 255
    images = (torch.from_numpy(pixels)[:, None] - data.mean[0]) / data.std[0]
    with torch.no_grad():
        right = (network(images).argmax(dim=1).numpy() == data.search.labels).sum()
    # Float rounding of the pixels may tip one image of the 144.
    assert found.score["value"] == pytest.approx(100 * right / len(data.search), abs=0.7)
    assert found.score["images"] == len(data.search) == 144


def test_a_search_says_where_what_and_how_to_go_on(searched):
    printed = (searched.parent / "out.txt").read_text()
    first, *_, last = printed.strip().splitlines()
    assert first == "run: run"
    assert "FLOPs are multiply-accumulates" in printed
    assert "inherited accuracy" in printed
    assert next_command(last) == ["psvit-retrain", "run/best.yaml", "--data", "digits"]
    assert (searched.parent / "err.txt").read_text() == ""


def test_the_same_command_and_seed_elsewhere_writes_the_same_bytes(searched, call, tmp_path):
    # The first search ran in a process of its own, so neither hashes of strings nor what was drawn before are equal.
    torch.rand(5)
    assert call("psvit-search", "--data", "digits", *SEARCH, *BRIEFLY, "--out", "another").status == 0
    for name in ("best.safetensors", "best.svg", "history.csv", "best.yaml", "finalists/journal"):
        assert (tmp_path / "another" / name).read_bytes() == (searched / name).read_bytes(), name


def test_another_seed_gives_another_search(searched, call, tmp_path):
    done = call("psvit-search", "--data", "digits", *SEARCH, *BRIEFLY, "--seed", 1, "--out", "seeded")
    assert done.status == 0
    assert (tmp_path / "seeded/history.csv").read_bytes() != (searched / "history.csv").read_bytes()


def test_the_same_command_on_a_finished_search_trains_and_evaluates_nothing(searched, call, tmp_path, monkeypatch):
    shutil.copytree(searched, tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(supernet_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(finalists_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(InheritedAccuracy, "evaluate", lambda *args: pytest.fail("evaluated again"))
    done = call("psvit-search", "--data", "digits", *SEARCH, *BRIEFLY, "--out", "run")
    assert done.status == 0
    # The journal may note that it was opened, but holds the same trials, eight and two for comparison; the report names
    # the command, which is called otherwise here. Everything else is the same.
    after = contents(tmp_path / "run")
    trials = [journal.pop("study.journal").count(b'"user_attrs"') for journal in (before, after)]
    assert trials == [10, 10]
    assert all(files.pop("report.html") for files in (before, after))
    assert after == before
    assert done.last_line == (searched.parent / "out.txt").read_text().strip().splitlines()[-1]


def test_the_line_that_a_search_ends_with_retrains_the_winner(searched, call, tmp_path, monkeypatch):
    shutil.copytree(searched, tmp_path / "run")
    command = next_command((searched.parent / "out.txt").read_text().strip().splitlines()[-1])
    done = call(*command, *BRIEFLY, "--out", "retrained")
    assert done.status == 0
    assert names(tmp_path / "retrained") == {
        "config.yaml",
        "log.csv",
        "network.yaml",
        "network.safetensors",
        "network.svg",
        "tensorboard/",
    }
    result = ArchitectureFile.load(tmp_path / "retrained/network.yaml")
    assert result.arch == ArchitectureFile.load(searched / "best.yaml").arch
    assert set(result.score) >= {"value", "inherited", "logistic_regression"}
    assert f"{result.score['value']:.2f} %" in done.out
    # What is printed last is Python that builds the network with its weights.
    expression = done.last_line.partition("next, in Python: ")[2]
    network = eval(expression, {"psvit": psvit})
    assert isinstance(network, PSViT)
    stored = load_file(tmp_path / "retrained/network.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in network.state_dict().items())

    # The same command on the finished run trains nothing and tells the same.
    before = contents(tmp_path / "retrained")
    monkeypatch.setattr(retrain_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = call(*command, *BRIEFLY, "--out", "retrained")
    assert (again.status, again.out) == (0, done.out)
    assert contents(tmp_path / "retrained") == before


def test_retraining_can_start_from_the_winners_weights(searched, call, tmp_path):
    still = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "lr=1e-9", "--set", "ema_decay=null")
    done = call("psvit-retrain", searched / "best.yaml", "--data", "digits", "--inherit", *still, "--out", "retrained")
    assert done.status == 0
    score = ArchitectureFile.load(tmp_path / "retrained/network.yaml").score
    assert score["value"] == score["inherited"]


def test_a_supernet_trained_beforehand_gives_the_same_winner(searched, call, tmp_path):
    trained = call("psvit-supernet", "--data", "digits", *BRIEFLY, "--out", "supernet")
    assert trained.status == 0
    assert names(tmp_path / "supernet") == {"config.yaml", "log.csv", "supernet.safetensors", "tensorboard/"}
    # The line it ends with leaves the budget open; the images are known from the supernet.
    command = next_command(trained.last_line.replace("...", "1MFLOPs"))
    assert command[0] == "psvit-search"
    done = call(*command, "--trials", 8, "--finalists", 2, "--out", "search")
    assert done.status == 0
    assert not (tmp_path / "search/supernet").exists()
    for name in ("best.safetensors", "history.csv"):
        assert (tmp_path / "search" / name).read_bytes() == (searched / name).read_bytes(), name


def test_without_images_a_training_free_indicator_scores_and_says_so(call, tmp_path):
    done = call("psvit-search", "--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 5, "--out", "run")
    assert done.status == 0
    files = {"config.yaml", "best.yaml", "best.svg", "history.csv", "report.html", "study.journal"}
    assert set(contents(tmp_path / "run")) == files
    assert "training-free indicator" in done.out
    assert "training-free indicator" in ArchitectureFile.load(tmp_path / "run/best.yaml").score["kind"]
    assert next_command(done.last_line) == ["psvit-retrain", "run/best.yaml", "--data", "DATA"]


@pytest.mark.parametrize("searcher", ["evolution", "random"])
def test_every_searcher_stays_within_several_budgets(call, tmp_path, searcher):
    done = call(
        *("psvit-search", "--space", "psvit-2d-digits", "--searcher", searcher, "--trials", 40),
        *("--budget", "0.9..1.1MFLOPs", "--budget", "90..100kparams", "--budget", "36kB", "--out", "run"),
    )  # fmt: skip
    assert done.status == 0
    with (tmp_path / "run/history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["index"] for row in rows}) == 40
    assert all(900_000 <= int(row["macs"]) <= 1_100_000 for row in rows)
    assert all(90_000 <= int(row["num_params"]) <= 100_000 for row in rows)
    assert all(int(row["activation_bytes"]) <= 36_000 for row in rows)


def test_a_share_of_the_largest_is_recorded_as_given_and_as_a_number(call, tmp_path):
    done = call("psvit-search", "--space", "psvit-2d-digits", "--budget", "50%", "--trials", 2, "--out", "run")
    assert done.status == 0, done.err
    upper = SearchSpace.load("psvit-2d-digits").reach("macs")[1] // 2
    assert ArchitectureFile.load(tmp_path / "run/best.yaml").provenance["limits"]["macs"][1] == upper
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (config["budget"], config["limits"]) == (["50%"], {"macs": [None, upper]})


def test_a_budget_that_leaves_few_ends_with_all_of_them(call, tmp_path):
    done = call(
        "psvit-search", "--space", "psvit-2d-digits", "--budget", "0..0.26MFLOPs", "--trials", 50, "--out", "run"
    )
    assert done.status == 0
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 1 + 6


def test_a_limit_without_a_lower_end_is_spent_and_a_range_is_searched_whole(call, tmp_path):
    for name, budget in (("spent", "2MFLOPs"), ("whole", "0..2MFLOPs")):
        call("psvit-search", "--space", "psvit-2d-digits", "--budget", budget, "--trials", 32, "--out", name)
    least = {}
    for name in ("spent", "whole"):
        with (tmp_path / name / "history.csv").open(newline="") as stream:
            least[name] = min(int(row["macs"]) for row in csv.DictReader(stream))
    assert least["spent"] >= 1_800_000 > least["whole"]


def test_an_image_folder_is_searched_and_retrained_on(image_folder, call, tmp_path):
    data = image_folder()
    brief = ("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "batch_size=8")
    found = call("psvit-search", "--data", data, *SEARCH, *brief, "--out", "search")
    assert found.status == 0
    arch = ArchitectureFile.load(tmp_path / "search/best.yaml").arch
    assert (arch.num_classes, arch.in_chans) == (2, 3)
    done = call("psvit-retrain", "search/best.yaml", "--data", data, *brief, "--out", "retrained")
    assert done.status == 0
    assert ArchitectureFile.load(tmp_path / "retrained/network.yaml").provenance["data"]["classes"] == ["cat", "dog"]


def test_the_line_to_go_on_with_can_be_pasted_when_names_have_spaces(image_folder, call, tmp_path):
    data = image_folder("my images")
    brief = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "batch_size=8")
    found = call("psvit-search", "--data", data, "--budget", "1MFLOPs", "--trials", 1, *brief, "--out", "my run")
    assert next_command(found.last_line) == ["psvit-retrain", "my run/best.yaml", "--data", str(data)]


def test_a_run_without_a_name_goes_where_the_same_command_finds_it(call, tmp_path):
    arguments = ("--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 3)
    first = call("psvit-search", *arguments)
    place = first.out.splitlines()[0].removeprefix("run: ")
    assert (tmp_path / place / "best.yaml").exists()
    assert call("psvit-search", *arguments).out == first.out
    assert call("psvit-search", *arguments, "--seed", 1).out.splitlines()[0] != first.out.splitlines()[0]


def test_the_configuration_of_a_run_is_written_with_defaults_resolved(searched):
    config = yaml.safe_load((searched / "config.yaml").read_text())
    assert config["command"] == "psvit-search"
    assert config["space"] == "psvit-2d-digits"
    assert config["budget"] == ["1MFLOPs"]
    assert config["searcher"] == "evolution"
    assert (config["finalists"], config["seed"], config["device"]) == (2, 0, "cpu")
    assert (config["recipe"]["epochs"], config["recipe"]["opt"]) == (2, "adamw")
