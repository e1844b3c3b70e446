"""The commands one after another on small images: what they leave, what they print, and that it can be repeated."""

from __future__ import annotations

import contextlib
import csv
import html
import pickle
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.arch.costs import cost
from psvit.data import open_data
from psvit.executors.executor import LocalExecutor
from psvit.model import PSViT
from psvit.search.inherited import InheritedAccuracy
from psvit.search.plan import plan_search
from psvit.search.request import SearchRequest
from psvit.search.scoring import Scoring
from psvit.space.search_space import SearchSpace
from psvit.supernet import train as supernet_module
from psvit.supernet.provenance import read_provenance
from psvit.supernet.supernet import Supernet
from psvit.train import job_runner
from psvit.train.job_runner import JobRunner

BRIEFLY = ("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "batch_size=128")
SUPERNET_BRIEFLY = tuple(word.replace("--set", "--supernet-set") for word in BRIEFLY)
SPACE = ("--space", "psvit-2d-digits")
BY_SUPERNET = ("--evaluator", "inherited", *SPACE, *SUPERNET_BRIEFLY)
SHORT = ("--recipe", str(Path(__file__).with_name("short.yaml")))
SEARCH = ("--budget", "1MFLOPs", "--trials", "8", "--finalists", "2", "--control", "2", *SHORT)
FIGURES = {"report.html"}
"""What may stand beside the files that these tests are about."""


def next_command(line):
    """The words of the command that a last line names."""
    found = re.fullmatch(r"next( \([^)]*\))?: (.*)", line)
    assert found, line
    return shlex.split(found[2])


def contents(folder):
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    """The files below a folder; those for TensorBoard, whose names hold the time, are named together."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name.partition("tensorboard/")[0] + "tensorboard/" if "tensorboard/" in name else name for name in found}


def test_a_search_leaves_the_winner_its_weights_and_the_evidence(searched, few_digits):
    assert names(searched) - FIGURES == {
        ".psvit.lock",
        "config.yaml",
        "best.yaml",
        "best.safetensors",
        "best.svg",
        "history.csv",
        "result.json",
        "space.yaml",
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
    assert found.provenance["data"]["name"] == few_digits
    assert found.provenance["seed"] == 0
    with (searched / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["number"]) for row in rows] == list(range(8))
    assert {row["origin"] for row in rows} == {"uniform"}
    whole = [row for row in rows if row["state"] == "complete"]
    assert all(int(row["images"]) == 30 for row in whole)
    # The two best by inherited weights were trained, three times in the last rung, and the better is the winner.
    finalists = found.provenance["finalists"]
    best = sorted(whole, key=lambda row: (-float(row["score"]), int(row["number"])))[:2]
    assert {one["trial"] for one in finalists} == {int(row["number"]) for row in best}
    assert [[len(look["accuracies"]) for look in one["looks"]] for one in finalists] == [[1, 3], [1, 3]]
    first, second = (sum(one["looks"][-1]["accuracies"]) for one in finalists)
    assert first >= second
    assert finalists[0]["trial"] == found.provenance["trial"]
    winner = rows[found.provenance["trial"]]
    assert float(winner["score"]) == found.score["value"]
    assert int(winner["macs"]) == cost(found.arch).macs


def test_the_winners_weights_give_the_winners_score(searched, few_digits):
    found = ArchitectureFile.load(searched / "best.yaml")
    network = psvit.create_model(searched / "best.yaml", checkpoint_path=searched / "best.safetensors").eval()
    data = open_data(few_digits)
    pixels = data.search.pictures.pixels[data.search.rows].astype("float32") / 255
    images = (torch.from_numpy(pixels)[:, None] - data.mean[0]) / data.std[0]
    with torch.no_grad():
        right = (network(images).argmax(dim=1).numpy() == data.search.labels).sum()
    # Float rounding of the pixels may tip one image of the 30.
    assert found.score["value"] == pytest.approx(100 * right / len(data.search), abs=3.4)
    assert found.score["images"] == len(data.search) == 30


def test_a_search_says_where_what_and_how_to_go_on(searched, few_digits):
    printed = (searched.parent / "out.txt").read_text()
    first, *_, last = printed.strip().splitlines()
    assert first == "run: run"
    assert "FLOPs are multiply-accumulates" in printed
    assert "inherited accuracy" in printed
    assert next_command(last) == ["psvit-retrain", "run/best.yaml", "--data", few_digits, "--recipe", SHORT[1]]


@pytest.mark.slow
def test_the_same_command_and_seed_elsewhere_writes_the_same_bytes(searched, script, tmp_path, few_digits):
    # In a process of its own, so neither hashes of strings nor what was drawn before are equal; nor is what libraries
    # would say there.
    images = ("--data", few_digits, "--evaluator", "inherited")
    command = [script("psvit-search"), *images, *SPACE, *SEARCH, *SUPERNET_BRIEFLY, "--out", "another"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    here, there = (searched.parent / "out.txt").read_text(), done.stdout.replace("another", "run")
    # How long something will take is measured.
    said = [[line for line in text.splitlines() if not line.startswith(("time", "next"))] for text in (here, there)]
    assert said[0] == said[1]
    for name in ("best.safetensors", "best.svg", "history.csv", "best.yaml"):
        assert (tmp_path / "another" / name).read_bytes() == (searched / name).read_bytes(), name


def test_another_seed_gives_another_search(searched, call, tmp_path, few_digits):
    none = ("--finalists", 0, "--control", 0)
    options = ("--budget", "1MFLOPs", "--trials", 8, *none, *SUPERNET_BRIEFLY, "--seed", 1)
    images = ("--data", few_digits, "--evaluator", "inherited")
    assert call("psvit-search", *images, *SPACE, *options, "--out", "seeded").status == 0
    assert (tmp_path / "seeded/history.csv").read_bytes() != (searched / "history.csv").read_bytes()


def test_the_same_command_on_a_finished_search_trains_and_evaluates_nothing(
    searched, call, tmp_path, monkeypatch, few_digits
):
    shutil.copytree(searched, tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(supernet_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr(InheritedAccuracy, "evaluate", lambda *args: pytest.fail("evaluated again"))
    done = call("psvit-search", "--data", few_digits, *BY_SUPERNET, *SEARCH, "--out", "run")
    assert done.status == 0
    # The journal may note that it was opened, but holds the same trials; everything else is the same.
    after = contents(tmp_path / "run")
    trials = [journal.pop("study.journal").count(b'"origin"') for journal in (before, after)]
    assert trials == [8 + 2, 8 + 2]
    for files in (before, after):
        files.pop("report.html", None)
    assert after == before
    assert done.last_line == (searched.parent / "out.txt").read_text().strip().splitlines()[-1]


def test_the_line_that_a_search_ends_with_retrains_the_winner(searched, call, tmp_path, monkeypatch):
    shutil.copytree(searched, tmp_path / "run")
    command = next_command((searched.parent / "out.txt").read_text().strip().splitlines()[-1])
    done = call(*command, *BRIEFLY, "--out", "retrained")
    assert done.status == 0
    assert names(tmp_path / "retrained") == {
        ".psvit.lock",
        "config.yaml",
        "confusion.csv",
        "log.csv",
        "network.yaml",
        "network.safetensors",
        "network.svg",
        "report.html",
        "tensorboard/",
    }
    result = ArchitectureFile.load(tmp_path / "retrained/network.yaml")
    assert result.arch == ArchitectureFile.load(searched / "best.yaml").arch
    assert set(result.score) >= {"value", "inherited", "logistic_regression"}
    assert f"{result.score['value']:.2f} %" in done.out
    stored = load_file(tmp_path / "retrained/network.safetensors")
    network = psvit.Classifier.load(tmp_path / "retrained").network
    assert isinstance(network, PSViT)
    assert all(torch.equal(weight, stored[name]) for name, weight in network.state_dict().items())
    # What is printed last exports it.
    assert next_command(done.last_line) == ["psvit-export", "retrained", "--to", "onnx"]

    # The same command on the finished run trains nothing and tells the same.
    before = contents(tmp_path / "retrained")
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = call(*command, *BRIEFLY, "--out", "retrained")
    assert (again.status, again.out) == (0, done.out)
    assert contents(tmp_path / "retrained") == before


def test_retraining_can_start_from_the_winners_weights(searched, call, tmp_path, few_digits):
    still = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "lr=1e-9", "--set", "ema_decay=null")
    # The folder of the search stands for its best network.
    done = call("psvit-retrain", searched, "--data", few_digits, "--inherit", *still, "--out", "retrained")
    assert done.status == 0
    score = ArchitectureFile.load(tmp_path / "retrained/network.yaml").score
    assert score["value"] == score["inherited"]


def test_a_supernet_trained_beforehand_gives_the_same_winner(searched, call, tmp_path, few_digits):
    trained = call("psvit-supernet", "--data", few_digits, *SPACE, *BRIEFLY, "--out", "supernet")
    assert trained.status == 0
    assert names(tmp_path / "supernet") == {
        ".psvit.lock",
        "config.yaml",
        "log.csv",
        "supernet.safetensors",
        "tensorboard/",
    }
    # The line it ends with leaves the budget open; the images are known from the supernet.
    command = next_command(trained.last_line.replace("...", "1MFLOPs"))
    assert command[0] == "psvit-search"
    done = call(*command, *SEARCH[2:], "--out", "search")
    assert done.status == 0
    assert not (tmp_path / "search/supernet").exists()
    for name in ("best.safetensors", "history.csv"):
        assert (tmp_path / "search" / name).read_bytes() == (searched / name).read_bytes(), name


def test_workers_refuse_a_supernet_that_changed_after_the_search_began(searched, call, tmp_path, monkeypatch):
    shutil.copytree(searched / "supernet", tmp_path / "supernet")
    file = tmp_path / "supernet/supernet.safetensors"

    class Late:
        """Stands in for workers on a cluster: makes its evaluator when somebody has trained the supernet again."""

        def __init__(self, make_evaluator, **options):
            self.make = pickle.loads(pickle.dumps(make_evaluator))

        def __enter__(self):
            supernet = Supernet.load(file)
            supernet.head.bias.data += 1
            supernet.save(file, read_provenance(file))
            return self.make()

        def __exit__(self, *error):
            pass

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("psvit.search.ray_backend.RayEvaluator", Late)
    ended = call("psvit-search", "--supernet", "supernet", *SEARCH, "--workers", "ray", "--out", "search")
    assert ended.status == 2
    assert "supernet.safetensors: has changed on" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "search/best.yaml").exists()


@pytest.mark.parametrize(
    ("device", "scored_on", "gpus"), [("cuda", "cuda", 1), pytest.param(None, "cpu", 0, marks=pytest.mark.slow)]
)
def test_workers_may_have_gpus_where_the_search_has_none(
    searched, call, tmp_path, monkeypatch, device, scored_on, gpus
):
    made = []

    class Workers:
        """Stands in for workers on a cluster: on the CPU they score and train as this process would."""

        def __init__(self, make_evaluator, **options):
            made.append((type(make_evaluator), make_evaluator.device, options["gpus_per_worker"]))
            self.evaluator = replace(make_evaluator, device="cpu")()
            self.evaluate, self.describe = self.evaluator.evaluate, self.evaluator.describe

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    class Trials:
        """Stands in for trials on a cluster; what is done last comes first."""

        def __init__(self, address, gpus):
            self.gpus = gpus

        def at_once(self):
            return 2

        def run(self, work, items):
            made.append((type(work), work.device, self.gpus))
            jobs = pickle.loads(pickle.dumps(list(items)))
            assert len(pickle.dumps(work)) < 4000, "images and weights are read where the work is done"
            return reversed(list(LocalExecutor().run(replace(work, device="cpu"), jobs)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("psvit.executors.ray_cluster.check_cluster", lambda address: None)
    monkeypatch.setattr("psvit.executors.ray_cluster.connected", contextlib.nullcontext)
    monkeypatch.setattr("psvit.search.ray_backend.RayEvaluator", Workers)
    monkeypatch.setattr("psvit.executors.ray_trials.RayExecutor", Trials)
    options = ("--workers", "ray://head:10001", *(("--device", device) if device else ()))
    ended = call("psvit-search", "--supernet", searched / "supernet", *SEARCH, *options, "--out", "search")
    assert ended.status == 0, ended.err
    # Once for each of the two rungs.
    assert made == [(Scoring, scored_on, gpus), *[(JobRunner, scored_on, gpus)] * 2]
    assert yaml.safe_load((tmp_path / "search/config.yaml").read_text())["device"] == scored_on
    for name in ("history.csv", "best.safetensors"):
        assert (tmp_path / "search" / name).read_bytes() == (searched / name).read_bytes(), name
    found, alone = (
        ArchitectureFile.load(folder / "best.yaml").provenance["finalists"]
        for folder in (tmp_path / "search", searched)
    )
    assert found == alone
    assert not (tmp_path / "search/selection").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray in commands")
def test_a_search_on_a_cluster_finds_and_trains_the_same_finalists(searched, script, tmp_path):
    command = [script("psvit-search"), "--supernet", searched / "supernet", *SEARCH, "--workers", "ray", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found, alone = (
        {
            one["trial"]: one["looks"][-1]["accuracies"]
            for one in ArchitectureFile.load(run / "best.yaml").provenance["finalists"]
        }
        for run in (tmp_path / "run", searched)
    )
    assert set(found) == set(alone)
    for trial, accuracies in found.items():
        # Each worker computes with one thread, which may round otherwise.
        assert accuracies == pytest.approx(alone[trial], abs=10)
    assert not (tmp_path / "run/ray").exists()
    assert not (tmp_path / "run/selection").exists()


def test_without_images_a_training_free_indicator_scores_and_says_so(call, tmp_path):
    done = call("psvit-search", "--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 5, "--out", "run")
    assert done.status == 0
    files = {".psvit.lock", "config.yaml", "best.yaml", "best.svg", "history.csv", "result.json", "space.yaml"}
    files.add("study.journal")
    assert set(contents(tmp_path / "run")) - FIGURES == files
    assert "training-free indicator" in done.out
    assert "training-free indicator" in ArchitectureFile.load(tmp_path / "run/best.yaml").score["kind"]
    assert next_command(done.last_line) == ["psvit-retrain", "run/best.yaml", "--data", "DATA"]


def test_the_report_repeats_the_command_without_its_password(call, tmp_path, monkeypatch):
    given = ["--budget", "1MFLOPs", "--storage", "postgresql://me:hunter2@host/psvit", "--out", "my run"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/psvit-search", *given])
    done = call("psvit-search", "--space", "psvit-2d-digits", *SEARCH[:4], "--storage", "a.journal", "--out", "run")
    assert done.status == 0
    report = (tmp_path / "run/report.html").read_text()
    shown = "psvit-search --budget 1MFLOPs --storage &#39;postgresql://me:***@host/psvit&#39; --out &#39;my run&#39;"
    assert shown in report
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


@pytest.mark.usefixtures("quick_indicator")
@pytest.mark.parametrize("searcher", ["evolution", "optuna-nsga2"])
def test_searchers_stay_within_several_budgets(call, tmp_path, searcher):
    done = call(
        *("psvit-search", "--space", "psvit-2d-digits", "--searcher", searcher, "--trials", 36),
        *("--budget", "0.9..1.1MFLOPs", "--budget", "90..100kparams", "--budget", "36kB", "--out", "run"),
    )  # fmt: skip
    assert done.status == 0
    with (tmp_path / "run/history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["index"] for row in rows}) == 36
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


@pytest.mark.usefixtures("quick_indicator")
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
    briefly = (word.replace("--set", "--supernet-set") for word in brief)
    found = call("psvit-search", "--data", data, "--evaluator", "inherited", *SEARCH, *briefly, "--out", "search")
    assert found.status == 0
    arch = ArchitectureFile.load(tmp_path / "search/best.yaml").arch
    assert (arch.num_classes, arch.in_chans, arch.image_size) == (2, 3, (8, 8))
    assert SearchSpace.load(tmp_path / "search/space.yaml") == SearchSpace.load("psvit-2d-digits").with_data(2, 3)
    done = call("psvit-retrain", "search/best.yaml", "--data", data, *brief, "--out", "retrained")
    assert done.status == 0
    assert ArchitectureFile.load(tmp_path / "retrained/network.yaml").provenance["data"]["classes"] == ["cat", "dog"]


def test_the_line_to_go_on_with_can_be_pasted_when_names_have_spaces(image_folder, call, tmp_path):
    data = image_folder("my images")
    brief = ("--supernet-set", "epochs=1", "--supernet-set", "warmup_epochs=0", "--supernet-set", "batch_size=8")
    options = ("--budget", "1MFLOPs", "--trials", 1, "--finalists", 0, "--control", 0)
    found = call("psvit-search", "--data", data, "--evaluator", "inherited", *options, *brief, "--out", "my run")
    assert next_command(found.last_line) == ["psvit-retrain", "my run/best.yaml", "--data", str(data)]


def test_a_run_without_a_name_goes_where_the_same_command_finds_it(call, tmp_path):
    arguments = ("--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 3)
    first = call("psvit-search", *arguments)
    place = first.out.splitlines()[0].removeprefix("run: ")
    assert (tmp_path / place / "best.yaml").exists()
    again = call("psvit-search", *arguments)
    # What was planned is not said again, but what was found is.
    assert again.out.splitlines()[0] == first.out.splitlines()[0]
    assert first.out.endswith("".join(again.out.splitlines(keepends=True)[2:]))
    assert call("psvit-search", *arguments, "--seed", 1).out.splitlines()[0] != first.out.splitlines()[0]


def test_racing_keeps_all_finalists(searched, call, monkeypatch):
    """Or there would not be so many to choose from: of those beyond the best ten not all images are known."""
    told, evaluate = [], InheritedAccuracy.evaluate

    def remember(self, archs, best=()):
        told.append((len(best), self._race.keep))
        return evaluate(self, archs, best)

    monkeypatch.setattr(InheritedAccuracy, "evaluate", remember)
    monkeypatch.setattr("psvit.search.selection.selection.select", lambda finalists, *args, **kwargs: finalists)
    options = ("--budget", "1MFLOPs", "--trials", 40, "--control", 0, "--finalists", 14, *SHORT)
    assert call("psvit-search", "--supernet", searched / "supernet", *options, "--out", "run").status == 0
    assert told == [(0, 14), (14, 14)]


def test_the_configuration_of_a_run_is_written_with_defaults_resolved(searched):
    config = yaml.safe_load((searched / "config.yaml").read_text())
    assert config["command"] == "psvit-search"
    assert config["space"] == "psvit-2d-digits"
    assert config["budget"] == ["1MFLOPs"]
    assert config["searcher"] == "evolution"
    assert (config["seed"], config["device"], config["finalists"]) == (0, "cpu", 2)
    assert config["race"]["keep"] == 10
    assert (config["searcher_parameters"]["parents"], config["training"]["opt"]) == (10, "adamw")
    # A search may go on for longer, and elsewhere.
    assert not {"trials", "control", "seconds", "workers", "storage", "share_prefixes"} & set(config)
    assert (config["supernet_recipe"]["epochs"], config["supernet_recipe"]["opt"]) == (2, "adamw")


def config_of(report):
    """The configuration that a report shows."""
    text = report.read_text()
    begin = text.index('<pre class="config"')
    return yaml.safe_load(html.unescape(text[text.index(">", begin) + 1 : text.index("</pre>", begin)]))


def test_a_report_shows_the_full_configuration_and_what_may_change_is_not_refused(searched, call, tmp_path):
    shown, kept = config_of(searched / "report.html"), yaml.safe_load((searched / "config.yaml").read_text())
    assert {name: shown[name] for name in kept if name not in ("schema", "command")} == {
        name: value for name, value in kept.items() if name not in ("schema", "command")
    }
    assert (shown["trials"], shown["control"], shown["seconds"], shown["share_prefixes"]) == (8, 2, None, True)
    assert (shown["workers"], shown["storage"], shown["study"]) == (None, None, None)
    command = ("psvit-search", "--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--out", "run")
    assert call(*command, "--trials", 4).status == 0
    longer = ("--trials", 6, "--time", "1h", "--no-sharing", "--storage", "shared.journal", "--study", "ours")
    assert call(*command, *longer).status == 0
    shown = config_of(tmp_path / "run/report.html")
    assert (shown["trials"], shown["control"], shown["seconds"]) == (6, "25% of those evaluated", 3600.0)
    assert (shown["share_prefixes"], shown["storage"], shown["study"]) == (False, "shared.journal", "ours")
    # Nothing is trained here, so it is not said that five are.
    assert (shown["finalists"], shown["training"]) == (0, None)


def test_a_front_has_no_finalists_and_a_report_no_password():
    asked = SearchRequest(
        space="psvit-2d-digits",
        budget=("1MFLOPs",),
        data="digits",
        evaluator=None,
        supernet=None,
        init=None,
        init_weights=None,
        depths=None,
        recipe=None,
        settings=None,
        image_size=None,
        searcher="evolution",
        objectives=("accuracy",),
        trials=8,
        seconds=None,
        finalists=5,
        supernet_recipe=None,
        supernet_settings=None,
        inherit=False,
        control=None,
        latency=(),
        share_prefixes=True,
        race=True,
        storage="postgresql://me:hunter2@host/psvit",
        study=None,
        workers=None,
        seed=0,
        device="cpu",
    )
    plan = plan_search(asked)
    assert plan.full_config["storage"] == "postgresql://me:***@host/psvit"
    assert (plan.config["finalists"], plan.config["training"]["epochs"]) == (5, 11)
    several = plan_search(replace(asked, objectives=("accuracy", "macs")))
    assert (several.config["finalists"], several.config["training"]["epochs"]) == (0, 11)


# --- longer searches, several objectives, all of a space


def rows_of(folder):
    with (folder / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_more_trials_continue_a_finished_search_with_its_finalists(searched, call, tmp_path, monkeypatch, few_digits):
    shutil.copytree(searched, tmp_path / "run")
    before = rows_of(searched)
    trained, train = [], job_runner.train

    def remember(*args, folder, **kwargs):
        trained.append(folder.name)
        return train(*args, folder=folder, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    monkeypatch.setattr(supernet_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    more = ("--budget", "1MFLOPs", "--trials", 16, "--finalists", 2, *SHORT)  # and a control that is longer by default
    done = call("psvit-search", "--data", few_digits, *BY_SUPERNET, *more, "--out", "run")
    assert (done.status, done.err) == (0, "")
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 16
    assert rows[:8] == before
    found = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert (found.provenance["trials"], len(found.provenance["finalists"])) == (16, 2)
    # Finalists that were trained before are not trained again.
    known, now = (
        {one["trial"]: one["looks"] for one in ArchitectureFile.load(folder / "best.yaml").provenance["finalists"]}
        for folder in (searched, tmp_path / "run")
    )
    assert all(now[trial] == known[trial] for trial in now if trial in known)
    entered = [now[trial] for trial in now if trial not in known]
    assert len(trained) == sum(len(look["accuracies"]) for looks in entered for look in looks)


@pytest.mark.usefixtures("quick_indicator")
def test_a_small_budget_is_enumerated_and_its_front_is_the_true_one(call, tmp_path):
    done = call(
        *("psvit-search", "--space", "psvit-2d-digits", "--budget", "0..0.28MFLOPs", "--searcher", "enumerate"),
        *("--objectives", "accuracy,macs,params", "--out", "run"),
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    rows = rows_of(tmp_path / "run")
    space = SearchSpace.load("psvit-2d-digits")
    within = [i for i in range(space.size) if cost(space[i]).macs <= 280_000]
    assert sorted(int(row["index"]) for row in rows) == within
    points = [(float(row["score"]), -int(row["macs"]), -int(row["num_params"])) for row in rows]
    true = {
        point
        for point in points
        if not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)
    }
    files = sorted((tmp_path / "run/pareto").iterdir())
    assert [path.stem for path in files] == [f"{i:0{len(str(len(files) - 1))}}" for i in range(len(files))]
    front = [ArchitectureFile.load(path) for path in files]
    assert {(one.score["value"], -cost(one.arch).macs, -cost(one.arch).num_params) for one in front} == true
    scores = [one.score["value"] for one in front]
    assert scores == sorted(scores, reverse=True)
    for one in front:
        objectives = one.score["objectives"]
        assert objectives == {
            "accuracy": one.score["value"],
            "macs": cost(one.arch).macs,
            "params": cost(one.arch).num_params,
        }
    # The winner is its first, which has the best score.
    assert ArchitectureFile.load(tmp_path / "run/best.yaml").arch == front[0].arch
    assert f"found a Pareto front of {len(front)}: run/pareto" in done.out
    assert psvit.create_model(files[-1]).arch == front[-1].arch
    # Again, the same files.
    before = contents(tmp_path / "run/pareto")
    again = call(
        *("psvit-search", "--space", "psvit-2d-digits", "--budget", "0..0.28MFLOPs", "--searcher", "enumerate"),
        *("--objectives", "accuracy,macs,params", "--out", "run"),
    )  # fmt: skip
    assert done.out.endswith("".join(again.out.splitlines(keepends=True)[2:]))
    assert f"found a Pareto front of {len(front)}: run/pareto" in again.out
    assert contents(tmp_path / "run/pareto") == before


def test_every_point_of_a_front_has_the_weights_it_inherits_and_can_be_trained_from_them(
    searched, call, tmp_path, few_digits
):
    search = ("psvit-search", "--supernet", searched / "supernet", "--budget", "0..1MFLOPs", "--trials", 8)
    done = call(*search, "--objectives", "accuracy,macs", "--control", 2, "--out", "run")
    assert (done.status, done.err) == (0, "")
    files = sorted((tmp_path / "run/pareto").glob("*.yaml"))
    assert len(files) > 1
    expected = {file.name for file in files} | {file.with_suffix(".safetensors").name for file in files}
    assert {file.name for file in (tmp_path / "run/pareto").iterdir()} == expected
    supernet = Supernet.load(searched / "supernet")
    for file in files:
        found, weights = ArchitectureFile.load(file), load_file(file.with_suffix(".safetensors"))
        inherited = supernet.extract(found.arch).state_dict()
        assert weights.keys() == inherited.keys()
        assert all(torch.equal(weights[name], inherited[name]) for name in weights)
    best = tmp_path / "run/best.safetensors"
    assert best.read_bytes() == files[0].with_suffix(".safetensors").read_bytes()
    still = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "lr=1e-9", "--set", "ema_decay=null")
    trained = call("psvit-retrain", *files[:2], "--data", few_digits, "--inherit", *still, "--out", "networks")
    assert trained.status == 0, trained.err
    with (tmp_path / "networks/networks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # Nothing is learnt, so what begins with the inherited weights ends with them.
    assert [row["fine_tuned"] for row in rows] == [row["inherited"] for row in rows]
    assert all(float(row["inherited"]) > 0 for row in rows)


def test_a_control_is_no_part_of_the_history(call, tmp_path):
    arguments = ("psvit-search", "--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 8)
    for control in (0, 6):
        assert call(*arguments, "--control", control, "--out", f"{control}").status == 0
    assert (tmp_path / "0/history.csv").read_bytes() == (tmp_path / "6/history.csv").read_bytes()
    assert (tmp_path / "0/best.yaml").read_bytes() == (tmp_path / "6/best.yaml").read_bytes()
    assert (tmp_path / "6/study.journal").read_bytes().count(b'"origin"') == 14
